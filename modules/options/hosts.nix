# Several hosts, one gateway: the same configuration on each, which takes from it what it is there for.
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
                IP address at which the other hosts reach this one. What crosses is signed, but neither it nor the
                answers are encrypted: use a network of your own, such as WireGuard, and open the ports in it alone.
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
              description = "What it runs: Traefik, the auth service, the servers' bridges.";
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
      description = "The hosts of the gateway, by {option}`hostName`, the same on each. Where empty, this host does everything.";
    };

    hostName = mkOption {
      type = types.str;
      default = config.networking.hostName;
      defaultText = lib.literalExpression "config.networking.hostName";
      example = "tools-1";
      description = "Which of {option}`hosts` this one is.";
    };
  };
}
