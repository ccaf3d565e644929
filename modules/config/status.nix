# The status service: asks systemd before it asks a bridge, so that no check wakes one that is asleep.
{
  config,
  gatewayLib,
  lib,
  ...
}:
let
  cfg = config.services.mcp-oauth-gateway;
  inherit (gatewayLib) hardening topology units;
  inherit (topology) statusUnit;

  bridges = gatewayLib.checkedJson {
    name = "status.json";
    value = lib.listToAttrs (
      lib.concatLists (
        lib.mapAttrsToList (
          name: server:
          map (replica: {
            name = topology.bridgeUnit name replica;
            value = {
              url = "http://${topology.authority replica.address replica.port}";
              socket = "${topology.bridgeSocket name replica}.socket";
            };
          }) (topology.replicasHere server)
        ) topology.sleepersHere
      )
    );
    check = null;
  };
in
{
  config = lib.mkIf (cfg.enable && topology.sleepersHere != { }) {
    # To be read; the service is started with the file itself, and restarted where that changes.
    environment.etc."mcp-oauth-gateway/status.json".source = bridges;

    users.users.${statusUnit} = {
      isSystemUser = true;
      group = statusUnit;
    };
    users.groups.${statusUnit} = { };

    systemd.services.${statusUnit} = {
      description = "Status of the MCP servers' bridges";
      requires = [ "${statusUnit}.socket" ];
      after = [ "${statusUnit}.socket" ];
      # Questions wait in the socket meanwhile.
      stopIfChanged = false;
      startLimitIntervalSec = 0;
      serviceConfig = hardening.asDefaults (
        hardening.unit
        // hardening.relax.network
        // hardening.restart
        // {
          ExecStart = "${lib.getExe' cfg.package "mcp-bridge-status"} --config ${bridges}";
          # It exits when nobody asks, and its socket starts it again.
          Restart = "on-failure";
          # Not a dynamic user, whom a bus without nss-systemd does not know, and refuses.
          User = statusUnit;
          Group = statusUnit;
          MemoryMax = "256M";
          TasksMax = 128;
        }
      );
    };

    systemd.sockets.${statusUnit} = {
      description = "Status of the MCP servers' bridges";
      wantedBy = [ "sockets.target" ];
      onFailure = [ (units.recoveryOf statusUnit) ];
      startLimitIntervalSec = 0;
      listenStreams = [ (topology.statusAddressOf cfg.hostName) ];
      socketConfig = hardening.asDefaults (hardening.socket // topology.socketConfig);
    };
  };
}
