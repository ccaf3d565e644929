# Which applications may be clients, and how the auth service learns what they are.
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
                description = "What people call the application; the consent page shows it.";
              };
              callbacks = mkOption {
                type = types.nonEmptyListOf (types.strMatching "[a-z][a-z0-9+.-]*://[A-Za-z0-9.-]+/.+");
                example = [ "myapp://mcp/oauth/callback" ];
                description = "Where answers to the application go, in full. No other address of its scheme is reached.";
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
      description = "Applications whose redirect URIs begin with a scheme of their own, beside those that are known (Claude, Cursor, Visual Studio Code, Warp and others) and reversed domain names.";
    };

    clientDocuments = {
      enable = mkOption {
        type = types.bool;
        default = true;
        example = false;
        description = "Whether clients may be known by an https URL, from which the auth service fetches their metadata.";
      };

      allowedHosts = mkOption {
        type = types.nullOr (types.listOf types.str);
        default = null;
        example = [ "claude.ai" ];
        description = "The hosts where metadata and key sets may be; any public one where null. Clients of other hosts are told to register, and most do not by themselves.";
      };

      probeUrls = mkOption {
        type = types.nullOr (types.listOf types.str);
        default = null;
        example = [ "https://claude.ai/oauth/claude-code-client-metadata" ];
        description = "At most four documents, fetched every ten minutes: clients are offered to be known by a URL while all of these can be fetched, and register otherwise. Where null, those of Claude Code, Codex and VS Code.";
      };

      proxy = mkOption {
        type = types.nullOr (types.strMatching "http://[^/@]+:[0-9]+");
        default = null;
        example = "http://10.0.0.1:3128";
        description = "The HTTP proxy through which documents and key sets are fetched, for a host with no other way out. It is asked to connect to addresses that this host has looked up and found public.";
      };

      proxyResolvesNames = mkOption {
        type = types.bool;
        default = false;
        example = true;
        description = "Whether {option}`clientDocuments.proxy` looks names up instead, for a host that cannot. Then the proxy alone can refuse names that mean an internal address: let it.";
      };
    };
  };
}
