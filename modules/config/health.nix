# Asks every server, as a client would, whether it answers.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.services.mcp-oauth-gateway;
  topology = import ../lib/topology.nix { inherit lib cfg; };
  hardening = import ../lib/hardening.nix;
  servers = lib.attrNames cfg.settings.resources;
  identityUnits = map (name: "mcp-identity-${name}.service") servers;
in
{
  options.services.mcp-oauth-gateway.health = {
    enable = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = ''
        Whether each server is opened as a client would, on the host with the auth service. Results are in the journal of
        `mcp-gateway-health` and, for node exporter's textfile collector, in
        {file}`/var/lib/mcp-gateway-health/mcp-gateway.prom`. The unit fails while a server does not answer.
      '';
    };

    interval = mkOption {
      type = types.str;
      default = "5min";
      example = "1h";
      description = "How often, as {manpage}`systemd.time(7)` writes it. A server that nobody uses is started for it once an hour at most: otherwise its bridge says when it last answered.";
    };

    onFailure = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "alert@mcp-gateway-health.service" ];
      description = "Units to start when a server does not answer.";
    };
  };

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
      serviceConfig =
        hardening.unit cfg
        // hardening.relax.network
        // {
          Type = "oneshot";
          ExecStart = "${lib.getExe' cfg.package "mcp-gatewayctl"} health --settings /etc/mcp-oauth-gateway/settings.json --identity-keys %d --max-age 3600 --metrics-file %S/mcp-gateway-health/mcp-gateway.prom";
          # It talks to servers: what it holds is of no use at any other than the one it is for.
          LoadCredential = map (name: "identity-${name}:/run/mcp-oauth-gateway/identity-${name}") servers;
          # A user of its own, since nobody else could enter a dynamic one's directory: node exporter reads it.
          User = "mcp-gateway-health";
          Group = "mcp-gateway-health";
          StateDirectory = "mcp-gateway-health";
          StateDirectoryMode = "0755";
          UMask = "0022";
          TimeoutStartSec = "5min";
        };
    };
  };
}
