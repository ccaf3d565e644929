# The URL of one server, and where its bridges listen.
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
        Whether to serve this server. A server of the catalogue needs nothing else: `servers.fetch.enable = true`.
        {option}`preset` lists the catalogue.
      '';
    };

    title = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "Company wiki";
      description = "Title of the server on the consent page and the home page. If null, its name.";
    };

    description = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "Reads and searches the company's wiki.";
      description = "What the server is for, in a sentence for its users. The home page shows it.";
    };

    routing = mkOption {
      type = types.enum [
        "subdomain"
        "path"
      ];
      default = gateway.routing;
      defaultText = lib.literalExpression "config.services.mcp-oauth-gateway.routing";
      example = "path";
      description = "The form of this server's public URL: `https://NAME.DOMAIN/mcp` or `https://DOMAIN/NAME/mcp`.";
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
        The URL to enter in a client. It is also the audience of this server's tokens: after a change, its users must log
        in again.
      '';
    };

    port = mkOption {
      type = types.port;
      default = gatewayLib.ports.bridge name;
      defaultText = lib.literalMD "derived from the name, between 20000 and 29999";
      example = 20001;
      description = ''
        Port of the bridge; further replicas use the ports after it. The bridge answers only requests that the auth service
        has signed.
      '';
    };

    hosts = mkOption {
      type = types.nullOr (types.listOf types.str);
      default = null;
      example = [ "tools-1" ];
      description = "The {option}`hosts` that run bridges of this server. If null, all hosts with the role `bridges`.";
    };

    identityKeyFile = mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/identity-wiki";
      description = ''
        File with the key with which the bridge verifies identities, as `mcp-gatewayctl keys identity NAME` prints it. For a
        host that must not have the master key. If null, the key is derived from the master key at each start.
      '';
    };
  };
}
