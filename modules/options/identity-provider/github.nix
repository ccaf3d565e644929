# GitHub as the identity provider.
{ lib, ... }:
let
  inherit (lib) mkOption types;
in
{
  options.services.mcp-oauth-gateway.identityProvider.github = {
    clientId = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "Ov23liA1b2C3d4E5f6G7";
      description = "Client id of the application at GitHub. Its callback URL is `https://DOMAIN/callback`.";
    };

    clientSecretFile = mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/client-secret";
      description = "File with the client secret of that application, read by systemd as root.";
    };

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

    allowedUsers = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "octocat" ];
      description = "Who may log in. Nobody where all lists, here and at the servers, are empty. Login names at the identity provider; each is pinned to its account's id at its first login.";
    };

    allowedOrganizations = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "acme" ];
      description = "Who may log in. Nobody where all lists, here and at the servers, are empty. Members of these GitHub organizations.";
    };

    allowedTeams = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "acme/platform" ];
      description = "Who may log in. Nobody where all lists, here and at the servers, are empty. Members of these GitHub teams, as `organization/team-slug`.";
    };
  };
}
