# Asks every server, as a client would, whether it answers.
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
          # It talks to servers: what it holds is of no use at any other than the one it is for.
          LoadCredential = map (name: "identity-${name}:${keys.identityKeyFile name}") servers;
          # A user of its own, since nobody else could enter a dynamic one's directory: node exporter reads it.
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
