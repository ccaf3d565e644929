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

  # A host name or a wildcard of one, as the egress proxy takes it. An IP address ends in digits.
  isDomainPattern =
    pattern:
    let
      name = lib.removePrefix "*." pattern;
    in
    matches "(${label}\\.)+${label}" name
    && !matches "(.*\\.)?[0-9]+" name
    && lib.stringLength name <= 253;

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

  isLoopbackUrl = matches "http://(localhost|127(\\.[0-9]{1,3}){3}|\\[::1])(:[0-9]+)?(/[^@?# ]*)?";

  # No character or segment that clients and the router could read differently.
  isPublicUrl =
    url:
    matches "https://[][A-Za-z0-9._:-]+(/[A-Za-z0-9._~!$&*+,;=:-]+)+" url
    && !matches ".*/[.][.]?(/.*)?" url;

  # The gateway answers these URLs itself, so that no request would reach a server.
  isOwnPage =
    url:
    matches "https://${lib.escapeRegex cfg.domain}(:[0-9]+)?/(register(/[^/]+)?|connections/callback/[^/]+/[^/]+|authorize|consent|callback|account|token|revoke|introspect|jwks|style\\.css)" url
    || matches "https://[^/]+/\\.well-known(/.*)?" url;

  isVariable = matches "[A-Za-z_][A-Za-z0-9_]{0,99}";

  # The same as in auth_service/settings/user_credentials.py.
  startsPrograms = matches (
    lib.concatStrings [
      "PATH|HOME|PWD|OLDPWD|SHELL|USER|LOGNAME|ENV|IFS|PS4|SHELLOPTS|BASHOPTS|CDPATH|TMPDIR|TMP|TEMP|CLASSPATH|.*EDITOR"
      "|VISUAL|.*PAGER|BROWSER|NLSPATH|LOCPATH|HOSTALIASES|LOCALDOMAIN|SSLKEYLOGFILE|RUBYOPT|RUBYLIB|PERLLIB"
      "|PHPRC|PHP_INI_SCAN_DIR|ZDOTDIR|LESS(OPEN|CLOSE)|NETRC|CURL_HOME|WGETRC|GODEBUG|RUSTFLAGS|ERL_(LIBS|INETRC)"
      "|(JAVA|MAVEN|GRADLE|ANT|M2)_HOME|KUBECONFIG|DOCKER_(HOST|CONFIG|CONTEXT|CERT_PATH)"
      "|AWS_(CONFIG_FILE|SHARED_CREDENTIALS_FILE|ENDPOINT_URL.*)"
      "|GIT_((SSH|CONFIG|PROXY|SSL|HTTP|TRACE|PROTOCOL|REDIRECT|CURL|ASK|EXEC|EXTERNAL|TEMPLATE|INDEX|OBJECT|ALTERNATE).*)"
      "|GIT_(DIR|COMMON_DIR|WORK_TREE|NAMESPACE|ALLOW_PROTOCOL|ATTR_SOURCE|GRAFT_FILE|SHALLOW_FILE|REPLACE_REF_BASE)"
      "|.*_(OPTS|OPTIONS|FLAGS|AFLAGS|ZFLAGS|CA_BUNDLE|CERT_FILE|CERT_DIR|ROOTS_FILE_PATH|EXECUTABLE_PATH|proxy|PROXY)"
      "|(LD|DYLD|BASH|NODE|DENO|BUN|UV|PIP|GLIBC|MALLOC|GCONV|NIX|XDG|SYSTEMD|LISTEN|LUA|GEM|BUNDLE|npm_config|NPM_CONFIG)_.*"
      "|(OPENSSL|CORECLR|COR|DOTNET|COMPlus|GIO|GST|GTK|QT|PUPPETEER|PLAYWRIGHT)_.*|R_(PROFILE|ENVIRON|LIBS|HOME)(_.*)?"
      "|(PYTHON|PERL5|NOTIFY_).*"
    ]
  );

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
