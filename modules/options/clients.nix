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

    declaredClients = mkOption {
      type = types.attrsOf (
        types.submodule {
          options = {
            title = mkOption {
              type = types.nullOr types.str;
              default = null;
              example = "Nightly report";
              description = "The client's name on pages and in lists. If null, its client id.";
            };

            publicKeyFile = mkOption {
              type = types.nullOr types.path;
              default = null;
              example = lib.literalExpression "./nightly.pub.pem";
              description = "The client's public key in PEM: an elliptic curve, Ed25519, or RSA. It authenticates with the private key (`private_key_jwt`). Evaluation reads the file.";
            };

            jwksUrl = mkOption {
              type = types.nullOr (types.strMatching "https://.+");
              default = null;
              example = "https://ci.example.com/jwks.json";
              description = "Where the client publishes its public keys as a JWK set, at a public address.";
            };

            secretFile = mkOption {
              type = types.nullOr types.externalPath;
              default = null;
              example = "/run/secrets/nightly-client-secret";
              description = "File with the client's secret: at least 32 random characters.";
            };

            servers = mkOption {
              type = types.listOf types.str;
              default = [ ];
              example = [ "wiki" ];
              description = ''
                The servers for which the client gets tokens of its own, without a user (`client_credentials`). The user is
                `client:NAME`, with the login name `NAME`; allow-lists do not apply.
              '';
            };

            scopes = mkOption {
              type = types.listOf types.str;
              default = [ ];
              example = [ "write" ];
              description = "The scopes that it may have at these servers, in addition to those that each request needs; `servers.NAME.scopes` defines them. Allow-lists of scopes do not apply.";
            };

            lifetime = mkOption {
              type = types.ints.between 1 86400;
              default = 3600;
              example = 600;
              description = "For how many seconds a token of its own is valid.";
            };

            userAssertions = mkOption {
              type = types.bool;
              default = false;
              example = true;
              description = ''
                Whether {option}`identityProvider.oidc` may vouch for its users, who then use the client without a page
                of the gateway (ID-JAG, MCP's enterprise-managed authorization). Allow-lists apply. The client needs a
                proof, and no {option}`servers`.
              '';
            };

            redirectUris = mkOption {
              type = types.listOf types.str;
              default = [ ];
              example = [ "https://portal.example.com/oauth/callback" ];
              description = "Instead of {option}`servers`: where the answers go if the client logs users in, and can neither register nor publish a metadata document.";
            };
          };
        }
      );
      default = { };
      example = lib.literalExpression ''
        {
          nightly = {
            publicKeyFile = ./nightly.pub.pem;
            servers = [ "wiki" ];
          };
        }
      '';
      description = ''
        Clients that you declare, by their client id, which consists of lower-case letters, digits and hyphens, and is no
        server's name. Each has {option}`servers`, or else {option}`redirectUris`, {option}`userAssertions` or both of
        these. It has exactly one of {option}`publicKeyFile`, {option}`jwksUrl` and {option}`secretFile`; one with
        nothing but redirect URIs may have none, if it cannot keep a secret.
      '';
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
