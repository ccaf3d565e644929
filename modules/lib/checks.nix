# What a value must look like, for assertions.
{ lib, cfg }:
let
  label = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?";
  matches = pattern: text: builtins.match pattern text != null;
in
{
  # One part of a host name.
  isLabel = matches label;
  isDomain = matches "(${label}\\.)+${label}";

  isRedisUrl =
    url:
    matches "(unix:///|rediss?://).+" url
    || matches "rediss?\\+sentinel://[^/@]+:[0-9]+/[A-Za-z0-9_.-]+" url;

  # Not 0.0.0.0 or ::, which stand for every address of a host.
  isAddress =
    text:
    matches "[0-9]{1,3}(\\.[0-9]{1,3}){3}|[0-9a-fA-F:]*:[0-9a-fA-F:.]*" text
    && text != "0.0.0.0"
    && text != "::";

  isUrl = url: matches "https?://[^/@?# ]+(/[^@?# ]*)?" url && !lib.hasSuffix "/" url;

  # No character or segment that clients and the router could read differently.
  isPublicUrl =
    url:
    matches "https://[][A-Za-z0-9._:-]+(/[A-Za-z0-9._~!$&*+,;=:-]+)+" url
    && !matches ".*/[.][.]?(/.*)?" url;

  # The gateway answers these URLs itself, so that no request would reach a server.
  isOwnPage =
    url:
    matches "https://${lib.escapeRegex cfg.domain}(:[0-9]+)?/(register(/[^/]+)?|authorize|consent|callback|account|token|revoke|introspect|jwks|style\\.css)" url
    || matches "https://[^/]+/\\.well-known(/.*)?" url;

  looksSecret =
    variable:
    lib.any (word: lib.hasInfix word variable) [
      "API_KEY"
      "PASSWORD"
      "SECRET"
      "TOKEN"
    ];

  # Takes pairs of `name` and `value`, and returns the names that have the same value, by value.
  clashes =
    pairs:
    lib.mapAttrs (_: group: lib.concatMapStringsSep " and " (pair: pair.name) group) (
      lib.filterAttrs (_: group: lib.length group > 1) (lib.groupBy (pair: pair.value) pairs)
    );
}
