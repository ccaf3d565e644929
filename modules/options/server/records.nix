# What the records of one server's calls have, and how its bridge is told.
{
  config,
  gateway,
  gatewayLib,
  lib,
  name,
  ...
}:
let
  ifRecorded = value: if gateway.records.enable then value else null;
in
{
  options.records.arguments = lib.mkOption {
    type = lib.types.enum [
      "none"
      "digest"
      "full"
    ];
    default = gateway.records.arguments;
    defaultText = lib.literalExpression "config.services.mcp-oauth-gateway.records.arguments";
    example = "full";
    description = ''
      What records of this server's calls have of their arguments. Warning: with `full`, secrets and personal data in
      arguments are in the journal. See {option}`services.mcp-oauth-gateway.records.arguments`.
    '';
  };

  config.settings = lib.mkIf (config.url == null) (
    lib.mapAttrs (_: lib.mkDefault) {
      call-records = ifRecorded "unix:${gatewayLib.units.callJournal}/stdout";
      record-arguments = ifRecorded config.records.arguments;
      server-name = ifRecorded name;
    }
  );
}
