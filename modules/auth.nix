# The authorization server, its settings.json, and the key that all others are derived from.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.mcp-oauth-gateway;
  github = cfg.identityProvider.github;
  redis = config.services.redis.servers.mcp-oauth-gateway;
  hardening = import ../nix/hardening.nix;
  settingsFile = "mcp-oauth-gateway/settings.json";

  allowed = access: {
    users = access.allowedUsers;
    organizations = access.allowedOrganizations;
    teams = access.allowedTeams;
  };
  isEmpty = lists: lib.all (list: list == [ ]) (lib.attrValues lists);

  resource =
    server:
    {
      url = server.publicUrl;
      backends = [ (if server.url != null then server.url else "http://127.0.0.1:${toString server.port}/mcp") ];
    }
    // lib.optionalAttrs (server.title != null) { inherit (server) title; }
    // lib.optionalAttrs (!isEmpty (allowed server)) { allowed = allowed server; };
in
{
  options.services.mcp-oauth-gateway.generatedMasterKeyFile = lib.mkOption {
    type = lib.types.externalPath;
    internal = true;
    readOnly = true;
    default =
      if cfg.masterKeyFile != null then
        cfg.masterKeyFile
      else
        "/var/lib/mcp-oauth-gateway/master-key";
    description = "Where the master key is, given or made.";
  };

  config = lib.mkIf cfg.enable {
    services.mcp-oauth-gateway.settings = {
      issuer = lib.mkDefault "https://${cfg.domain}";
      identity_provider = {
        type = lib.mkDefault "github";
        client_id = lib.mkDefault github.clientId;
        url = lib.mkDefault github.url;
        api_url = lib.mkDefault github.apiUrl;
      };
      allowed = lib.mapAttrs (_: lib.mkDefault) (allowed github);
      state_directory = "/var/lib/mcp-auth-service";
      listen = "127.0.0.1:${toString cfg.port}";
      internal_url = "http://127.0.0.1:${toString cfg.port}";
      resources = lib.mapAttrs (_: resource) cfg.servers;
    };

    # A stable path: a changed set of servers reloads the service and never restarts it.
    environment.etc.${settingsFile}.text = builtins.toJSON cfg.settings;
    environment.systemPackages = [ cfg.package ];

    systemd.slices.mcp-gateway.description = "MCP OAuth gateway";

    systemd.services.mcp-oauth-gateway-master-key = lib.mkIf (cfg.masterKeyFile == null) {
      description = "Master key of the MCP OAuth gateway";
      unitConfig.ConditionPathExists = "!${cfg.generatedMasterKeyFile}";
      serviceConfig = hardening.base // {
        Type = "oneshot";
        Slice = "mcp-gateway.slice";
        StateDirectory = "mcp-oauth-gateway";
        StateDirectoryMode = "0700";
      };
      # The rename makes a half-written key impossible.
      script = ''
        od --address-radix=n --format=x1 --read-bytes=32 /dev/urandom | tr --delete ' \n' > "$STATE_DIRECTORY/master-key.new"
        mv "$STATE_DIRECTORY/master-key.new" "$STATE_DIRECTORY/master-key"
      '';
    };

    systemd.services.mcp-auth-service = {
      description = "Authorization server of the MCP OAuth gateway";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      requires = lib.optional (cfg.masterKeyFile == null) "mcp-oauth-gateway-master-key.service";
      after = [
        "network-online.target"
        "redis-mcp-oauth-gateway.service"
      ]
      ++ lib.optional (cfg.masterKeyFile == null) "mcp-oauth-gateway-master-key.service";
      reloadTriggers = [ config.environment.etc.${settingsFile}.source ];
      # The host's certificate authorities, for a GitHub Enterprise Server with one of its own.
      environment.REQUESTS_CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt";
      serviceConfig =
        hardening.base
        // hardening.relax.network
        // {
          Type = "notify";
          # A worker tells of readiness, since only a worker knows.
          NotifyAccess = "all";
          Slice = "mcp-gateway.slice";
          ExecStart = "${lib.getExe' cfg.package "mcp-auth-service"} --settings /etc/${settingsFile}";
          ExecReload = "${lib.getExe' pkgs.coreutils "kill"} -HUP $MAINPID";
          Restart = "always";
          RestartSec = 1;
          LoadCredential = [
            "client-secret:${toString github.clientSecretFile}"
            "master-key:${cfg.generatedMasterKeyFile}"
          ];
          DynamicUser = true;
          StateDirectory = "mcp-auth-service";
          StateDirectoryMode = "0700";
          SupplementaryGroups = [ redis.group ];
        };
    };
  };
}
