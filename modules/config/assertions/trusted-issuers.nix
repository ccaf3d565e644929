# Mistakes in the issuers that the operator trusts.
{
  config,
  gatewayLib,
  lib,
  ...
}:
let
  cfg = config.services.mcp-oauth-gateway;
  inherit (gatewayLib) topology;
  option = "services.mcp-oauth-gateway.trustedIssuers";

  of =
    name: trusted:
    let
      unknownServers = lib.filter (server: !(topology.enabled ? ${server})) trusted.servers;
      known = lib.concatMap (server: topology.scopesOf topology.enabled.${server}) (
        lib.subtractLists unknownServers trusted.servers
      );
      unknownScopes = lib.subtractLists known trusted.scopes;
      same = lib.filterAttrs (
        _: other: other.issuer == trusted.issuer && other.audience == trusted.audience
      ) cfg.trustedIssuers;
    in
    [
      {
        assertion = lib.match "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?" name != null;
        message = "${option}.${name}: a name consists of lower-case letters, digits and hyphens.";
      }
      {
        assertion = lib.length (lib.attrNames same) == 1;
        message = "${option}.${name}.audience: must differ from that of other entries with the same issuer: ${toString (lib.attrNames same)}.";
      }
      {
        assertion = unknownServers == [ ];
        message = "${option}.${name}.servers: \"${toString unknownServers}\" is not in `servers`.";
      }
      {
        assertion = unknownServers != [ ] || unknownScopes == [ ];
        message = "${option}.${name}.scopes: none of its servers has \"${toString unknownScopes}\".";
      }
    ];
in
{
  config = lib.mkIf cfg.enable {
    assertions = lib.concatLists (lib.mapAttrsToList of cfg.trustedIssuers);
  };
}
