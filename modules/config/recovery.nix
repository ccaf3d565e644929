# A socket fails, and stays so, when systemd cannot load or start what it is for, runs out of descriptors, or finds the
# socket's address in use. This unit starts it again, for as long as it takes; until then connections are refused.
{
  config,
  gatewayLib,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.mcp-oauth-gateway;
  inherit (gatewayLib) hardening units;
in
{
  config = lib.mkIf cfg.enable {
    systemd.services."${units.recovery}@" = {
      description = "Pause before %i.socket is started again";
      # systemd itself starts the socket, so that the unit needs no right to.
      onSuccess = [ "%i.socket" ];
      startLimitIntervalSec = 0;
      serviceConfig = hardening.asDefaults (
        hardening.unit
        // {
          Type = "oneshot";
          DynamicUser = true;
          ExecStart = "${lib.getExe' pkgs.coreutils "sleep"} 2";
          # Where no process can be started, either.
          Restart = "on-failure";
          RestartSec = 2;
        }
      );
    };
  };
}
