# The authorization server, its settings.json, and the key that all others are derived from.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.mcp-oauth-gateway;
  topology = import ./topology.nix { inherit lib cfg; };
  hardening = import ../nix/hardening.nix;
  settingsFile = "mcp-oauth-gateway/settings.json";
  isOidc = cfg.identityProvider.oidc.issuer != null;
  provider = if isOidc then cfg.identityProvider.oidc else cfg.identityProvider.github;
  makesMasterKey = cfg.masterKeyFile == null;
  ownRedis = cfg.redis.url == null;

  allowed =
    access:
    lib.filterAttrs (_: list: list != [ ]) {
      users = access.allowedUsers;
      organizations = access.allowedOrganizations or [ ];
      teams = access.allowedTeams or [ ];
      groups = access.allowedGroups or [ ];
    };

  identityProvider =
    if isOidc then
      {
        type = "oidc";
        inherit (provider) issuer scopes;
        username_claim = provider.usernameClaim;
        groups_claim = provider.groupsClaim;
        authorization_parameters = provider.authorizationParameters;
      }
      // lib.optionalAttrs (provider.title != null) { inherit (provider) title; }
    else
      {
        type = "github";
        inherit (provider) url;
        api_url = provider.apiUrl;
      };

  urlOf = replica: "http://${topology.authority replica.address replica.port}/mcp";
  endpoints =
    server:
    let
      replicas = topology.replicasOf server;
    in
    if server.url != null then
      { backends = [ server.url ]; }
    else if lib.length replicas == 1 then
      { backends = map urlOf replicas; }
    else
      { replicas = lib.listToAttrs (map (replica: lib.nameValuePair replica.name (urlOf replica)) replicas); };

  resource =
    server:
    {
      url = server.publicUrl;
    }
    // endpoints server
    // lib.optionalAttrs (server.title != null) { inherit (server) title; }
    // lib.optionalAttrs (server.scopes != { }) { inherit (server) scopes; }
    // lib.optionalAttrs (allowed server != { }) { allowed = allowed server; };

  seconds =
    default: description:
    mkOption {
      type = types.ints.positive;
      inherit default;
      example = 600;
      description = "${description} In seconds.";
    };
  count =
    default: example: description:
    mkOption {
      type = types.ints.positive;
      inherit default example description;
    };
