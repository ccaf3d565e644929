# Who may use which tool, prompt and resource of one server, and how its bridge is told.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;

  rules =
    {
      what,
      named,
      example,
    }:
    {
      default = mkOption {
        type = types.enum [
          "allow"
          "deny"
        ];
        default = "allow";
        example = "deny";
        description = "Whether users may use a ${what} for which no rule is set. A ${what} that is denied does not exist for clients.";
      };

      rules = mkOption {
        type = types.attrsOf (
          types.submodule {
            options = {
              scopes = mkOption {
                type = types.listOf types.str;
                default = [ ];
                example = [ "write" ];
                description = "The scopes that a user needs to use it, all of them, from {option}`scopes` of the server. If the list is empty, everyone who may use the server may use it.";
              };

              deny = mkOption {
                type = types.bool;
                default = false;
                example = true;
                description = "Whether nobody may use it.";
              };
            };
          }
        );
        default = { };
        inherit example;
        description = ''
          Rules by the exact ${named}, or by a pattern in which `*` matches any characters. A rule for the exact ${named}
          wins, then the pattern with the longest text before its first `*`. A client that lacks a scope is told which,
          and may ask its user for consent. See {file}`docs/authorization.md`.
        '';
      };
    };

  # Left out where everything is allowed, so that the bridge does nothing.
  unlessOpen = rules: if rules.default == "allow" && rules.rules == { } then null else rules;
in
{
  options = {
    tools = rules {
      what = "tool";
      named = "name of a tool";
      example = {
        "get_*" = { };
        "create_*".scopes = [ "write" ];
        create_admin.deny = true;
      };
    };

    prompts = rules {
      what = "prompt";
      named = "name of a prompt";
      example.review_draft.scopes = [ "write" ];
    };

    resources = rules {
      what = "resource";
      named = "URI of a resource";
      example."file:///srv/private/*".deny = true;
    };
  };

  config.settings = lib.mapAttrs (_: lib.mkDefault) {
    tools = unlessOpen config.tools;
    prompts = unlessOpen config.prompts;
    resources = unlessOpen config.resources;
  };
}
