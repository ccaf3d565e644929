# services.mcp-oauth-gateway: the options of the gateway; each file next to this one has those of its part.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.mcp-oauth-gateway;
in
{
  _class = "nixos";

  imports = [
    ./config/assertions.nix
    ./config/auth.nix
    ./config/bridges.nix
    ./config/health.nix
    ./options/hosts.nix
    ./config/logs.nix
    ./config/redis.nix
    ./config/traefik.nix
  ];

  options.services.mcp-oauth-gateway = {
    enable = lib.mkEnableOption "an OAuth 2.1 login in front of MCP servers";

    package = mkOption {
      type = types.package;
      default = pkgs.mcp-oauth-gateway or (pkgs.callPackage ../nix/package.nix { });
      defaultText = lib.literalMD "`pkgs.mcp-oauth-gateway` where an overlay has it, else this flake's recipe, built with the host's `pkgs`";
      example = lib.literalExpression "inputs.mcp-oauth-gateway.packages.\${pkgs.stdenv.hostPlatform.system}.default";
      description = "The package that holds the auth service, the bridge and `mcp-gatewayctl`.";
    };

    domain = mkOption {
      type = types.str;
      example = "mcp.example.com";
      description = ''
        Domain of the gateway. With subdomain routing both it and `*.DOMAIN` must point at the host with the router.
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

    identityProvider = import ./options/identity-provider.nix { inherit lib; };

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
          import ./options/server {
            inherit lib pkgs;
            gateway = cfg;
          }
        )
      );
      default = { };
      example = lib.literalExpression ''
        {
          fetch.enable = true; # from the catalogue
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
        lifetimes.authorization_code = 30;
      };
      description = ''
        The auth service's {file}`settings.json`, for what no option here models. The world can read it.
        A key that the service does not know fails the build.
      '';
    };
  };
}
