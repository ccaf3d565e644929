# services.prometheus with node exporter, and services.grafana, as nixpkgs has them: their configuration files, and no
# units but node exporter's.
{
  config,
  lib,
  pkgs,
  mkFile,
  ...
}:
let
  inherit (lib) mkOption types;
  inherit (config.services) grafana prometheus;
  inherit (prometheus.exporters) node;
  json = pkgs.formats.json { };

  strings = mkOption {
    type = types.listOf types.str;
    default = [ ];
  };
  orNull =
    type:
    mkOption {
      type = types.nullOr type;
      default = null;
    };

  relabelConfig = types.submodule {
    options = {
      source_labels = orNull (types.listOf types.str);
      separator = orNull types.str;
      target_label = orNull types.str;
      regex = orNull types.str;
      modulus = orNull types.int;
      replacement = orNull types.str;
      action = orNull (
        types.enum [
          "replace"
          "lowercase"
          "uppercase"
          "keep"
          "drop"
          "hashmod"
          "labelmap"
          "labeldrop"
          "labelkeep"
          "keepequal"
          "dropequal"
        ]
      );
    };
  };
  scrapeConfig = types.submodule {
    options = {
      job_name = mkOption { type = types.str; };
      scrape_interval = orNull types.str;
      metrics_path = orNull types.str;
      params = orNull (types.attrsOf (types.listOf types.str));
      static_configs = orNull (
        types.listOf (
          types.submodule {
            options = {
              targets = mkOption { type = types.listOf types.str; };
              labels = mkOption {
                type = types.attrsOf types.str;
                default = { };
              };
            };
          }
        )
      );
      relabel_configs = orNull (types.listOf relabelConfig);
      metric_relabel_configs = orNull (types.listOf relabelConfig);
    };
  };

  withoutNull =
    value:
    if lib.isAttrs value then
      lib.mapAttrs (_: withoutNull) (lib.filterAttrs (_: each: each != null) value)
    else if lib.isList value then
      map withoutNull value
    else
      value;

  # Interpolation copies a file or folder to the store.
  toStore = path: "/nix/store/${baseNameOf path}";
  prometheusFile = mkFile "prometheus.yml" (
    builtins.toJSON {
      rule_files = lib.optionals (!prometheus.enableAgentMode) (map toStore prometheus.ruleFiles);
      scrape_configs = withoutNull prometheus.scrapeConfigs;
    }
  );

  dashboards = grafana.provision.dashboards.settings;
  dashboardsFile = mkFile "dashboards.json" (
    builtins.toJSON {
      inherit (dashboards) apiVersion;
      providers = map (
        provider: provider // { options.path = toStore provider.options.path; }
      ) dashboards.providers;
    }
  );
in
{
  options.services = {
    prometheus = {
      enable = lib.mkEnableOption "Prometheus";
      enableAgentMode = lib.mkEnableOption "agent mode";
      ruleFiles = mkOption {
        type = types.listOf types.path;
        default = [ ];
      };
      scrapeConfigs = mkOption {
        type = types.listOf scrapeConfig;
        default = [ ];
      };
      exporters.node = {
        enable = lib.mkEnableOption "node exporter";
        port = mkOption {
          type = types.port;
          default = 9100;
        };
        listenAddress = mkOption {
          type = types.str;
          default = "0.0.0.0";
        };
        enabledCollectors = strings;
        disabledCollectors = strings;
        extraFlags = strings;
      };
    };

    grafana = {
      enable = lib.mkEnableOption "Grafana";
      provision = {
        enable = lib.mkEnableOption "provisioning";
        dashboards.settings = mkOption {
          type = types.nullOr (
            types.submodule {
              options = {
                apiVersion = mkOption {
                  type = types.int;
                  default = 1;
                };
                providers = mkOption {
                  type = types.listOf (
                    types.submodule {
                      freeformType = json.type;
                      options = {
                        name = mkOption {
                          type = types.str;
                          default = "default";
                        };
                        type = mkOption {
                          type = types.str;
                          default = "file";
                        };
                        options.path = mkOption { type = types.path; };
                      };
                    }
                  );
                  default = [ ];
                };
              };
            }
          );
          default = null;
        };
      };
    };
  };

  config = {
    systemd.services.prometheus-node-exporter = lib.mkIf node.enable {
      description = "Prometheus exporter for node metrics";
      wantedBy = [ "multi-user.target" ];
      after = [ "network.target" ];
      serviceConfig.ExecStart = lib.concatStringsSep " " (
        [ "${pkgs.prometheus-node-exporter}/bin/node_exporter" ]
        ++ map (collector: "--collector.${collector}") node.enabledCollectors
        ++ map (collector: "--no-collector.${collector}") node.disabledCollectors
        ++ [ "--web.listen-address ${node.listenAddress}:${toString node.port}" ]
        ++ node.extraFlags
      );
    };

    environment.etc = lib.listToAttrs (
      map (file: lib.nameValuePair file.key { inherit (file) text; }) (
        lib.optional prometheus.enable prometheusFile
        ++ lib.optional (grafana.enable && grafana.provision.enable && dashboards != null) dashboardsFile
      )
    );
  };
}
