# How the servers are asked whether they answer.
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
}
