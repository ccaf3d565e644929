# Metrics for Prometheus.
{ lib, ... }:
let
  inherit (lib) mkOption types;
in
{
  options.services.mcp-oauth-gateway.metrics = {
    enable = lib.mkEnableOption "Prometheus metrics of Traefik. The auth service and the bridges always have theirs";

    port = mkOption {
      type = types.port;
      default = 9099;
      example = 9110;
      description = "Port of Traefik's `/metrics` on loopback.";
    };

    targets = mkOption {
      type = types.listOf types.str;
      readOnly = true;
      defaultText = lib.literalMD "every part of the gateway on this host";
      example = [ "127.0.0.1:9000" ];
      description = "The addresses at which the gateway's programs on this host serve `/metrics`, for
      {option}`services.prometheus.scrapeConfigs`.";
    };
  };
}
