# The egress proxies of servers with `sandbox.network.domains`: by them alone such a server reaches the internet.
{
  config,
  gatewayLib,
  lib,
  utils,
  ...
}:
let
  cfg = config.services.mcp-oauth-gateway;
  inherit (gatewayLib)
    hardening
    sandbox
    topology
    units
    ;
  inherit (hardening) asDefaults;

  proxied = lib.filterAttrs (
    _: server: sandbox.domainsOf server.sandbox != null
  ) topology.bridgedHere;

  proxy =
    name: server:
    let
      inherit (sandbox.networks name) internet;
    in
    {
      description = "Egress proxy of the MCP server ${name}";
      # Connections wait in the socket meanwhile.
      stopIfChanged = false;
      startLimitIntervalSec = 0;
      after = [ "nss-lookup.target" ];
      serviceConfig = asDefaults (
        hardening.base
        // hardening.journal
        // sandbox.isolated
        # The kernel lets nothing pass to the host or to private networks, whatever address a name has.
        // internet
        // {
          ExecStart = utils.escapeSystemdExecArgs (
            [ (lib.getExe' cfg.package "mcp-egress-proxy") ]
            ++ lib.concatMap (domain: [
              "--domain"
              domain
            ]) (sandbox.domainsOf server.sandbox)
          );
          Slice = units.sliceOf name;
          DynamicUser = true;
          IPAddressDeny = internet.IPAddressDeny ++ server.sandbox.denyAddresses;
          LimitNOFILE = 4096;
          MemoryMax = "256M";
          # Some look up names.
          TasksMax = 16;
          NoExecPaths = [
            "/dev/shm"
            "/tmp"
            "/var/tmp"
          ];
        }
      );
    };

  socket = name: _: {
    description = "Egress proxy of the MCP server ${name}";
    wantedBy = [ "sockets.target" ];
    onFailure = [ (units.recoveryOf (units.egressUnit name)) ];
    startLimitIntervalSec = 0;
    # In a directory that only root may enter, and that only processes of the server get to see.
    listenStreams = [ (units.egressSocket name) ];
    socketConfig = asDefaults hardening.socket;
  };
in
{
  config = lib.mkIf cfg.enable {
    systemd.services = lib.mapAttrs' (
      name: server: lib.nameValuePair (units.egressUnit name) (proxy name server)
    ) proxied;

    systemd.sockets = lib.mapAttrs' (
      name: server: lib.nameValuePair (units.egressUnit name) (socket name server)
    ) proxied;
  };
}
