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
      description = "File with the client secret of that application. systemd reads it as root.";
    };

    url = mkOption {
      type = types.str;
      default = "https://github.com";
      example = "https://github.example.com";
      description = "URL at which users log in: of GitHub, or of a GitHub Enterprise Server.";
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
      description = "GitHub users who may log in, by login name. At the first login the name is bound to the id of its account. If all allow-lists are empty, here and in {option}`servers`, nobody can log in.";
    };

    allowedOrganizations = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "acme" ];
      description = "GitHub organizations whose members may log in.";
    };

    allowedTeams = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "acme/platform" ];
      description = "GitHub teams whose members may log in, as `organization/team-slug`.";
    };
  };
}
