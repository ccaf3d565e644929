# What would otherwise fail only at run time, or silently let nobody in.
{ config, lib, ... }:
let
  cfg = config.services.mcp-oauth-gateway;
  option = "services.mcp-oauth-gateway";
  github = cfg.identityProvider.github;

  lists = access: access.allowedUsers ++ access.allowedOrganizations ++ access.allowedTeams;
  hostName = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?";

  # Names by the value that they share, where more than one does.
  clashes =
    valueOf: servers:
    lib.filterAttrs (_: names: lib.length names > 1) (
      lib.groupBy (name: toString (valueOf servers.${name})) (lib.attrNames servers)
    );
  bridged = lib.filterAttrs (_: server: server.url == null) cfg.servers;

  perServer = name: server: [
    {
      assertion = builtins.match hostName name != null;
      message = "${option}.servers.${name}: the name becomes part of a host name and must be lower-case letters, digits and inner hyphens.";
    }
    {
      assertion = (server.command == [ ]) != (server.url == null);
      message = "${option}.servers.${name}: set exactly one of `command` and `url`.";
    }
  ];
in
{
  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = builtins.match "(${hostName}\\.)+${hostName}" cfg.domain != null;
        message = "${option}.domain: \"${cfg.domain}\" is not a domain name such as mcp.example.com.";
      }
      {
        assertion = cfg.servers != { };
        message = "${option}.servers: name at least one MCP server.";
      }
      {
        assertion = github.clientId != null && github.clientSecretFile != null;
        message = "${option}.identityProvider.github: set `clientId` and `clientSecretFile`, or nobody could log in.";
      }
      {
        assertion = (cfg.certificate.certFile == null) == (cfg.certificate.keyFile == null);
        message = "${option}.certificate: set both `certFile` and `keyFile`, or neither.";
      }
      {
        assertion = (cfg.acme.email != null) != (cfg.certificate.certFile != null);
        message = "${option}: set exactly one of `acme.email` and `certificate.certFile`.";
      }
    ]
    ++ lib.concatLists (lib.mapAttrsToList perServer cfg.servers)
    ++ lib.mapAttrsToList (url: names: {
      assertion = false;
      message = "${option}.servers: ${lib.concatStringsSep " and " names} have the same URL, ${url}.";
    }) (clashes (server: server.publicUrl) cfg.servers)
    ++ lib.mapAttrsToList (port: names: {
      assertion = false;
      message = "${option}.servers: ${lib.concatStringsSep " and " names} have the same port, ${port}; set `port` of one of them.";
    }) (clashes (server: server.port) bridged);

    warnings = lib.optional (lib.all (access: lists access == [ ]) ([ github ] ++ lib.attrValues cfg.servers)) ''
      ${option}: every allow-list is empty, so nobody can log in.
      Name someone in `identityProvider.github.allowedUsers`, `allowedOrganizations` or `allowedTeams`.
    '';
  };
}
