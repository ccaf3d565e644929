# Mistakes in `hosts`, if there are several.
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
      message = "${option}.hosts.${name}.address: \"${host.address}\" is not an IP address at which the other hosts can reach this host.";
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
        message = "${option}.hosts: does not contain this host, ${cfg.hostName}; see `hostName`.";
      }
      {
        assertion = haveRole "router" && haveRole "auth";
        message = "${option}.hosts: needs a host with the role `router` and one with the role `auth`.";
      }
      {
        assertion = lib.length topology.instances > 1 -> cfg.redis.url != null;
        message = "${option}.redis.url: must be set, because there are several hosts with the role `auth`; they need one Redis that all of them can reach.";
      }
      {
        assertion = cfg.masterKeyFile == null -> bridgesHaveKeys;
        message = "${option}.masterKeyFile: must be set, the same on all hosts. A host that runs only bridges may set `servers.<name>.identityKeyFile` instead.";
      }
      {
        assertion = topology.has "auth" -> cfg.masterKeyFile != null;
        message = "${option}.masterKeyFile: must be set, the same on all hosts.";
      }
    ]
    ++ lib.concatLists (lib.mapAttrsToList perHost cfg.hosts)
    ++ lib.mapAttrsToList (address: names: {
      assertion = false;
      message = "${names}: have the same address, ${address}.";
    }) clashes;
  };
}
