# The allow-lists, the same for the gateway and for each server.
{ lib }:
who:
let
  mkList =
    what: example:
    lib.mkOption {
      type = lib.types.listOf lib.types.str;
      default = [ ];
      inherit example;
      description = "${who} ${what}";
    };
in
{
  allowedUsers = mkList "Login names at the identity provider; each is pinned to its account's id at its first login." [
    "octocat"
  ];
  allowedOrganizations = mkList "Members of these GitHub organizations." [ "acme" ];
  allowedTeams = mkList "Members of these GitHub teams, as `organization/team-slug`." [ "acme/platform" ];
  allowedGroups = mkList "Members of these groups of the OpenID Connect provider." [ "engineering" ];
}
