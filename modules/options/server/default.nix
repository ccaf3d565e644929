# Options of one MCP server: services.mcp-oauth-gateway.servers.<name>.
{
  lib,
  pkgs,
  gateway,
}:
{ name, config, ... }:
let
  inherit (lib) mkOption types;
  access = import ../access.nix { inherit lib; };
  portOf = import ../../lib/ports.nix { inherit lib; };
  catalogue = import ./catalogue.nix { inherit lib pkgs name; };
in
{
  imports = [
    ./sandbox.nix
    ./bridge.nix
  ];

  options = {
    enable = mkOption {
      type = types.bool;
      default = true;
      example = true;
      description = ''
        Whether to serve this one. A server of the catalogue needs nothing else: `servers.fetch.enable = true`.
        See {option}`preset` for what the catalogue has.
      '';
    };

    preset = mkOption {
      type = types.nullOr (types.enum (lib.attrNames catalogue));
      default = if catalogue ? ${name} then name else null;
      defaultText = lib.literalMD "the server's name, if the catalogue has that";
      example = "filesystem";
      description = ''
        Entry of the catalogue that command, environment and sandbox come from; each can still be set.

        ${lib.concatStringsSep "\n" (lib.mapAttrsToList (entry: { summary, ... }: "- `${entry}`: ${summary}") catalogue)}
      '';
    };

    command = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = lib.literalExpression "[ (lib.getExe pkgs.mcp-server-time) \"--local-timezone=UTC\" ]";
      description = ''
        Program and arguments of a stdio MCP server. No shell reads them.
        Exactly one of {option}`command` and {option}`url` must be set.
      '';
    };

    arguments = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "/srv/documents" ];
      description = "More arguments, after those of {option}`command`, which may come from the catalogue.";
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
      default =
        if config.routing == "subdomain" then
          "https://${name}.${gateway.domain}/mcp"
        else
          "https://${gateway.domain}/${name}/mcp";
      defaultText = lib.literalMD "from {option}`routing`";
      example = "https://wiki.example.com/mcp";
      description = ''
        The URL to enter in a client. It is also the audience of this server's tokens: changing it makes its users
        log in anew.
      '';
    };

    port = mkOption {
      type = types.port;
      default = portOf name;
      defaultText = lib.literalMD "derived from the name, between 20000 and 29999";
      example = 20001;
      description = ''
        Port of the bridge; replicas have the ones that follow.
        Only a request that the auth service has signed is answered there.
      '';
    };

    scopes = mkOption {
      type = types.attrsOf (
        types.submodule {
          options = {
            description = mkOption {
              type = types.str;
              example = "Read the wiki";
              description = "What it allows, as the consent page says it.";
            };

            required = mkOption {
              type = types.bool;
              default = true;
              example = false;
              description = "Whether every request needs it.";
            };
          };
        }
      );
      default = { };
      example = {
        "wiki:read".description = "Read the wiki";
        "wiki:write" = {
          description = "Change the wiki";
          required = false;
        };
      };
      description = "OAuth scopes of this server. Where none is named there is one, `mcp`, for all of it.";
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

    stateDirectory = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = ''
        Whether it keeps files: it may write to {file}`/var/lib/mcp-bridge-NAME`, which is then its home and
        working directory. Without, nothing that it writes outlives it.
      '';
    };

    workingDirectory = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "/srv/documents";
      description = "Directory that it is started in.";
    };

    hosts = mkOption {
      type = types.nullOr (types.listOf types.str);
      default = null;
      example = [ "tools-1" ];
      description = "Names of the hosts that run its bridges; all with the role `bridges` where null.";
    };

    identityKeyFile = mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/identity-wiki";
      description = ''
        File with the key that the bridge checks identities with, as `mcp-gatewayctl keys identity NAME` prints it.
        For a host that must not hold the master key. Where null, it is derived from that at each start.
      '';
    };

    serviceConfig = mkOption {
      type = types.attrsOf (import ../../lib/unit-setting.nix { inherit lib; });
      default = { };
      example = {
        IOWeight = 50;
        BindReadOnlyPaths = [ "/run/postgresql" ];
      };
      description = ''
        Settings of the `[Service]` section of the unit, see {manpage}`systemd.exec(5)`. A list adds to what the sandbox
        has, another value takes the place of the sandbox's; `lib.mkForce` replaces a list.
      '';
    };
  }
  // access "Who may use this server. The gateway's lists hold where all are empty.";

  config = lib.mkMerge (
    lib.mapAttrsToList (
      entry: preset:
      lib.mkIf (config.preset == entry && config.url == null) (removeAttrs preset [ "summary" ])
    ) catalogue
  );
}
