# services.mcp-oauth-gateway: the options of the gateway and what must hold between them.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.mcp-oauth-gateway;
  access = import ./access-options.nix { inherit lib; };
in
{
  imports = [
    ./assertions.nix
    ./auth.nix
    ./bridges.nix
    ./redis.nix
    ./traefik.nix
  ];

  options.services.mcp-oauth-gateway = {
    enable = lib.mkEnableOption "an OAuth 2.1 login in front of MCP servers";

    package = mkOption {
      type = types.package;
      default = pkgs.callPackage ../nix/package.nix { };
      defaultText = lib.literalExpression "pkgs.mcp-oauth-gateway";
      example = lib.literalExpression "inputs.mcp-oauth-gateway.packages.\${pkgs.stdenv.hostPlatform.system}.default";
      description = "The package that holds the auth service, the bridge and `mcp-gatewayctl`.";
    };

    domain = mkOption {
      type = types.str;
      example = "mcp.example.com";
      description = ''
        Domain of the gateway. With subdomain routing both it and `*.DOMAIN` must point at this host.
        It is part of the issuer: changing it makes every client register and every user log in anew.
      '';
    };

    routing = mkOption {
      type = types.enum [
        "subdomain"
        "path"
      ];
      default = "subdomain";
      example = "path";
      description = "Where clients find a server that does not say it itself: `https://NAME.DOMAIN/mcp` or `https://DOMAIN/NAME/mcp`.";
    };

    port = mkOption {
      type = types.port;
      default = 9000;
      example = 9010;
      description = "Loopback port of the auth service, for Traefik and for nobody else.";
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = "Whether to open the ports 80 and 443.";
    };

    acme.email = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "ops@example.com";
      description = "Address for the certificate authority. Setting it makes Traefik obtain certificates by ACME.";
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

    identityProvider.github = {
      clientId = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "Iv1.8a61f9b3a7aba766";
        description = "Client id of the GitHub OAuth application. Its callback URL is `https://DOMAIN/callback`.";
      };

      clientSecretFile = mkOption {
        type = types.nullOr types.externalPath;
        default = null;
        example = "/run/secrets/github-client-secret";
        description = "File with the client secret of the GitHub OAuth application, read by systemd as root.";
      };

      url = mkOption {
        type = types.str;
        default = "https://github.com";
        example = "https://github.example.com";
        description = "Where users log in; GitHub Enterprise Server by its own URL.";
      };

      apiUrl = mkOption {
        type = types.str;
        default = "https://api.github.com";
        example = "https://github.example.com/api/v3";
        description = "Base URL of GitHub's REST API.";
      };
    }
    // access "Who may log in. Nobody where all lists, here and at the servers, are empty.";

    masterKeyFile = mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/mcp-gateway-master-key";
      description = ''
        File with at least 32 random bytes as text, from which every other key is derived.
        Where null, one is made at first start and kept in {file}`/var/lib/mcp-oauth-gateway`.
      '';
    };

    servers = mkOption {
      type = types.attrsOf (
        types.submodule (
          import ./server-options.nix {
            inherit lib;
            gateway = cfg;
          }
        )
      );
      default = { };
      example = lib.literalExpression ''
        {
          time.command = [ (lib.getExe pkgs.mcp-server-time) ];
          wiki.url = "http://10.0.0.5:3000/mcp";
        }
      '';
      description = "The MCP servers. The name is part of the public URL, and of the unit's: `mcp-bridge-NAME`.";
    };

    settings = mkOption {
      type = types.submodule { freeformType = (pkgs.formats.json { }).type; };
      default = { };
      example = {
        lifetimes.access_token = 600;
      };
      description = ''
        The auth service's {file}`settings.json`, for what no option here models. The world can read it.
        The service refuses to start on a key that it does not know.
      '';
    };
  };
}
