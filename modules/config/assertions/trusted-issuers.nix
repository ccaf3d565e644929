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
      inherit (topology.mistakenAccess trusted) needUsers unknownScopes unknownServers;
      keys = lib.mapNullable lib.readFile trusted.keysFile;
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
        assertion = needUsers == [ ];
        message = "${option}.${name}.servers: \"${toString needUsers}\" needs `userCredentials`, which only users can provide.";
      }
      {
        assertion = unknownServers != [ ] || unknownScopes == [ ];
        message = "${option}.${name}.scopes: none of its servers has \"${toString unknownScopes}\"; define it in `servers.NAME.scopes`.";
      }
      {
        # As far as it can be seen here; the auth service looks closer, when its settings are built.
        assertion = keys != null -> lib.hasPrefix "{" (lib.trim keys) && lib.hasInfix "\"keys\"" keys;
        message = "${option}.${name}.keysFile: ${baseNameOf trusted.keysFile} is not a JWK set, a JSON object with the member \"keys\".";
      }
    ];

  # A subject of GitHub Actions is repo:OWNER/REPO:CONTEXT, unless the repository or its owner has chosen another form.
  doubtsAbout =
    name: trusted:
    map
      (doubt: ''
        ${option}.${name}.subjects: ${doubt}.
        Write for example "repo:OWNER@OWNERID/REPO@REPOID:ref:refs/heads/main", or without the ids for an older
        repository. The error that a refused job gets names its subject.
      '')
      (
        lib.concatMap (
          subject:
          let
            parts = lib.splitString ":" subject;
            isOf = length: lib.head parts == "repo" && lib.length parts == length;
          in
          lib.optional (lib.length parts == 1) "\"${subject}\" matches no job of GitHub"
          ++ lib.optional (isOf 2) "\"${subject}\" matches no job of GitHub, as their subjects usually go on after the repository"
          ++
            lib.optional (isOf 3 && lib.last parts == "*")
              "\"${subject}\" matches jobs of pull requests alone, as `*` matches no `:` of a branch, tag or environment"
        ) trusted.subjects
      );
in
{
  config = lib.mkIf cfg.enable {
    assertions = lib.concatLists (lib.mapAttrsToList of cfg.trustedIssuers);
    warnings = lib.concatLists (
      lib.mapAttrsToList doubtsAbout (
        lib.filterAttrs (
          _: { issuer, ... }: issuer == "https://token.actions.githubusercontent.com"
        ) cfg.trustedIssuers
      )
    );
  };
}
