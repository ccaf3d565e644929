# The health check of the servers.
{ lib, ... }:
let
  inherit (lib) mkOption types;
in
{
  options.services.mcp-oauth-gateway.statusPort = mkOption {
    type = types.port;
    default = 9001;
    example = 9011;
    description = ''
      Port of the status service of each host with bridges. It answers the health check, the home page and Prometheus for
      the bridges, and wakes none that sleeps. On loopback with a single host, else at the host's address.
    '';
  };

  options.services.mcp-oauth-gateway.health = {
    enable = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = ''
        Whether a timer on the host with the auth service opens a session with each server, as a client does. Results are in the
        journal of the unit `mcp-gateway-health` and, for node exporter's textfile collector, in
        {file}`/var/lib/mcp-gateway-health/mcp-gateway.prom`. The unit fails while a server does not answer.
      '';
    };

    interval = mkOption {
      type = types.str;
      default = "5min";
      example = "1h";
      description = "Time between two checks, in the format of {manpage}`systemd.time(7)`. A server that is not in use is started at most once an hour for a check, and not at all while its bridge is asleep; otherwise its bridge reports when it last answered.";
    };

    onFailure = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "alert@mcp-gateway-health.service" ];
      description = "Units to start if a server does not answer.";
    };
  };
}
