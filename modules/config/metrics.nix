# What scrapes and shows the metrics: Prometheus, node exporter and Grafana of this host.
{
  config,
  gatewayLib,
  lib,
  ...
}:
let
  cfg = config.services.mcp-oauth-gateway;
  inherit (cfg) metrics;
  inherit (gatewayLib) topology;
  inherit (config.services.prometheus.exporters) node;

  isHere = host: topology.isSingle || host == cfg.hostName;
  mkPart = part: labels: targets: {
    inherit targets;
    labels = labels // {
      inherit part;
    };
  };

  authServices =
    isIncluded:
    if topology.isSingle then
      [ cfg.settings.listen ]
    else
      lib.mapAttrsToList (_: host: topology.authority host.address cfg.port) (
        lib.filterAttrs (name: _: isIncluded name) (topology.hostsWith "auth")
      );
  routers = lib.optional (
    topology.has "router" && metrics.enable
  ) "127.0.0.1:${toString metrics.port}";
  replicasOf =
    isIncluded: server: lib.filter (replica: isIncluded replica.host) (topology.replicasOf server);
  addressOf = replica: topology.authority replica.address replica.port;
  bridgesOf =
    isIncluded: servers:
    lib.mapAttrsToList (
      server: options: mkPart "bridge" { inherit server; } (map addressOf (replicasOf isIncluded options))
    ) servers;
  # Scraped at the status service, as a bridge that is asleep would wake; the labels are those of the bridge.
  sleepersOf =
    isIncluded:
    lib.concatLists (
      lib.mapAttrsToList (
        server: options:
        map (
          replica:
          mkPart "bridge" {
            inherit server;
            instance = addressOf replica;
            __metrics_path__ = "/${topology.bridgeUnit server replica}/metrics";
          } [ (topology.statusAddressOf replica.host) ]
        ) (replicasOf isIncluded options)
      ) topology.sleepers
    );

  othersOf = isIncluded: [
    (mkPart "auth" { } (authServices isIncluded))
    (mkPart "router" { } routers)
  ];
  used = lib.filter (group: group.targets != [ ]);
  partsOf =
    isIncluded:
    used (
      othersOf isIncluded
      ++ bridgesOf isIncluded (removeAttrs topology.bridged (lib.attrNames topology.sleepers))
      ++ sleepersOf isIncluded
    );

  # The gateway's units, without the instances of servers' processes: each would be a series of its own.
  units = "(mcp-(auth-service|bridge|egress|gateway|identity|oauth-gateway).*|redis-mcp-oauth-gateway|traefik)[.](service|socket|timer)";
in
{
  config = lib.mkIf cfg.enable {
    services.mcp-oauth-gateway.metrics = {
      enable = lib.mkIf metrics.prometheus.enable (lib.mkDefault true);
      targets = lib.concatMap (group: group.targets) (
        used (othersOf isHere ++ bridgesOf isHere topology.bridged)
      );
    };

    services.prometheus = lib.mkMerge [
      (lib.mkIf metrics.prometheus.enable {
        # The alerts and the dashboard rely on the names of jobs and labels.
        scrapeConfigs = [
          {
            job_name = "mcp-gateway";
            static_configs = partsOf (host: metrics.prometheus.allHosts || isHere host);
          }
        ]
        ++ lib.optional node.enable {
          job_name = "mcp-gateway-host";
          params."collect[]" = [
            "filesystem"
            "systemd"
            "textfile"
          ];
          static_configs = [
            {
              targets = [
                "${
                  if
                    lib.elem node.listenAddress [
                      ""
                      "0.0.0.0"
                      "[::]"
                    ]
                  then
                    "127.0.0.1"
                  else
                    node.listenAddress
                }:${toString node.port}"
              ];
            }
          ];
          metric_relabel_configs = [
            {
              source_labels = [
                "__name__"
                "name"
              ];
              regex = "(mcp_gateway|node_filesystem|node_textfile)_.*|node_systemd_unit_state;${units}";
              action = "keep";
            }
          ];
        };

        exporters.node = {
          enable = lib.mkDefault true;
          listenAddress = lib.mkDefault "127.0.0.1";
          enabledCollectors = [ "systemd" ];
          extraFlags = lib.optional (
            cfg.health.enable && topology.has "auth"
          ) "--collector.textfile.directory=/var/lib/mcp-gateway-health";
        };
      })

      (lib.mkIf metrics.alerts.enable { ruleFiles = [ ../../monitoring/alerts.yaml ]; })
    ];

    services.grafana.provision = lib.mkIf metrics.dashboard.enable {
      enable = lib.mkDefault true;
      dashboards.settings.providers = [
        {
          name = "mcp-oauth-gateway";
          options.path = ../../monitoring/dashboards;
        }
      ];
    };
  };
}
