# The gateway as a whole.
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
        Domain of the gateway. With subdomain routing, DNS must point both it and `*.DOMAIN` at the host with the router.
        It is part of the issuer: after a change, every client must register and every user must log in again.
      '';
    };

    routing = mkOption {
      type = types.enum [
        "subdomain"
        "path"
      ];
      default = "subdomain";
      example = "path";
      description = "The form of a server's public URL: `https://NAME.DOMAIN/mcp` (subdomain) or `https://DOMAIN/NAME/mcp` (path). {option}`servers.<name>.routing` overrides it.";
    };

    homePage = {
      enable = mkOption {
        type = types.bool;
        default = true;
        example = false;
        description = ''
          Whether `https://DOMAIN/` is a page that says what this gateway is, and shows users who sign in the servers that
          are open to them and how to connect each client. A browser that opens the URL of a server is led there.
        '';
      };

      public = mkOption {
        type = types.bool;
        default = false;
        example = true;
        description = "Whether the home page shows the servers to visitors who are not signed in.";
      };
    };

    masterKeyFile = mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/mcp-gateway-master-key";
      description = ''
        File with at least 32 random characters, from which all other keys are derived. If null, a key is generated at the
        first start and kept in {file}`/var/lib/mcp-oauth-gateway`.
      '';
    };

    settings = mkOption {
      type = types.submodule { freeformType = (pkgs.formats.json { }).type; };
      default = { };
      example = {
        lifetimes.authorization_code = 30;
      };
      description = ''
        Members of the auth service's {file}`settings.json`, for settings that have no option of their own. The file is world-readable.
        A member that the service does not know fails the build.
      '';
    };
  };
}