in
{
  options.services.mcp-oauth-gateway = {
    port = mkOption {
      type = types.port;
      default = 9000;
      example = 9010;
      description = "Port of the auth service, for Traefik and for nobody else: on loopback, or with several hosts on {option}`hosts.<name>.address`.";
    };

    workers = count 1 2 "Processes of the auth service. One answers thousands of requests a second.";

    lifetimes = {
      accessToken = seconds 3600 "How long an access token is good.";
      refreshToken = seconds (30 * 24 * 3600) "How long a login lasts after its last use.";
      login = seconds 600 "How long a login at the identity provider may take, at most 600.";
      unusedClient = seconds (7 * 24 * 3600) "How long a registration waits for a first login, and outlives its last one.";
      unconfirmedUser = seconds (24 * 3600) "How long after a login tokens can be refreshed where the provider gave nothing to ask again with.";
    };

    limits = {
      registrationsPerHour = count 60 20 "New client registrations from one address (one /64 in IPv6).";
      unusedClients = count 10000 1000 "Client registrations without a login, in all; the oldest go first.";
      grantsPerClient = count 50 10 "Logins of one user with one client; the least recently used go first.";
    };

    clientDocuments = {
      enable = mkOption {
        type = types.bool;
        default = true;
        example = false;
        description = "Whether clients may be known by an https URL, from which the auth service fetches their metadata.";
      };

      allowedHosts = mkOption {
        type = types.nullOr (types.listOf types.str);
        default = null;
        example = [ "claude.ai" ];
        description = "The hosts such URLs may name; any public one where null.";
      };
    };

    generatedMasterKeyFile = mkOption {
      type = types.externalPath;
      internal = true;
      readOnly = true;
      default = if makesMasterKey then "/var/lib/mcp-oauth-gateway/master-key" else cfg.masterKeyFile;
      description = "Where the master key is, given or made.";
    };
  };

  config = lib.mkIf cfg.enable {
    services.mcp-oauth-gateway.settings = {
      issuer = lib.mkDefault "https://${cfg.domain}";
      identity_provider = lib.mapAttrs (_: lib.mkDefault) (identityProvider // { client_id = provider.clientId; });
      allowed = lib.mapAttrs (_: lib.mkDefault) (allowed provider);
      state_directory = "/var/lib/mcp-auth-service";
      listen = topology.authority topology.listenAddress cfg.port;
      # Traefik's own loopback address, which leads to the one instance or to any that is ready.
      internal_url = "http://127.0.0.1:${toString cfg.port}";
      workers = lib.mkDefault cfg.workers;
      lifetimes = lib.mapAttrs (_: lib.mkDefault) {
        access_token = cfg.lifetimes.accessToken;
        refresh_token = cfg.lifetimes.refreshToken;
        inherit (cfg.lifetimes) login;
        unused_client = cfg.lifetimes.unusedClient;
        unconfirmed_user = cfg.lifetimes.unconfirmedUser;
      };
      limits = lib.mapAttrs (_: lib.mkDefault) {
        registrations_per_hour = cfg.limits.registrationsPerHour;
        unused_clients = cfg.limits.unusedClients;
        grants_per_client = cfg.limits.grantsPerClient;
      };
      client_documents = {
        enabled = lib.mkDefault cfg.clientDocuments.enable;
      }
      // lib.optionalAttrs (cfg.clientDocuments.allowedHosts != null) {
        allowed_hosts = lib.mkDefault cfg.clientDocuments.allowedHosts;
      };
      resources = lib.mapAttrs (_: resource) topology.enabled;
    }
    // lib.optionalAttrs (topology.instances != [ ]) { inherit (topology) instances; };

    # A stable path: a changed set of servers reloads the service and never restarts it.
    environment.etc.${settingsFile}.text = builtins.toJSON cfg.settings;
    environment.systemPackages = [ cfg.package ];

    systemd.slices.mcp-gateway.description = "MCP OAuth gateway";

    systemd.services = {
      mcp-oauth-gateway-master-key = lib.mkIf makesMasterKey {
        description = "Master key of the MCP OAuth gateway";
        unitConfig.ConditionPathExists = "!${cfg.generatedMasterKeyFile}";
        serviceConfig = hardening.unit cfg // {
          Type = "oneshot";
          StateDirectory = "mcp-oauth-gateway";
          StateDirectoryMode = "0700";
        };
        # The rename makes a half-written key impossible.
        script = ''
          od --address-radix=n --format=x1 --read-bytes=32 /dev/urandom | tr --delete ' \n' > "$STATE_DIRECTORY/master-key.new"
          mv "$STATE_DIRECTORY/master-key.new" "$STATE_DIRECTORY/master-key"
        '';
      };

      mcp-auth-service = lib.mkIf (topology.has "auth") {
        description = "Authorization server of the MCP OAuth gateway";
        wantedBy = [ "multi-user.target" ];
        wants = [ "network-online.target" ];
        requires = lib.optional makesMasterKey "mcp-oauth-gateway-master-key.service";
        after = [
          "network-online.target"
        ]
        ++ lib.optional ownRedis "redis-mcp-oauth-gateway.service"
        ++ lib.optional makesMasterKey "mcp-oauth-gateway-master-key.service";
        reloadTriggers = [ config.environment.etc.${settingsFile}.source ];
        startLimitIntervalSec = 0;
        # The host's certificate authorities, for an identity provider with one of its own.
        environment.REQUESTS_CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt";
        serviceConfig =
          hardening.unit cfg
          // hardening.relax.network
          // hardening.restart
          // {
            Type = "notify";
            # A worker tells of readiness, since only a worker knows.
            NotifyAccess = "all";
            ExecStart = "${lib.getExe' cfg.package "mcp-auth-service"} --settings /etc/${settingsFile}";
            ExecReload = "${lib.getExe' pkgs.coreutils "kill"} -HUP $MAINPID";
            LoadCredential = [
              "client-secret:${toString provider.clientSecretFile}"
              "master-key:${cfg.generatedMasterKeyFile}"
            ];
            DynamicUser = true;
            StateDirectory = "mcp-auth-service";
            StateDirectoryMode = "0700";
            SupplementaryGroups = lib.optional ownRedis config.services.redis.servers.mcp-oauth-gateway.group;
          };
      };
    };

    # Requests wait in it while the service is restarted.
    systemd.sockets.mcp-auth-service = lib.mkIf (topology.has "auth") {
      description = "Authorization server of the MCP OAuth gateway";
      wantedBy = [ "sockets.target" ];
      listenStreams = [ cfg.settings.listen ];
      socketConfig = hardening.socket // lib.optionalAttrs (!topology.isSingle) { FreeBind = true; };
    };
  };
}
