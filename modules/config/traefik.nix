# The router's static configuration. Routes come from the auth service, so this changes with no server.
{
  config,
  gatewayLib,
  lib,
  ...
}:
let
  cfg = config.services.mcp-oauth-gateway;
  inherit (gatewayLib) hardening topology;
  acme = cfg.acme.email != null;
  ownCertificate = cfg.certificate.certFile != null;
  resolver = "mcp-oauth-gateway";
  internal = "mcp-internal";
  credentials = "/run/credentials/traefik.service";
  loopback = port: "127.0.0.1:${toString port}";

  version = lib.getVersion config.services.traefik.package;
  # WSGI folds X_User_Id, X.User.Id and X-User-Id into one name.
  knowsAliases = lib.versionAtLeast version "3.7.12";

  trusted = lib.optionalAttrs (cfg.trustedProxies != [ ]) {
    forwardedHeaders.trustedIPs = cfg.trustedProxies;
  };

  challenges = {
    http-01.httpChallenge.entryPoint = "web";
    tls-alpn-01.tlsChallenge = { };
    dns-01.dnsChallenge.provider = cfg.acme.dnsProvider;
  };

  static = {
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
      }
      // trusted;
      websecure = {
        address = lib.mkDefault ":443";
        http = {
          ${if knowsAliases then "aliasHeadersStrategy" else "underscoreHeadersStrategy"} = "delete";
          # Each stands for a character that a backend may read as another path than the one verified.
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
      }
      // trusted;
    }
    // lib.optionalAttrs (topology.instances != [ ]) { ${internal}.address = loopback cfg.port; }
    // lib.optionalAttrs cfg.metrics.enable { mcp-metrics.address = loopback cfg.metrics.port; };

    providers.http = {
      endpoint = "http://${loopback cfg.port}/routes";
      # Of what a reload changes, clients see it as late as this.
      pollInterval = lib.mkDefault "500ms";
      pollTimeout = lib.mkDefault "5s";
    };
  }
  // lib.optionalAttrs cfg.accessLog.enable {
    accessLog = {
      format = lib.mkDefault "json";
      fields = {
        headers.defaultMode = "drop";
        queryParameters.defaultMode = "drop";
      };
    };
  }
  // lib.optionalAttrs cfg.metrics.enable { metrics.prometheus.entryPoint = "mcp-metrics"; }
  // lib.optionalAttrs acme {
    certificatesResolvers.${resolver}.acme = {
      inherit (cfg.acme) email;
      storage = "${config.services.traefik.dataDir}/mcp-oauth-gateway-acme.json";
    }
    // challenges.${cfg.acme.challenge}
    // lib.optionalAttrs (cfg.acme.server != null) { caServer = cfg.acme.server; }
    // lib.optionalAttrs (cfg.acme.caCertificates != [ ]) {
      # Interpolated, a file beside the configuration comes along to the host.
      caCertificates = map (file: "${file}") cfg.acme.caCertificates;
    };
  };

  dynamic =
    lib.optionalAttrs ownCertificate {
      tls.certificates = [
        {
          certFile = "${credentials}/mcp-oauth-gateway.crt";
          keyFile = "${credentials}/mcp-oauth-gateway.key";
        }
      ];
    }
    # With several auth services one loopback address leads to whichever is ready.
    // lib.optionalAttrs (topology.instances != [ ]) {
      http = {
        routers.${internal} = {
          rule = "PathPrefix(`/`)";
          priority = 1000000;
          entryPoints = [ internal ];
          # Only what Traefik itself asks: in the log it would stand beside every request of a client.
          observability.accessLogs = false;
          service = internal;
          middlewares = [ internal ];
        };
        middlewares.${internal}.retry = {
          attempts = 3;
          initialInterval = "20ms";
          # Of a host that has gone silent, too: what is asked here changes nothing.
          status = [
            "502"
            "504"
          ];
        };
        serversTransports.${internal}.forwardingTimeouts = {
          dialTimeout = "1s";
          responseHeaderTimeout = "2s";
        };
        services.${internal}.loadBalancer = {
          serversTransport = internal;
          servers = map (url: { inherit url; }) topology.instances;
          healthCheck = {
            path = "/readyz";
            interval = "1s";
            timeout = "2s";
          };
        };
      };
    };
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
          }
          // lib.optionalAttrs acme { certificate_resolver = lib.mkDefault resolver; };

          metrics.targets =
            lib.optional (topology.has "auth") cfg.settings.listen
            ++ lib.optional (topology.has "router" && cfg.metrics.enable) (loopback cfg.metrics.port)
            ++ lib.concatMap (
              server:
              map (replica: topology.authority replica.address replica.port) (topology.replicasHere server)
            ) (lib.attrValues topology.bridgedHere);
        };
      }

      (lib.mkIf (topology.has "router") {
        assertions = [
          {
            # Older ones also refuse all routes, which ask to read a request to its end, or lose what they have read.
            assertion = lib.versionAtLeast version "3.7.6";
            message = ''
              services.traefik.package: Traefik ${version} cannot drop header names that alias another, so that clients
              could forge who they are (GHSA-x677-9fxg-v5c5), and cuts answers of servers. Use 3.7.6 or newer.
            '';
          }
        ];
        warnings = lib.optional (lib.versionOlder version "3.7.13") (
          lib.concatStringsSep "\n" (
            [
              "services.traefik.package: Traefik ${version} has known flaws, which 3.7.13 mends: GHSA-qqjf-53cj-pwvv,"
              "GHSA-f52w-8j3h-j724, GHSA-v67p-phpq-fc8x, GHSA-w4v4-9rw7-5326, GHSA-8fcf-v89g-xpg6."
            ]
            ++ lib.optionals (!knowsAliases) [
              "It lets names such as X.User.Id through, which servers that read X-User-Id may take for it"
              "(GHSA-rf44-j88r-hh8c, CVE-2026-88011); bridges believe a signature alone."
            ]
            ++ [
              "Update nixpkgs. Where your release has no newer Traefik, take it from nixos-unstable, as a flake input:"
              "services.traefik.package = inputs.nixos-unstable.legacyPackages.\${pkgs.stdenv.hostPlatform.system}.traefik;"
            ]
          )
        );

        services.traefik = {
          enable = true;
          staticConfigOptions = static;
          dynamicConfigOptions = dynamic;
        };

        systemd.services.traefik = {
          # Without routes Traefik answers 404; with this a boot does not even show that.
          after = lib.optional (topology.has "auth") "mcp-auth-service.service";
          # nixpkgs gives up for a day after five failures, as while a certificate's file is not there yet. An operator's
          # mkForce wins over this.
          startLimitIntervalSec = lib.mkOverride 90 0;
          serviceConfig = lib.mkMerge [
            (hardening.asDefaults (removeAttrs hardening.restart [ "Restart" ]))
            hardening.journal
            (lib.mkIf (cfg.acme.environmentFile != null) { EnvironmentFile = [ cfg.acme.environmentFile ]; })
            # As credentials they need not be readable by Traefik's user where they lie.
            (lib.mkIf ownCertificate {
              LoadCredential = [
                "mcp-oauth-gateway.crt:${cfg.certificate.certFile}"
                "mcp-oauth-gateway.key:${toString cfg.certificate.keyFile}"
              ];
            })
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
