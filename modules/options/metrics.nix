# Metrics, alerts and the dashboard: what Prometheus and Grafana of this host get.
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
      description = ''
        The addresses at which the gateway's programs on this host serve `/metrics`, for a Prometheus that
        {option}`metrics.prometheus.enable` does not configure. A scrape wakes a bridge that is asleep: for servers with
        {option}`servers.<name>.idleExit`, scrape `/mcp-bridge-NAME/metrics` at {option}`statusPort` instead.
      '';
    };

    prometheus = {
      enable = mkOption {
        type = types.bool;
        default = false;
        example = true;
        description = ''
          Whether this host's Prometheus ({option}`services.prometheus`) scrapes the gateway's programs on this host, all of
          them at addresses that only the host itself or its private network reaches. Also enables Traefik's metrics
          ({option}`metrics.enable`) and, on loopback, node exporter ({option}`services.prometheus.exporters.node`), which knows
          the results of the health check, the state of units and the space on disks.
        '';
      };

      allHosts = mkOption {
        type = types.bool;
        default = false;
        example = true;
        description = ''
          Whether Prometheus also scrapes the auth services and bridges of all other {option}`hosts`. This host must reach their
          ports ({option}`port`, and each server's). Traefik and node exporter are scraped on this host only.
        '';
      };
    };

    alerts.enable = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = ''
        Whether this host's Prometheus evaluates the gateway's alerts ({file}`monitoring/alerts.yaml`). Who is told of them is
        up to {option}`services.prometheus.alertmanagers`. Needs {option}`metrics.prometheus.enable`.
      '';
    };

    dashboard.enable = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = ''
        Whether this host's Grafana ({option}`services.grafana`) has the gateway's dashboard. It shows the data of any of
        Grafana's Prometheus data sources, the default one first.
      '';
    };
  };
}
