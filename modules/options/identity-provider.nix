# Who may log in, and where: services.mcp-oauth-gateway.identityProvider.
{ lib }:
let
  inherit (lib) mkOption types;
  access = import ./access.nix { inherit lib; };
  lists = access "Who may log in. Nobody where all lists, here and at the servers, are empty.";
  client = provider: clientId: {
    clientId = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = clientId;
      description = "Client id of the application at ${provider}. Its callback URL is `https://DOMAIN/callback`.";
    };

    clientSecretFile = mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/client-secret";
      description = "File with the client secret of that application, read by systemd as root.";
    };
  };
in
{
  github =
    client "GitHub" "Ov23liA1b2C3d4E5f6G7"
    // {
      url = mkOption {
        type = types.str;
        default = "https://github.com";
        example = "https://github.example.com";
        description = "Where users log in; GitHub Enterprise Server by its own URL.";
      };

      apiUrl = mkOption {
        type = types.str;
        default = "https://api.github.com";
        example = "https://github.example.com/api/v3";
        description = "Base URL of GitHub's REST API.";
      };
    }
    // removeAttrs lists [ "allowedGroups" ];

  oidc =
    client "the OpenID Connect provider" "mcp-gateway"
    // {
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
    }
    // removeAttrs lists [
      "allowedOrganizations"
      "allowedTeams"
    ];
}
