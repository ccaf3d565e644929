# Clients: applications with URI schemes of their own, and clients that are known by a URL.
{ lib, ... }:
let
  inherit (lib) mkOption types;
in
{
  options.services.mcp-oauth-gateway = {
    clients.redirectSchemes = mkOption {
      type = types.attrsOf (
        types.submodule (
          { name, ... }:
          {
            options = {
              name = mkOption {
                type = types.str;
                default = name;
                example = "My App";
                description = "Name of the application on the consent page.";
              };
              callbacks = mkOption {
                type = types.nonEmptyListOf (types.strMatching "[a-z][a-z0-9+.-]*://[A-Za-z0-9.-]+/.+");
                example = [ "myapp://mcp/oauth/callback" ];
                description = "The complete redirect URIs of the application. No other URI with this scheme is accepted.";
              };
            };
          }
        )
      );
      default = { };
      example = {
        myapp = {
          name = "My App";
          callbacks = [ "myapp://mcp/oauth/callback" ];
        };
      };
      description = "Applications whose redirect URIs have a scheme of their own. Claude, Cursor, Visual Studio Code, Warp and some others are known already, and so are schemes that are reversed domain names.";
    };

    clientDocuments = {
      enable = mkOption {
        type = types.bool;
        default = true;
        example = false;
        description = "Whether a client may use an https URL as its client id, from which the auth service fetches the client's metadata (Client ID Metadata Documents).";
      };

      allowedHosts = mkOption {
        type = types.nullOr (types.listOf types.str);
        default = null;
        example = [ "claude.ai" ];
        description = "The hosts from which metadata documents and key sets are fetched. If null, any public host. Clients at other hosts are told to register instead, which most of them do not do by themselves.";
      };

      probeUrls = mkOption {
        type = types.nullOr (types.listOf types.str);
        default = null;
        example = [ "https://claude.ai/oauth/claude-code-client-metadata" ];
        description = "Up to four documents that the auth service fetches every ten minutes. While all of them can be fetched, it tells clients that they may use a URL as their client id; otherwise clients register. If null, the documents of Claude Code, Codex and VS Code.";
      };

      proxy = mkOption {
        type = types.nullOr (types.strMatching "http://[^/@]+:[0-9]+");
        default = null;
        example = "http://10.0.0.1:3128";
        description = "HTTP proxy through which metadata documents and key sets are fetched, for a host without direct access to the internet. The auth service resolves names itself, and asks the proxy to connect only to public addresses.";
      };

      proxyResolvesNames = mkOption {
        type = types.bool;
        default = false;
        example = true;
        description = "Whether {option}`clientDocuments.proxy` resolves names, for a host that cannot. Then only the proxy can refuse names of internal addresses: configure it to do so.";
      };
    };
  };
}
