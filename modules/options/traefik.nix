# The router: ports, certificates and access log of Traefik.
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
        How many seconds a browser uses only https for the gateway's hosts after its last visit (HSTS). With 0 the header is
        not sent. Requests over http are redirected to https in any case.
      '';
    };

    trustedProxies = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "192.0.2.0/24" ];
      description = ''
        Addresses or networks of the proxies in front of this host. They are trusted to say which address a client has;
        rate limits count by that address.
      '';
    };

    acme = {
      email = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "ops@example.com";
        description = "Mail address for the certificate authority. If it is set, Traefik obtains certificates by ACME.";
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
          How the gateway proves to the certificate authority that it controls the domain. For `http-01` the authority
          connects to port 80, for `tls-alpn-01` to port 443. `dns-01` needs {option}`acme.dnsProvider`, and works for hosts
          that the internet cannot reach.
        '';
      };

      dnsProvider = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "hetzner";
        description = "Traefik's name for the DNS provider of `dns-01`. The provider's credentials belong in {option}`acme.environmentFile`.";
      };

      environmentFile = mkOption {
        type = types.nullOr types.externalPath;
        default = null;
        example = "/run/secrets/dns.env";
        description = "File with `NAME=value` lines for Traefik, such as the token of the DNS provider. systemd reads it as root.";
      };

      server = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "https://acme-staging-v02.api.letsencrypt.org/directory";
        description = "URL of the certificate authority's ACME directory. The default is Let's Encrypt.";
      };

      caCertificates = mkOption {
        type = types.listOf types.path;
        default = [ ];
        example = [ "/etc/ssl/certs/internal-ca.pem" ];
        description = "CA certificates that Traefik trusts when it connects to {option}`acme.server`.";
      };
    };

    certificate = {
      certFile = mkOption {
        type = types.nullOr types.externalPath;
        default = null;
        example = "/var/lib/acme/mcp.example.com/fullchain.pem";
        description = "File with a certificate chain for {option}`domain` and its subdomains, to use instead of ACME.";
      };

      keyFile = mkOption {
        type = types.nullOr types.externalPath;
        default = null;
        example = "/var/lib/acme/mcp.example.com/key.pem";
        description = "File with the private key of {option}`certificate.certFile`. systemd reads it as root.";
      };
    };

    accessLog.enable = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = ''
        Whether Traefik writes one line of JSON for each request to the journal. The line contains no headers and no query
        parameters, because these contain tokens, codes and cookies.
      '';
    };
  };
}
