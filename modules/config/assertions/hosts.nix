# Mistakes in `hosts`, where there are several.
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

  haveRole = role: topology.hostsWith role != { };
  bridgesHaveKeys = lib.all (server: server.identityKeyFile != null) (
    lib.attrValues topology.bridgedHere
  );

  perHost = name: host: [
    {
      assertion = builtins.match "[a-z0-9-]{1,26}" name != null;
      message = "${option}.hosts.${name}: the name becomes part of session ids and must be at most 26 lower-case letters, digits and hyphens.";
    }
    {
      assertion = checks.isAddress host.address;
      message = "${option}.hosts.${name}.address: \"${host.address}\" is not an IP address at which others reach this host.";
    }
  ];

  clashes = checks.clashes (
    lib.mapAttrsToList (name: host: {
      name = "${option}.hosts.${name}.address";
      value = host.address;
    }) cfg.hosts
  );
in
{
  config = lib.mkIf (cfg.enable && !topology.isSingle) {
    assertions = [
      {
        assertion = topology.here != null;
        message = "${option}.hosts: this host, ${cfg.hostName}, is not among them; see `hostName`.";
      }
      {
        assertion = haveRole "router" && haveRole "auth";
        message = "${option}.hosts: one of them must have the role `router`, and one the role `auth`.";
      }
      {
        assertion = lib.length topology.instances > 1 -> cfg.redis.url != null;
        message = "${option}.redis.url: several hosts with the role `auth` need one Redis that all of them reach.";
      }
      {
        assertion = cfg.masterKeyFile == null -> bridgesHaveKeys;
        message = "${option}.masterKeyFile: several hosts need the same one; a host with bridges alone may have `servers.<name>.identityKeyFile` instead.";
      }
      {
        assertion = topology.has "auth" -> cfg.masterKeyFile != null;
        message = "${option}.masterKeyFile: several hosts need the same one.";
      }
    ]
    ++ lib.concatLists (lib.mapAttrsToList perHost cfg.hosts)
    ++ lib.mapAttrsToList (address: names: {
      assertion = false;
      message = "${names}: the same address, ${address}.";
    }) clashes;
  };
}
