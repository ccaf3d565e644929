# Mistakes in the options of the gateway as a whole.
{
  config,
  gatewayLib,
  lib,
  ...
}:
let
  cfg = config.services.mcp-oauth-gateway;
  inherit (gatewayLib) checks topology;
  option = "services.mcp-oauth-gateway";
  inherit (cfg) metrics;
  inherit (config.services) prometheus;
  inherit (cfg.identityProvider) github oidc;
  inherit (gatewayLib.identityProvider) isOidc;
  provider = gatewayLib.identityProvider.chosen;
  providerOption = "${option}.identityProvider.${gatewayLib.identityProvider.name}";

  admitsNobody =
    access:
    access.allowedUsers == [ ]
    && access.allowedOrganizations or [ ] == [ ]
    && access.allowedTeams or [ ] == [ ]
    && access.allowedGroups or [ ] == [ ];
in
{
  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = checks.isDomain cfg.domain;
        message = "${option}.domain: \"${cfg.domain}\" is not a domain name such as mcp.example.com.";
      }
      {
        assertion = topology.enabled != { };
        message = "${option}.servers: name at least one MCP server.";
      }
      {
        assertion = isOidc -> github.clientId == null;
        message = "${option}.identityProvider: set either `github.clientId` or `oidc.issuer`; the gateway has one identity provider.";
      }
      {
        assertion = provider.clientId != null && (topology.has "auth" -> provider.clientSecretFile != null);
        message = "${providerOption}: set `clientId` and `clientSecretFile`; nobody can log in without them.";
      }
      {
        assertion = isOidc -> checks.isUrl (lib.removeSuffix "/" oidc.issuer);
        message = "${option}.identityProvider.oidc.issuer: \"${toString oidc.issuer}\" is not a URL such as https://login.example.com.";
      }
      {
        assertion = cfg.defaultServer != null -> topology.enabled ? ${cfg.defaultServer};
        message = "${option}.defaultServer: \"${toString cfg.defaultServer}\" is not the name of a server in `servers`.";
      }
      {
        assertion = cfg.lifetimes.login <= 600;
        message = "${option}.lifetimes.login: must be at most 600 seconds.";
      }
      {
        assertion = cfg.redis.url != null -> checks.isRedisUrl cfg.redis.url;
        message = "${option}.redis.url: must be redis://HOST:PORT, rediss:// for TLS, unix://PATH, or redis+sentinel://HOST:PORT,HOST:PORT/SERVICE.";
      }
      {
        assertion = cfg.redis.url != null -> !lib.hasInfix "@" cfg.redis.url;
        message = "${option}.redis.url: must not contain a password, because the Nix store is world-readable; use `redis.passwordFile`.";
      }
      {
        assertion = cfg.redis.passwordFile != null -> cfg.redis.url != null;
        message = "${option}.redis.passwordFile: needs `redis.url`; the gateway's own Redis has no password.";
      }
      {
        assertion = cfg.clientDocuments.proxyResolvesNames -> cfg.clientDocuments.proxy != null;
        message = "${option}.clientDocuments.proxyResolvesNames: needs `clientDocuments.proxy`.";
      }
      {
        assertion = cfg.logFiles.enable -> cfg.journalNamespace != null;
        message = "${option}.logFiles.enable: needs `journalNamespace`, whose entries it writes to files.";
      }
      {
        assertion = metrics.prometheus.enable -> prometheus.enable;
        message = "${option}.metrics.prometheus.enable: needs `services.prometheus.enable`, which scrapes the gateway.";
      }
      {
        assertion = metrics.alerts.enable -> metrics.prometheus.enable;
        message = "${option}.metrics.alerts.enable: needs `metrics.prometheus.enable`, whose labels the alerts rely on.";
      }
      {
        assertion = metrics.alerts.enable -> !prometheus.enableAgentMode;
        message = "${option}.metrics.alerts.enable: a Prometheus with `services.prometheus.enableAgentMode` evaluates no alerts.";
      }
      {
        assertion = metrics.dashboard.enable -> config.services.grafana.enable;
        message = "${option}.metrics.dashboard.enable: needs `services.grafana.enable`, which shows the dashboard.";
      }
    ];

    warnings = lib.optional (lib.all admitsNobody ([ provider ] ++ lib.attrValues topology.enabled)) ''
      ${option}: every allow-list is empty, so nobody can log in.
      Add users to `identityProvider.${gatewayLib.identityProvider.name}.allowedUsers`, or fill another list.
    '';
  };
}
