# The router's static configuration. Routes come from the auth service, so this changes with no server.
# The only file that names services.traefik: its options are being renamed upstream.
{ config, lib, ... }:
let
  cfg = config.services.mcp-oauth-gateway;
  acme = cfg.acme.email != null;
  resolver = "mcp-oauth-gateway";
  credentials = "/run/credentials/traefik.service";
in
{
  config = lib.mkIf cfg.enable {
    services.mcp-oauth-gateway.settings.router = {
      entry_points = lib.mkDefault [ "websecure" ];
      tls = lib.mkDefault true;
    }
    // lib.optionalAttrs acme { certificate_resolver = lib.mkDefault resolver; };

    services.traefik = {
      enable = true;

      staticConfigOptions = {
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
              # WSGI folds X_User_Id and X-User-Id into one name.
              underscoreHeadersStrategy = "delete";
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
          };
        };

        providers.http = {
          endpoint = "http://127.0.0.1:${toString cfg.port}/routes";
          pollInterval = lib.mkDefault "2s";
          pollTimeout = lib.mkDefault "5s";
        };
      }
      // lib.optionalAttrs acme {
        certificatesResolvers.${resolver}.acme = {
          inherit (cfg.acme) email;
          storage = "${config.services.traefik.dataDir}/mcp-oauth-gateway-acme.json";
          httpChallenge.entryPoint = lib.mkDefault "web";
        };
      };

      dynamicConfigOptions = lib.mkIf (cfg.certificate.certFile != null) {
        tls.certificates = [
          {
            certFile = "${credentials}/mcp-oauth-gateway.crt";
            keyFile = "${credentials}/mcp-oauth-gateway.key";
          }
        ];
      };
    };

    systemd.services.traefik = {
      # Without routes Traefik answers 404; with this a boot does not even show that.
      after = [ "mcp-auth-service.service" ];
      # As credentials they need not be readable by Traefik's user where they lie.
      serviceConfig.LoadCredential = lib.mkIf (cfg.certificate.certFile != null) [
        "mcp-oauth-gateway.crt:${cfg.certificate.certFile}"
        "mcp-oauth-gateway.key:${toString cfg.certificate.keyFile}"
      ];
    };

    networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall [
      80
      443
    ];
  };
}
