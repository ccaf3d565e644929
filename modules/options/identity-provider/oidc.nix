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
      description = "File with the client secret of that application, read by systemd as root.";
    };

    issuer = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "https://login.example.com/realms/acme";
      description = "The provider's issuer, exactly as its discovery document writes it. Setting it chooses this provider.";
    };

    title = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "Acme login";
      description = "What people are shown: Continue with TITLE.";
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
      description = "Scopes asked for at each login. `offline_access` is added where the provider offers it.";
    };

    usernameClaim = mkOption {
      type = types.str;
      default = "preferred_username";
      example = "email";
      description = "Claim that is matched against `allowedUsers`. `email` counts only while `email_verified` is true.";
    };

    groupsClaim = mkOption {
      type = types.str;
      default = "groups";
      example = "roles";
      description = "Claim, a list of strings, that is matched against `allowedGroups`.";
    };

    authorizationParameters = mkOption {
      type = types.attrsOf types.str;
      default = { };
      example = {
        prompt = "consent";
      };
      description = "Parameters added to each authorization request at the provider.";
    };

    allowedUsers = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "octocat" ];
      description = "Who may log in. Nobody where all lists, here and at the servers, are empty. Login names at the identity provider; each is pinned to its account's id at its first login.";
    };

    allowedGroups = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "engineering" ];
      description = "Who may log in. Nobody where all lists, here and at the servers, are empty. Members of these groups of the OpenID Connect provider.";
    };
  };
}
