# Options of one MCP server: services.mcp-oauth-gateway.servers.<name>.
{
  lib,
  gateway,
}:
{ name, config, ... }:
let
  inherit (lib) mkOption types;
  access = import ./access-options.nix { inherit lib; };
  # From the name alone, so that adding a server moves no other one. A clash is an assertion's to report.
  portOf = key: 20000 + lib.mod (lib.fromHexString (lib.substring 0 7 (builtins.hashString "sha256" key))) 10000;
in
{
  options = {
    command = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = lib.literalExpression "[ (lib.getExe pkgs.mcp-server-time) \"--local-timezone=UTC\" ]";
      description = ''
        Program and arguments of a stdio MCP server. No shell reads them.
        Exactly one of {option}`command` and {option}`url` must be set.
      '';
    };

    url = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "http://10.0.0.5:3000/mcp";
      description = "MCP endpoint of a server that speaks Streamable HTTP already: it gets the login in front, and no unit.";
    };

    title = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "Company wiki";
      description = "What people see on the consent page; the server's name where null.";
    };

    routing = mkOption {
      type = types.enum [
        "subdomain"
        "path"
      ];
      default = gateway.routing;
      defaultText = lib.literalExpression "config.services.mcp-oauth-gateway.routing";
      example = "path";
      description = "Whether clients find it at `https://NAME.DOMAIN/mcp` or at `https://DOMAIN/NAME/mcp`.";
    };

    publicUrl = mkOption {
      type = types.str;
      readOnly = true;
      description = "The URL to enter in a client. It is also the audience of this server's tokens.";
    };

    port = mkOption {
      type = types.port;
      default = portOf name;
      defaultText = lib.literalMD "derived from the name, between 20000 and 29999";
      example = 20001;
      description = "Loopback port of the bridge. Only a request that the auth service has signed is answered there.";
    };

    environment = mkOption {
      type = types.attrsOf types.str;
      default = { };
      example = {
        LOG_LEVEL = "info";
      };
      description = "Environment variables of the server. The world can read them: secrets belong in {option}`environmentFile`.";
    };

    environmentFile = mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/wiki.env";
      description = "File with `NAME=value` lines of secret environment variables, read by systemd as root.";
    };

    path = mkOption {
      type = types.listOf types.package;
      default = [ ];
      example = lib.literalExpression "[ pkgs.git ]";
      description = "Packages whose programs the server may call by name.";
    };

    sandbox.network = mkOption {
      type = types.enum [
        "none"
        "internet"
        "full"
      ];
      default = "none";
      example = "internet";
      description = ''
        What the server may reach.

        - `none`: nothing, not even loopback.
        - `internet`: public addresses and the resolver; not loopback, private, link-local or metadata addresses.
        - `full`: whatever the host reaches.
      '';
    };

    serviceConfig = mkOption {
      type = types.attrsOf types.anything;
      default = { };
      example = {
        MemoryMax = "2G";
      };
      description = "Overrides for the `[Service]` section of the unit, see {manpage}`systemd.exec(5)`.";
    };
  }
  // access "Who may use this server. The gateway's lists hold where all three are empty.";

  config.publicUrl =
    if config.routing == "subdomain" then
      "https://${name}.${gateway.domain}/mcp"
    else
      "https://${gateway.domain}/${name}/mcp";
}
