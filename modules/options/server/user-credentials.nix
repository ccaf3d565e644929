# What one server needs from each of its users: a secret that the user pastes, or an account that the user connects.
{
  config,
  gateway,
  gatewayLib,
  lib,
  name,
  ...
}:
let
  inherit (gatewayLib) topology;
  inherit (lib) mkOption types;
  endpoint =
    example: description:
    mkOption {
      type = types.strMatching "https://[^/@?# ]+(/[^@?# ]*)?";
      inherit example description;
    };

  connection = types.submodule {
    options = {
      authorizationEndpoint = endpoint "https://github.com/login/oauth/authorize" "Where the user's browser is sent to.";

      tokenEndpoint = endpoint "https://github.com/login/oauth/access_token" "Where the auth service gets tokens.";

      revocationEndpoint = mkOption {
        type = types.nullOr (types.strMatching "https://.+");
        default = null;
        example = "https://oauth2.googleapis.com/revoke";
        description = "Where the auth service revokes a token that its user removes (RFC 7009). If null, the token stays valid at the other service until it expires.";
      };

      issuer = mkOption {
        type = types.nullOr (types.strMatching "https://.+");
        default = null;
        example = "https://accounts.google.com";
        description = "What the other service calls itself in the parameter `iss` (RFC 9207) of its answers. If null, any issuer at the host of {option}`authorizationEndpoint`.";
      };

      clientId = mkOption {
        type = types.nonEmptyStr;
        example = "Ov23liExample";
        description = "Client id of the application that you have registered at the other service.";
      };

      clientSecretFile = mkOption {
        type = types.nullOr types.externalPath;
        default = null;
        example = "/run/secrets/github-connection";
        description = "File with the application's client secret. If null, the application is a public client, which has none.";
      };

      tokenEndpointAuthMethod = mkOption {
        type = types.nullOr (
          types.enum [
            "client_secret_basic"
            "client_secret_post"
          ]
        );
        default = null;
        example = "client_secret_post";
        description = "How the auth service sends the client secret: HTTP Basic, or in the body, which is the only way that GitHub documents. If null, `client_secret_basic`.";
      };

      scopes = mkOption {
        type = types.listOf types.str;
        example = [ "repo" ];
        description = "Scopes to ask the other service for. An empty list asks for none.";
      };

      authorizationParameters = mkOption {
        type = types.attrsOf types.str;
        default = { };
        example = {
          access_type = "offline";
          prompt = "consent";
        };
        description = "Parameters to add to each authorization request, as some services want them before they give a refresh token.";
      };
    };
  };
in
{
  options.userCredentials = mkOption {
    type = types.attrsOf (
      types.submodule {
        options = {
          label = mkOption {
            type = types.nonEmptyStr;
            example = "GitHub token";
            description = "What the page asks the user for, in at most 100 characters.";
          };

          help = mkOption {
            type = types.nullOr types.str;
            default = null;
            example = "Create one at github.com/settings/tokens, with the scope repo.";
            description = "Where the user finds it, in a sentence or two of plain text, of at most 1000 characters.";
          };

          pattern = mkOption {
            type = types.nullOr types.str;
            default = null;
            example = "ghp_[A-Za-z0-9]{36}";
            description = ''
              What the whole value must look like: a regular expression of literals, `.`, `[...]`, `\d`, `\w`, groups, `|`,
              `?`, `*`, `+` and `{m,n}`. `^` at its beginning and `$` at its end are allowed and change nothing. If null, any
              single line of up to 4096 bytes.
            '';
          };

          oauth = mkOption {
            type = types.nullOr connection;
            default = null;
            example = lib.literalExpression ''
              {
                authorizationEndpoint = "https://github.com/login/oauth/authorize";
                tokenEndpoint = "https://github.com/login/oauth/access_token";
                clientId = "Ov23liExample";
                clientSecretFile = "/run/secrets/github-connection";
                tokenEndpointAuthMethod = "client_secret_post";
                scopes = [ "repo" ];
              }
            '';
            description = ''
              The account that the user connects. The value is then its access token. Register an application at the other
              service, with the callback URL `https://DOMAIN/connections/callback/SERVER/NAME`.
            '';
          };
        };
      }
    );
    default = { };
    example = {
      GITHUB_TOKEN = {
        label = "GitHub token";
        pattern = "ghp_[A-Za-z0-9]{36}";
      };
    };
    description = ''
      Environment variables whose values each user of the server provides, by name: a secret that the user pastes, or with
      {option}`oauth` the access token of an account that the user connects. A user is asked during the login. Only the
      processes of that user get the values. See {file}`docs/operations.md`.
    '';
  };

  # The bridge asks for them before it starts a process. It knows their names, because an auth service that has not
  # been restarted since a change delivers what there was before.
  config.settings = lib.mkIf (config.url == null) {
    user-credential = lib.mkDefault (
      if config.userCredentials == { } then null else lib.attrNames config.userCredentials
    );
    credentials-url = lib.mkDefault (
      if config.userCredentials == { } then
        null
      else
        map (
          address: "http://${topology.authority address gateway.port}/credentials/${name}"
        ) topology.authAddresses
    );
  };
}
