# What one server is: a command and what it is run with, or the URL where it is served already.
{ lib, ... }:
let
  inherit (lib) mkOption types;
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
  };
}
