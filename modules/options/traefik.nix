# Certificates and what Traefik tells of itself.
{ lib, ... }:
let
  inherit (lib) mkOption types;
in
{
  options.services.mcp-oauth-gateway = {
    openFirewall = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = "Whether to open the ports 80 and 443.";
    };

    hstsSeconds = mkOption {
      type = types.ints.unsigned;
      default = 365 * 24 * 3600;
      example = 0;
      description = ''
        How long browsers that were here once use https alone for the gateway's hosts, in seconds. They are not told at all
        where it is 0. Plain http is sent to https either way.
      '';
    };

    trustedProxies = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "192.0.2.0/24" ];
      description = ''
        Addresses or networks of the proxies in front of this host, whose word is taken for the address of a client.
        Rate limits count by that address.
      '';
    };

    acme = {
      email = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "ops@example.com";
        description = "Address for the certificate authority. Setting it makes Traefik obtain certificates by ACME.";
      };

      challenge = mkOption {
        type = types.enum [
          "http-01"
          "tls-alpn-01"
          "dns-01"
        ];
        default = "http-01";
        example = "dns-01";
        description = ''
          How the authority is shown that the domain is ours. It connects to port 80 for `http-01`, to port 443 for
          `tls-alpn-01`; `dns-01` needs {option}`acme.dnsProvider` and works for hosts that the internet cannot reach.
        '';
      };

      dnsProvider = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "hetzner";
        description = "Traefik's name of the DNS provider for `dns-01`; its credentials go into {option}`acme.environmentFile`.";
      };

      environmentFile = mkOption {
        type = types.nullOr types.externalPath;
        default = null;
        example = "/run/secrets/dns.env";
        description = "File with `NAME=value` lines for Traefik, such as the DNS provider's token, read by systemd as root.";
      };

      server = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "https://acme-staging-v02.api.letsencrypt.org/directory";
        description = "Directory of the certificate authority; Let's Encrypt's where null.";
      };

      caCertificates = mkOption {
        type = types.listOf types.path;
        default = [ ];
        example = [ "/etc/ssl/certs/internal-ca.pem" ];
        description = "Certificates that an authority of your own is trusted by.";
      };
    };

    certificate = {
      certFile = mkOption {
        type = types.nullOr types.externalPath;
        default = null;
        example = "/var/lib/acme/mcp.example.com/fullchain.pem";
        description = "Certificate chain of your own, for {option}`domain` and its subdomains, instead of ACME.";
      };

      keyFile = mkOption {
        type = types.nullOr types.externalPath;
        default = null;
        example = "/var/lib/acme/mcp.example.com/key.pem";
        description = "Private key of {option}`certificate.certFile`, read by systemd as root.";
      };
    };

    accessLog.enable = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = ''
        Whether Traefik writes a line of JSON per request to the journal. It has no header and no query, in which
        tokens, codes and cookies travel.
      '';
    };

    metrics = {
      enable = lib.mkEnableOption "metrics of Traefik for Prometheus, which the auth service and the bridges always have";

      port = mkOption {
        type = types.port;
        default = 9099;
        example = 9110;
        description = "Loopback port of Traefik's `/metrics`.";
      };

      targets = mkOption {
        type = types.listOf types.str;
        readOnly = true;
        defaultText = lib.literalMD "every part of the gateway on this host";
        example = [ "127.0.0.1:9000" ];
        description = "Where this host's parts have `/metrics`, for {option}`services.prometheus.scrapeConfigs`.";
      };
    };
  };
}
