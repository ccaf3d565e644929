# What the gateway as a whole is.
{ lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
in
{
  options.services.mcp-oauth-gateway = {
    enable = lib.mkEnableOption "an OAuth 2.1 login in front of MCP servers";

    package = mkOption {
      type = types.package;
      default = pkgs.mcp-oauth-gateway or (pkgs.callPackage ../../nix/package.nix { });
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

    masterKeyFile = mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/mcp-gateway-master-key";
      description = ''
        File with at least 32 random bytes as text, from which every other key is derived.
        Where null, one is made at first start and kept in {file}`/var/lib/mcp-oauth-gateway`.
      '';
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
