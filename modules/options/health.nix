# The health check of the servers.
{ lib, ... }:
let
  inherit (lib) mkOption types;
in
{
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
      description = "Time between two checks, in the format of {manpage}`systemd.time(7)`. A server that is not in use is started at most once an hour for a check; in between, its bridge reports when it last answered.";
    };

    onFailure = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "alert@mcp-gateway-health.service" ];
      description = "Units to start if a server does not answer.";
    };
  };
}
