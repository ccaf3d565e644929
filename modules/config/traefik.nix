# Traefik's configuration. The routes come from the auth service, so a new server changes nothing here.
{
  config,
  gatewayLib,
  lib,
  ...
}:
let
  cfg = config.services.mcp-oauth-gateway;
  inherit (gatewayLib) hardening topology;
  inherit (gatewayLib.traefik) backendCredential backendFiles credentials;
  acme = cfg.acme.email != null;
  ownCertificate = cfg.certificate.certFile != null;
  resolver = "mcp-oauth-gateway";
  internal = "mcp-internal";
  loopback = port: "127.0.0.1:${toString port}";

  challenges = {
    http-01.httpChallenge.entryPoint = "web";
    tls-alpn-01.tlsChallenge = { };
    dns-01.dnsChallenge.provider = cfg.acme.dnsProvider;
  };

  static = lib.mkMerge [
    {
      global = {
        checkNewVersion = lib.mkDefault false;
        sendAnonymousUsage = lib.mkDefault false;
      };

      entryPoints = {
        web = {
          address = lib.mkDefault ":80";
          http.redirections.entryPoint = {
            to = lib.mkDefault "websecure";
            scheme = lib.mkDefault "https";
          };
        };
        websecure = {
          address = lib.mkDefault ":443";
          http = {
            ${if gatewayLib.traefik.knowsAliases then "aliasHeadersStrategy" else "underscoreHeadersStrategy"} =
              "delete";
            # A backend may decode these characters, and serve another path than the one that was verified.
            encodedCharacters = {
              allowEncodedSlash = false;
              allowEncodedBackSlash = false;
              allowEncodedNullCharacter = false;
              allowEncodedSemicolon = false;
              allowEncodedPercent = false;
              allowEncodedQuestionMark = false;
              allowEncodedHash = false;
            };
          };
        };
      };

      providers.http = {
        endpoint = "http://${loopback cfg.port}/routes";
        # After a reload of the auth service, clients see the change within this time.
        pollInterval = lib.mkDefault "500ms";
        pollTimeout = lib.mkDefault "5s";
      };
    }

    (lib.mkIf (cfg.trustedProxies != [ ]) {
      entryPoints = {
        web.forwardedHeaders.trustedIPs = cfg.trustedProxies;
        websecure.forwardedHeaders.trustedIPs = cfg.trustedProxies;
      };
    })

    (lib.mkIf (topology.instances != [ ]) {
      entryPoints.${internal} = {
        address = loopback cfg.port;
        # Only Traefik itself asks here: /verify needs the method and the URL that it forwards.
        forwardedHeaders.trustedIPs = [ "127.0.0.1/32" ];
      };
    })

    (lib.mkIf cfg.metrics.enable {
      entryPoints.mcp-metrics.address = loopback cfg.metrics.port;
      metrics.prometheus.entryPoint = "mcp-metrics";
    })

    (lib.mkIf (cfg.tracing.endpoint != null) {
      tracing = {
        sampleRate = lib.mkDefault cfg.tracing.sampleRatio;
        otlp.http.endpoint = cfg.tracing.endpoint;
      };
    })

    (lib.mkIf cfg.accessLog.enable {
      accessLog = {
        format = lib.mkDefault "json";
        fields = {
          headers.defaultMode = "drop";
          queryParameters.defaultMode = "drop";
        };
      };
    })

    (lib.mkIf acme {
      certificatesResolvers.${resolver}.acme = lib.mkMerge [
        {
          inherit (cfg.acme) email;
          storage = "${config.services.traefik.dataDir}/mcp-oauth-gateway-acme.json";
        }
        challenges.${cfg.acme.challenge}
        (lib.mkIf (cfg.acme.server != null) { caServer = cfg.acme.server; })
        (lib.mkIf (cfg.acme.caCertificates != [ ]) {
          # Interpolation copies a file of the configuration to the store.
          caCertificates = map (file: "${file}") cfg.acme.caCertificates;
        })
      ];
    })
  ];

  # Credentials, for servers given by `url`.
  backends = lib.concatLists (
    lib.mapAttrsToList (
      name: server:
      lib.mapAttrsToList (setting: file: "${backendCredential name setting}:${file}") (
        backendFiles server
      )
    ) topology.enabled
  );

  instances = {
    serversTransport = internal;
    servers = map (url: { inherit url; }) topology.instances;
  };

  dynamic = lib.mkMerge [
    (lib.mkIf ownCertificate {
      tls.certificates = [
        {
          certFile = "${credentials}/mcp-oauth-gateway.crt";
          keyFile = "${credentials}/mcp-oauth-gateway.key";
        }
      ];
    })

    # With several auth services one loopback address leads to one that is ready, or to any where none is: that
    # refuses requests in the form that their clients read.
    (lib.mkIf (topology.instances != [ ]) {
      http = {
        routers.${internal} = {
          rule = "PathPrefix(`/`)";
          priority = 1000000;
          entryPoints = [ internal ];
          # Only Traefik's own requests: they would add a line to every request of a client.
          observability.accessLogs = false;
          service = internal;
          middlewares = [ internal ];
        };
        middlewares.${internal}.retry = {
          attempts = 3;
          initialInterval = "20ms";
          # Also if a host stops answering: these requests change nothing, so they can be repeated.
          status = [
            "502"
            "504"
          ];
        };
        serversTransports.${internal}.forwardingTimeouts = {
          dialTimeout = "1s";
          responseHeaderTimeout = "2s";
        };
        services = {
          ${internal}.failover = {
            service = "${internal}-ready";
            fallback = "${internal}-any";
          };
          "${internal}-ready".loadBalancer = instances // {
            healthCheck = {
              path = "/readyz";
              interval = "1s";
              timeout = "2s";
            };
          };
          "${internal}-any".loadBalancer = instances;
        };
      };
    })
  ];
in
{
  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        services.mcp-oauth-gateway = {
          settings.router = {
            entry_points = lib.mkDefault [ "websecure" ];
            tls = lib.mkDefault true;
            hsts_seconds = lib.mkDefault cfg.hstsSeconds;
            trusted_proxies = lib.mkDefault cfg.trustedProxies;
            certificate_resolver = lib.mkIf acme (lib.mkDefault resolver);
          };
        };
      }

      (lib.mkIf (topology.has "router") {
        services.traefik = {
          enable = true;
          staticConfigOptions = static;
          dynamicConfigOptions = dynamic;
        };

        systemd.services.traefik = {
          # Traefik answers 404 until it has routes. This order avoids that during boot.
          after = lib.optional (topology.has "auth") "mcp-auth-service.service";
          # nixpkgs gives up for a day after five failures, for example if a certificate's file is not there yet. This
          # wins over its value, and an operator's mkForce over this.
          startLimitIntervalSec = lib.mkOverride 90 0;
          serviceConfig = lib.mkMerge [
            (hardening.asDefaults (removeAttrs hardening.restart [ "Restart" ]))
            hardening.journal
            (lib.mkIf (cfg.acme.environmentFile != null) { EnvironmentFile = [ cfg.acme.environmentFile ]; })
            # As credentials, the files need not be readable by Traefik's user.
            (lib.mkIf ownCertificate {
              LoadCredential = [
                "mcp-oauth-gateway.crt:${cfg.certificate.certFile}"
                "mcp-oauth-gateway.key:${toString cfg.certificate.keyFile}"
              ];
            })
            (lib.mkIf (backends != [ ]) { LoadCredential = backends; })
          ];
        };

        networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall [
          80
          443
        ];
      })
    ]
  );
}
