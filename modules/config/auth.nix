# The authorization server's unit and socket, and the key that all others are derived from.
{
  config,
  gatewayLib,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.mcp-oauth-gateway;
  inherit (gatewayLib)
    hardening
    keys
    topology
    units
    ;
  provider = gatewayLib.identityProvider.chosen;
  settingsFile = "mcp-oauth-gateway/settings.json";
  service = lib.getExe' cfg.package "mcp-auth-service";
  # Checked in the build: after a reload with bad settings the service would keep its old ones.
  settings = gatewayLib.checkedJson {
    name = "settings.json";
    value = cfg.settings;
    check = if topology.has "auth" then "${service} --check --settings" else null;
  };
  ownRedis = cfg.redis.url == null;
  connectionSecrets =
    server:
    { userCredentials, ... }:
    lib.mapAttrsToList
      (name: { oauth, ... }: "user-credential-secret.${server}.${name}:${oauth.clientSecretFile}")
      (
        lib.filterAttrs (_: { oauth, ... }: oauth != null && oauth.clientSecretFile != null) userCredentials
      );
in
{
  config = lib.mkIf cfg.enable {
    # The path never changes, so that a new server reloads the service and does not restart it.
    environment.etc.${settingsFile}.source = settings;
    environment.systemPackages = [ cfg.package ];

    systemd.slices.mcp-gateway.description = "MCP OAuth gateway";

    systemd.services = {
      mcp-oauth-gateway-master-key = lib.mkIf keys.isMasterKeyGenerated {
        description = "Master key of the MCP OAuth gateway";
        unitConfig.ConditionPathExists = "!${keys.masterKeyFile}";
        serviceConfig = hardening.asDefaults (
          hardening.unit
          // {
            Type = "oneshot";
            StateDirectory = "mcp-oauth-gateway";
            StateDirectoryMode = "0700";
          }
        );
        # The key is renamed into place, so that it is never there half-written.
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
        ++ keys.masterKeyUnits;
        after = [
          "network-online.target"
          "${topology.authSocket}.socket"
        ]
        ++ lib.optional ownRedis "redis-mcp-oauth-gateway.service"
        ++ keys.masterKeyUnits;
        reloadTriggers = [ config.environment.etc.${settingsFile}.source ];
        startLimitIntervalSec = 0;
        # Requests wait in the socket meanwhile.
        stopIfChanged = false;
        # The host's certificate authorities, for an identity provider with a private one.
        environment.REQUESTS_CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt";
        serviceConfig = hardening.asDefaults (
          hardening.unit
          // hardening.relax.network
          // hardening.restart
          // {
            Type = "notify";
            # The workers report readiness, not the main process.
            NotifyAccess = "all";
            WatchdogSec = 60;
            # No core dump, as of a bridge: the workers have the master key, and what users have given for servers.
            LimitCORE = 1;
            # Gunicorn ends its workers itself, after their running requests.
            KillMode = "mixed";
            ExecStart = "${service} --settings /etc/${settingsFile}";
            ExecReload = "${lib.getExe' pkgs.coreutils "kill"} -HUP $MAINPID";
            LoadCredential = [
              "client-secret:${toString provider.clientSecretFile}"
              "master-key:${keys.masterKeyFile}"
            ]
            ++ lib.optional (cfg.redis.passwordFile != null) "redis-password:${cfg.redis.passwordFile}"
            ++ lib.mapAttrsToList (name: client: "declared-client.${name}:${client.secretFile}") (
              lib.filterAttrs (_: client: client.secretFile != null) cfg.declaredClients
            )
            ++ lib.concatLists (lib.mapAttrsToList connectionSecrets topology.enabled)
            ++ lib.mapAttrsToList (name: server: "backend-credential.${name}:${server.urlCredentialFile}") (
              lib.filterAttrs (_: server: server.urlCredentialFile != null) topology.enabled
            );
            DynamicUser = true;
            StateDirectory = "mcp-auth-service";
            StateDirectoryMode = "0700";
            # The workers share their metrics here, in memory-mapped files.
            RuntimeDirectory = "mcp-auth-service";
            RuntimeDirectoryMode = "0700";
            SupplementaryGroups = lib.optional ownRedis config.services.redis.servers.mcp-oauth-gateway.group;
          }
        );
      };
    };

    systemd.sockets.${topology.authSocket} = lib.mkIf (topology.has "auth") {
      description = "Authorization server of the MCP OAuth gateway";
      wantedBy = [ "sockets.target" ];
      onFailure = [ (units.recoveryOf topology.authSocket) ];
      startLimitIntervalSec = 0;
      listenStreams = [ cfg.settings.listen ];
      socketConfig = hardening.asDefaults (
        hardening.socket // topology.socketConfig // { Service = "mcp-auth-service.service"; }
      );
    };
  };
}
