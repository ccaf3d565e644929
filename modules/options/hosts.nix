# A gateway on several hosts, which all have the same configuration.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
in
{
  options.services.mcp-oauth-gateway = {
    hosts = mkOption {
      type = types.attrsOf (
        types.submodule {
          options = {
            address = mkOption {
              type = types.str;
              example = "10.0.0.2";
              description = ''
                IP address at which the other hosts reach this one. The parts of the gateway talk plain HTTP: use a private
                network, such as WireGuard, and open the ports only there.
              '';
            };

            roles = mkOption {
              type = types.listOf (
                types.enum [
                  "router"
                  "auth"
                  "bridges"
                ]
              );
              example = [ "bridges" ];
              description = "What this host runs: Traefik (`router`), the auth service (`auth`), the servers' bridges (`bridges`).";
            };
          };
        }
      );
      default = { };
      example = lib.literalExpression ''
        {
          edge = { address = "10.0.0.1"; roles = [ "router" "auth" ]; };
          tools-1 = { address = "10.0.0.2"; roles = [ "bridges" ]; };
        }
      '';
      description = "The hosts of the gateway, by {option}`hostName`. Use the same value on each host. If empty, this host runs everything.";
    };

    hostName = mkOption {
      type = types.str;
      default = config.networking.hostName;
      defaultText = lib.literalExpression "config.networking.hostName";
      example = "tools-1";
      description = "Name of this host in {option}`hosts`.";
    };
  };
}
