# Where clients find one server, and where its bridges listen.
{
  config,
  gateway,
  gatewayLib,
  lib,
  name,
  ...
}:
let
  inherit (lib) mkOption types;
in
{
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
      default = gatewayLib.ports.bridge name;
      defaultText = lib.literalMD "derived from the name, between 20000 and 29999";
      example = 20001;
      description = ''
        Port of the bridge; replicas have the ones that follow.
        Only a request that the auth service has signed is answered there.
      '';
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
  };
}
