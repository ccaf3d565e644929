# The authorization server, its settings.json, and the key that all others are derived from.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.mcp-oauth-gateway;
  topology = import ../lib/topology.nix { inherit lib cfg; };
  hardening = import ../lib/hardening.nix;
  settingsFile = "mcp-oauth-gateway/settings.json";
  service = lib.getExe' cfg.package "mcp-auth-service";
  runsHere = pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform;
  # What the service would refuse fails the build: on a reload it would go on with its old settings.
  settings =
    pkgs.runCommand "settings.json"
      {
        text = builtins.toJSON cfg.settings;
        passAsFile = [ "text" ];
      }
      ''
        ${lib.optionalString (
          topology.has "auth" && runsHere
        ) "${service} --check --settings \"$textPath\""}
        cp "$textPath" "$out"
      '';
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
        client_id = provider.clientId;
        authorization_parameters = provider.authorizationParameters;
      }
      // lib.optionalAttrs (provider.title != null) { inherit (provider) title; }
    else
      {
        type = "github";
        inherit (provider) url;
        client_id = provider.clientId;
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
      {
        replicas = lib.listToAttrs (
          map (replica: lib.nameValuePair replica.name (urlOf replica)) replicas
        );
      };

  resource =
    server:
    {
      url = server.publicUrl;
    }
    // endpoints server
    // lib.optionalAttrs (server.title != null) { inherit (server) title; }
    // lib.optionalAttrs (server.scopes != { }) { inherit (server) scopes; }
    // lib.optionalAttrs (allowed server != { }) { allowed = allowed server; };
in
{
  options.services.mcp-oauth-gateway = import ../options/auth.nix { inherit lib; } // {
    generatedMasterKeyFile = lib.mkOption {
      type = lib.types.externalPath;
      internal = true;
      readOnly = true;
      default = if makesMasterKey then "/var/lib/mcp-oauth-gateway/master-key" else cfg.masterKeyFile;
      description = "Where the master key is, given or made.";
    };
  };

  config = lib.mkIf cfg.enable {
    services.mcp-oauth-gateway.settings = {
      issuer = lib.mkDefault "https://${cfg.domain}";
      identity_provider = lib.mapAttrs (_: lib.mkDefault) identityProvider;
      allowed = lib.mapAttrs (_: lib.mkDefault) (allowed provider);
      state_directory = "/var/lib/mcp-auth-service";
      listen = topology.authority topology.listenAddress cfg.port;
      # Traefik's own loopback address, which leads to the one instance or to any that is ready.
      internal_url = "http://127.0.0.1:${toString cfg.port}";
      workers = lib.mkDefault cfg.workers;
      log_level = lib.mkDefault cfg.logLevel;
      lifetimes = lib.mapAttrs (_: lib.mkDefault) {
        access_token = cfg.lifetimes.accessToken;
        refresh_token = cfg.lifetimes.refreshToken;
        inherit (cfg.lifetimes) login session;
        signing_key = cfg.lifetimes.signingKey;
        unused_client = cfg.lifetimes.unusedClient;
        unconfirmed_user = cfg.lifetimes.unconfirmedUser;
      };
      limits = lib.mapAttrs (_: lib.mkDefault) {
        registrations_per_hour = cfg.limits.registrationsPerHour;
        unused_clients = cfg.limits.unusedClients;
        grants_per_client = cfg.limits.grantsPerClient;
        token_requests_per_minute = cfg.limits.tokenRequestsPerMinute;
        rates = cfg.rateLimits;
      };
      clients = lib.mkIf (cfg.clients.redirectSchemes != { }) {
        redirect_schemes = cfg.clients.redirectSchemes;
      };
      client_documents = {
        enabled = lib.mkDefault cfg.clientDocuments.enable;
      }
      // lib.optionalAttrs (cfg.clientDocuments.probeUrls != null) {
        probe_urls = lib.mkDefault cfg.clientDocuments.probeUrls;
      }
      // lib.optionalAttrs (cfg.clientDocuments.proxy != null) {
        proxy = lib.mkDefault cfg.clientDocuments.proxy;
        proxy_resolves_names = lib.mkDefault cfg.clientDocuments.proxyResolvesNames;
      }
      // lib.optionalAttrs (cfg.clientDocuments.allowedHosts != null) {
        allowed_hosts = lib.mkDefault cfg.clientDocuments.allowedHosts;
      };
      resources = lib.mapAttrs (_: resource) topology.enabled;
    }
    // lib.optionalAttrs (cfg.defaultServer != null) {
      default_resource = lib.mkDefault cfg.defaultServer;
    }
    // lib.optionalAttrs (topology.instances != [ ]) { inherit (topology) instances; };

    # A stable path: a changed set of servers reloads the service and never restarts it.
    environment.etc.${settingsFile}.source = settings;
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
        wants = [ "network-online.target" ] ++ lib.optional ownRedis "redis-mcp-oauth-gateway.service";
        requires = [
          "${topology.authSocket}.socket"
        ]
        ++ lib.optional makesMasterKey "mcp-oauth-gateway-master-key.service";
        after = [
          "network-online.target"
          "${topology.authSocket}.socket"
        ]
        ++ lib.optional ownRedis "redis-mcp-oauth-gateway.service"
        ++ lib.optional makesMasterKey "mcp-oauth-gateway-master-key.service";
        reloadTriggers = [ config.environment.etc.${settingsFile}.source ];
        startLimitIntervalSec = 0;
        # Requests wait in the socket meanwhile.
        stopIfChanged = false;
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
            WatchdogSec = 60;
            # Gunicorn ends its workers by itself, each after what it is doing.
            KillMode = "mixed";
            ExecStart = "${service} --settings /etc/${settingsFile}";
            ExecReload = "${lib.getExe' pkgs.coreutils "kill"} -HUP $MAINPID";
            LoadCredential = [
              "client-secret:${toString provider.clientSecretFile}"
              "master-key:${cfg.generatedMasterKeyFile}"
            ]
            ++ lib.optional (cfg.redis.passwordFile != null) "redis-password:${cfg.redis.passwordFile}";
            DynamicUser = true;
            StateDirectory = "mcp-auth-service";
            StateDirectoryMode = "0700";
            # In memory: what the workers count there is shared by memory-mapped files.
            RuntimeDirectory = "mcp-auth-service";
            RuntimeDirectoryMode = "0700";
            SupplementaryGroups = lib.optional ownRedis config.services.redis.servers.mcp-oauth-gateway.group;
          };
      };
    };

    systemd.sockets.${topology.authSocket} = lib.mkIf (topology.has "auth") {
      description = "Authorization server of the MCP OAuth gateway";
      wantedBy = [ "sockets.target" ];
      listenStreams = [ cfg.settings.listen ];
      socketConfig = {
        Service = "mcp-auth-service.service";
      }
      // hardening.socket
      // lib.optionalAttrs (!topology.isSingle) { FreeBind = true; };
    };
  };
}
