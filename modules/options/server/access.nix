# Who may use one server, and with which scopes.
{ lib, ... }:
let
  inherit (lib) mkOption types;
in
{
  options = {
    scopes = mkOption {
      type = types.attrsOf (
        types.submodule {
          options = {
            description = mkOption {
              type = types.str;
              example = "Read the wiki";
              description = "What it allows, as the consent page says it.";
            };

            required = mkOption {
              type = types.bool;
              default = true;
              example = false;
              description = "Whether every request needs it.";
            };
          };
        }
      );
      default = { };
      example = {
        "wiki:read".description = "Read the wiki";
        "wiki:write" = {
          description = "Change the wiki";
          required = false;
        };
      };
      description = "OAuth scopes of this server. Where none is named there is one, `mcp`, for all of it.";
    };

    allowedUsers = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "octocat" ];
      description = "Who may use this server. The gateway's lists hold where all are empty. Login names at the identity provider; each is pinned to its account's id at its first login.";
    };

    allowedOrganizations = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "acme" ];
      description = "Who may use this server. The gateway's lists hold where all are empty. Members of these GitHub organizations.";
    };

    allowedTeams = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "acme/platform" ];
      description = "Who may use this server. The gateway's lists hold where all are empty. Members of these GitHub teams, as `organization/team-slug`.";
    };

    allowedGroups = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "engineering" ];
      description = "Who may use this server. The gateway's lists hold where all are empty. Members of these groups of the OpenID Connect provider.";
    };
  };
}
