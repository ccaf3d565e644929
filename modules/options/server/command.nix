# What one server is: a command with its environment, or the URL of a server that speaks HTTP.
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
        Program and arguments of a stdio MCP server. They are not passed through a shell. Set exactly one of
        {option}`command` and {option}`url`.
      '';
    };

    arguments = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "/srv/documents" ];
      description = "Further arguments, after those of {option}`command`. Use it with a server of the catalogue.";
    };

    url = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "http://10.0.0.5:3000/mcp";
      description = "MCP endpoint of a server that speaks Streamable HTTP. The gateway puts its login in front and starts no unit.";
    };

    urlCredentialFile = mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/tickets-token";
      description = ''
        File with a bearer token of the gateway's own, which the server at {option}`url` gets in the header `Authorization` of
        each request. It never gets the user's token. Clients reach everything below the path of {option}`url` with it,
        so that {option}`url` must have one, such as `/mcp`. After a change of the file, restart
        `mcp-auth-service.service`.
      '';
    };

    urlClientCertificate = mkOption {
      type = types.nullOr (
        types.submodule {
          options = {
            certFile = mkOption {
              type = types.externalPath;
              example = "/run/secrets/gateway.crt";
              description = "File with the certificate, and with intermediate ones.";
            };
            keyFile = mkOption {
              type = types.externalPath;
              example = "/run/secrets/gateway.key";
              description = "File with the private key of the certificate.";
            };
          };
        }
      );
      default = null;
      example = {
        certFile = "/run/secrets/gateway.crt";
        keyFile = "/run/secrets/gateway.key";
      };
      description = ''
        The certificate with which Traefik connects to the server at {option}`url`. Traefik's user need not be able to read
        the files. After a change of a file, restart `traefik.service`.
      '';
    };

    urlCaFile = mkOption {
      type = types.nullOr types.path;
      default = null;
      example = "/etc/ssl/internal-ca.pem";
      description = ''
        File with certificates of authorities, one of which must have signed the certificate of the server at {option}`url`.
        If null, the authorities that the host trusts. After a change of the file, restart `traefik.service`.
      '';
    };

    environment = mkOption {
      type = types.attrsOf types.str;
      default = { };
      example = {
        LOG_LEVEL = "info";
      };
      description = "Environment variables of the server. They are world-readable: secrets belong in {option}`environmentFile`.";
    };

    environmentFile = mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/wiki.env";
      description = "File with `NAME=value` lines of secret environment variables. systemd reads it as root.";
    };

    path = mkOption {
      type = types.listOf types.package;
      default = [ ];
      example = lib.literalExpression "[ pkgs.git ]";
      description = "Packages to put into the `PATH` of the server.";
    };

    stateDirectory = mkOption {
      type = types.either types.bool (types.enum [ "per-user" ]);
      default = false;
      example = "per-user";
      description = ''
        Whether the server keeps files, in a directory that is its home and working directory.

        - `false`: no. Everything that the server writes is removed when the server ends.
        - `true`: yes, in {file}`/var/lib/mcp-bridge-NAME`, which the processes of all users share; not with
          `userCredentials`.
        - `"per-user"`: yes, in {file}`/var/lib/mcp-server-NAME`, where each process sees the files of its own user and
          no others. It needs `isolation` `per-session` or `per-user`, and no `warmSpares`.
      '';
    };

    workingDirectory = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "/srv/documents";
      description = "Directory in which the server is started.";
    };
  };
}
