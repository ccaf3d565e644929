# Who may use which tool, prompt and resource of one server, how often and with which arguments, and how its bridge is
# told.
{
  config,
  lib,
  name,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  json = (pkgs.formats.json { }).type;

  rules =
    {
      what,
      named,
      example,
      withArguments ? true,
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

              callsPerMinute = mkOption {
                type = types.nullOr types.ints.positive;
                default = null;
                example = 10;
                description = ''
                  How many calls each user may make within any minute of all ${what}s together that this rule decides about. A
                  call that is one too many is answered with 429 and `Retry-After`. No limit where null.
                '';
              };
            }
            // lib.optionalAttrs withArguments {
              arguments = mkOption {
                type = types.nullOr (types.attrsOf json);
                default = null;
                example = {
                  properties.path.pattern = "^/srv/";
                  required = [ "path" ];
                };
                description = ''
                  A JSON Schema that the arguments of a call must keep to, of draft 2020-12 unless its `$schema` names an older
                  one. Other calls do not reach the server. Anything goes where null.
                '';
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

  # As the bridge's file has them. Left out where everything is allowed, so that the bridge does nothing.
  toFile =
    { default, rules }:
    if default == "allow" && rules == { } then
      null
    else
      {
        inherit default;
        rules = lib.mapAttrs (
          _: rule:
          lib.filterAttrs (_: value: value != null) {
            inherit (rule) scopes deny;
            calls-per-minute = rule.callsPerMinute;
            arguments = rule.arguments or null;
          }
        ) rules;
      };
in
{
  options = {
    tools = rules {
      what = "tool";
      named = "name of a tool";
      example = {
        "get_*" = { };
        "create_*" = {
          scopes = [ "write" ];
          callsPerMinute = 10;
        };
        create_admin.deny = true;
      };
    };

    prompts = rules {
      what = "prompt";
      named = "name of a prompt";
      example.review_draft.scopes = [ "write" ];
    };

    toolsLockFile = mkOption {
      type = types.nullOr types.path;
      default = null;
      example = lib.literalExpression "./issues.lock.json";
      description = ''
        The lock file of the server's tools, beside your configuration in git: {command}`mcp-gatewayctl tools lock` writes
        it. A tool whose name or definition differs from it in a character does not exist for clients. If null, every tool
        does. See {file}`docs/authorization.md`.
      '';
    };

    resources = rules {
      what = "resource";
      named = "URI of a resource";
      withArguments = false;
      example."file:///srv/private/*".deny = true;
    };
  };

  config.settings = lib.mkIf (config.url == null) (
    lib.mapAttrs (_: lib.mkDefault) {
      tools = toFile config.tools;
      prompts = toFile config.prompts;
      resources = toFile config.resources;
      tools-lock =
        if config.toolsLockFile == null then
          null
        else
          builtins.addErrorContext "while reading `services.mcp-oauth-gateway.servers.${name}.toolsLockFile`" (
            builtins.fromJSON (builtins.readFile config.toolsLockFile)
          );
    }
  );
}
