# Mistakes in the credentials that users provide to `servers`.
{
  config,
  gatewayLib,
  lib,
  ...
}:
let
  cfg = config.services.mcp-oauth-gateway;
  inherit (gatewayLib) checks topology;
  option = "services.mcp-oauth-gateway";

  perCredential =
    name: server: variable:
    { pattern, oauth, ... }:
    [
      {
        assertion = checks.isVariable variable;
        message = "${option}.servers.${name}.userCredentials.\"${variable}\": is not a name of an environment variable.";
      }
      {
        assertion = !checks.startsPrograms variable;
        message = "${option}.servers.${name}.userCredentials.${variable}: this variable decides how programs start, which no user may do.";
      }
      {
        assertion = !(server.environment ? ${variable});
        message = "${option}.servers.${name}.userCredentials.${variable}: `environment` has this variable, too.";
      }
      {
        assertion = oauth != null -> pattern == null;
        message = "${option}.servers.${name}.userCredentials.${variable}.pattern: with `oauth` no user enters a value that could be compared.";
      }
      {
        assertion = oauth.tokenEndpointAuthMethod or null != null -> oauth.clientSecretFile or null != null;
        message = "${option}.servers.${name}.userCredentials.${variable}.oauth.tokenEndpointAuthMethod: needs `clientSecretFile`.";
      }
    ];

  perServer =
    name: server:
    let
      hasBridge = server.userCredentials != { } && server.url == null;
    in
    [
      {
        assertion = hasBridge -> server.settings.isolation or null != "shared";
        message = "${option}.servers.${name}.userCredentials: need `isolation` \"per-session\" or \"per-user\", so that each process has one user.";
      }
      {
        assertion = hasBridge -> server.settings.warm-spares or 0 == 0;
        message = "${option}.servers.${name}.userCredentials: do not go with `warmSpares`, whose processes start before they have a user.";
      }
      {
        assertion = hasBridge -> server.settings.require-identity or null != null;
        message = "${option}.servers.${name}.userCredentials: do not go with `settings.no-identity`, with which the bridge knows no users.";
      }
      {
        assertion = hasBridge -> server.stateDirectory != true;
        message = "${option}.servers.${name}.userCredentials: do not go with `stateDirectory` true, in which a process of one user finds what another's has written; set \"per-user\" or false.";
      }
    ]
    ++ lib.concatLists (lib.mapAttrsToList (perCredential name server) server.userCredentials);
in
{
  config = lib.mkIf cfg.enable {
    assertions = lib.concatLists (lib.mapAttrsToList perServer topology.enabled);
  };
}
