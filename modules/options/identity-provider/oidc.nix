# An OpenID Connect provider as the identity provider.
{ lib, ... }:
let
  inherit (lib) mkOption types;
in
{
  options.services.mcp-oauth-gateway.identityProvider.oidc = {
    clientId = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "mcp-gateway";
      description = "Client id of the application at the OpenID Connect provider. Its callback URL is `https://DOMAIN/callback`.";
    };

    clientSecretFile = mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/client-secret";
      description = "File with the client secret of that application. systemd reads it as root.";
    };

    issuer = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "https://login.example.com/realms/acme";
      description = "The provider's issuer, exactly as in its discovery document. If it is set, this provider is used instead of GitHub.";
    };

    title = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "Acme login";
      description = "Name of the provider on its button: Continue with TITLE.";
    };

    scopes = mkOption {
      type = types.listOf types.str;
      default = [
        "openid"
        "profile"
        "email"
      ];
      example = [
        "openid"
        "groups"
      ];
      description = "Scopes that the gateway requests at each login. It adds `offline_access` if the provider supports that.";
    };

    usernameClaim = mkOption {
      type = types.str;
      default = "preferred_username";
      example = "email";
      description = "Claim that is compared with `allowedUsers`. `email` is used only if `email_verified` is true.";
    };

    groupsClaim = mkOption {
      type = types.str;
      default = "groups";
      example = "roles";
      description = "Claim with a list of strings that is compared with `allowedGroups`.";
    };

    authorizationParameters = mkOption {
      type = types.attrsOf types.str;
      default = { };
      example = {
        prompt = "consent";
      };
      description = "Additional parameters of each authorization request to the provider.";
    };

    allowedUsers = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "octocat" ];
      description = "Users who may log in, as in {option}`identityProvider.oidc.usernameClaim`. At the first login the name is bound to the id of its account. If all allow-lists are empty, here and in {option}`servers`, nobody can log in.";
    };

    allowedGroups = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "engineering" ];
      description = "Groups of the provider whose members may log in, as in {option}`identityProvider.oidc.groupsClaim`.";
    };
  };
}
