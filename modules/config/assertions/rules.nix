# Mistakes in the rules and quotas of `servers`.
{
  config,
  gatewayLib,
  lib,
  ...
}:
let
  cfg = config.services.mcp-oauth-gateway;
  inherit (gatewayLib) topology;
  option = "services.mcp-oauth-gateway";

  # As far as it can be seen here; the bridge looks closer, when its file is built.
  isLock = lock: lib.isAttrs lock && lock.version or null == 1 && lib.isAttrs (lock.tools or null);

  # Pairs of patterns that can match the same name while neither is longer before its first *.
  tiesAmong =
    patterns:
    let
      pieces = lib.splitString "*";
      endsWith = one: other: lib.hasSuffix (lib.last (pieces other)) one;
      mayTie =
        one: other:
        lib.head (pieces one) == lib.head (pieces other) && (endsWith one other || endsWith other one);
      pairs = lib.cartesianProduct {
        one = patterns;
        other = patterns;
      };
    in
    lib.filter ({ one, other }: one < other && mayTie one other) pairs;

  perKind =
    name: server: kind:
    let
      inherit (server.${kind}) rules;
    in
    map (tie: {
      assertion = false;
      message = "${option}.servers.${name}.${kind}.rules: \"${tie.one}\" and \"${tie.other}\" can match the same name, and neither is longer before its first `*`.";
    }) (tiesAmong (lib.filter (lib.hasInfix "*") (lib.attrNames rules)))
    ++ lib.concatLists (
      lib.mapAttrsToList (
        pattern: rule:
        lib.singleton {
          assertion = rule.deny -> rule.scopes == [ ];
          message = "${option}.servers.${name}.${kind}.rules.\"${pattern}\": `deny` leaves nothing for `scopes` to allow.";
        }
        ++ lib.singleton {
          assertion = rule.deny -> rule.callsPerMinute == null && rule.arguments or null == null;
          message = "${option}.servers.${name}.${kind}.rules.\"${pattern}\": `deny` leaves no call for `callsPerMinute` and `arguments`.";
        }
        ++ map (scope: {
          assertion = false;
          message = "${option}.servers.${name}.${kind}.rules.\"${pattern}\".scopes: the server has no scope \"${scope}\".";
        }) (lib.subtractLists (topology.scopesOf server) rule.scopes)
      ) rules
    );
in
{
  config = lib.mkIf cfg.enable {
    assertions = lib.concatLists (
      lib.mapAttrsToList (
        name: server:
        lib.singleton {
          assertion =
            server.toolsLockFile != null && server.url == null -> isLock server.settings.tools-lock or null;
          message = "${option}.servers.${name}.toolsLockFile: is not a file that `mcp-gatewayctl tools lock` has written.";
        }
        ++ lib.concatMap (perKind name server) [
          "tools"
          "prompts"
          "resources"
        ]
      ) topology.enabled
    );
  };
}
