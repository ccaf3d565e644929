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
              description = "What the scope allows, as the consent page shows it.";
            };

            required = mkOption {
              type = types.bool;
              default = true;
              example = false;
              description = "Whether every request needs the scope.";
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
      description = "OAuth scopes of this server. If empty, there is one scope, `mcp`, which covers the whole server.";
    };

    allowedUsers = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "octocat" ];
      description = "Users who may use this server, by their login name at the identity provider. At the first login the name is bound to the id of its account. If all allow-lists of a server are empty, the lists of {option}`identityProvider` apply.";
    };

    allowedOrganizations = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "acme" ];
      description = "GitHub organizations whose members may use this server.";
    };

    allowedTeams = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "acme/platform" ];
      description = "GitHub teams whose members may use this server, as `organization/team-slug`.";
    };

    allowedGroups = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "engineering" ];
      description = "Groups of the OpenID Connect provider whose members may use this server.";
    };
  };
}
