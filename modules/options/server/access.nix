# Who may use one server, and who may be granted which of its scopes.
{ lib, ... }:
let
  inherit (lib) mkOption types;

  allowLists =
    { may, unless }:
    let
      entries =
        example: description:
        mkOption {
          type = types.listOf types.str;
          default = [ ];
          example = [ example ];
          inherit description;
        };
    in
    {
      allowedUsers = entries "octocat" "Users who may ${may}, by their login name at the identity provider. At the first login the name is bound to the id of its account. ${unless}";
      allowedOrganizations = entries "acme" "GitHub organizations whose members may ${may}.";
      allowedTeams = entries "acme/platform" "GitHub teams whose members may ${may}, as `organization/team-slug`.";
      allowedGroups = entries "engineering" "Groups of the OpenID Connect provider whose members may ${may}.";
    };
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
          }
          // allowLists {
            may = "be granted this scope";
            unless = "If all allow-lists of a scope are empty, everyone who may use the server may be granted it.";
          };
        }
      );
      default = { };
      example = {
        read.description = "Read the wiki";
        write = {
          description = "Change the wiki";
          required = false;
          allowedTeams = [ "acme/writers" ];
        };
      };
      description = ''
        OAuth scopes of this server. If empty, there is one scope, `mcp`, which covers the whole server. See
        {file}`docs/authorization.md`.
      '';
    };
  }
  // allowLists {
    may = "use this server";
    unless = "If all allow-lists of a server are empty, the lists of {option}`identityProvider` apply.";
  };
}
