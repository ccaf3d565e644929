# The health check: opens a session with every server, as a client does.
{
  config,
  gatewayLib,
  lib,
  ...
}:
let
  cfg = config.services.mcp-oauth-gateway;
  inherit (gatewayLib) hardening keys topology;
  servers = lib.attrNames cfg.settings.resources;
  identityUnits = map (name: "${keys.identityKeyUnit name}.service") servers;
in
{
  config = lib.mkIf (cfg.enable && cfg.health.enable && topology.has "auth") {
    users.users.mcp-gateway-health = {
      isSystemUser = true;
      group = "mcp-gateway-health";
    };
    users.groups.mcp-gateway-health = { };

    systemd.timers.mcp-gateway-health = {
      description = "Health of the MCP servers";
      wantedBy = [ "timers.target" ];
      timerConfig = {
        OnActiveSec = cfg.health.interval;
        OnUnitActiveSec = cfg.health.interval;
        AccuracySec = "10s";
      };
    };

    systemd.services.mcp-gateway-health = {
      description = "Health of the MCP servers";
      after = [ "mcp-auth-service.service" ] ++ identityUnits;
      requires = identityUnits;
      inherit (cfg.health) onFailure;
      environment.REQUESTS_CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt";
      serviceConfig = hardening.asDefaults (
        hardening.unit
        // hardening.relax.network
        // {
          Type = "oneshot";
          ExecStart = "${lib.getExe' cfg.package "mcp-gatewayctl"} health --settings /etc/mcp-oauth-gateway/settings.json --identity-keys %d --max-age 3600 --metrics-file %S/mcp-gateway-health/mcp-gateway.prom";
          # It talks to servers, so it gets one key for each of them, and not the master key.
          LoadCredential = map (name: "identity-${name}:${keys.identityKeyFile name}") servers;
          # Not a dynamic user, whose directory node exporter could not enter.
          User = "mcp-gateway-health";
          Group = "mcp-gateway-health";
          StateDirectory = "mcp-gateway-health";
          StateDirectoryMode = "0755";
          UMask = "0022";
          TimeoutStartSec = "5min";
        }
      );
    };
  };
}
