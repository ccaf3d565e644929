# The journal namespaces of the gateway and of its audit log, and log files.
{
  config,
  gatewayLib,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.mcp-oauth-gateway;
  inherit (gatewayLib) hardening topology units;
  namespace = cfg.journalNamespace;
  auditNamespace = "mcp-gateway-audit";
  auditSocket = "systemd-journald@${auditNamespace}.socket";
in
{
  config = lib.mkIf cfg.enable {
    environment.etc = lib.mkMerge [
      (lib.mkIf (namespace != null) {
        "systemd/journald@${toString namespace}.conf".text = ''
          [Journal]
          Storage=persistent
          SystemMaxUse=${cfg.journalSize}
        '';
      })
      (lib.mkIf (cfg.records.enable && topology.bridgedHere != { }) {
        # No record is dropped because there are many.
        "systemd/journald@${units.callNamespace}.conf".text = ''
          [Journal]
          Storage=persistent
          SystemMaxUse=${cfg.records.size}
          RateLimitIntervalSec=0
        '';
      })
      (lib.mkIf (topology.has "auth") {
        # No event is dropped because of its rate, or because other files fill the disk.
        "systemd/journald@${auditNamespace}.conf".text = ''
          [Journal]
          Storage=persistent
          SystemMaxUse=${cfg.auditSize}
          SystemKeepFree=0
          RateLimitIntervalSec=0
        '';
      })
    ];

    services.mcp-oauth-gateway.settings.audit_socket = lib.mkDefault "/run/systemd/journal.${auditNamespace}/dev-log";
    systemd.services.mcp-auth-service = lib.mkIf (topology.has "auth") {
      wants = [ auditSocket ];
      after = [ auditSocket ];
    };

    systemd.services.mcp-gateway-logs = lib.mkIf cfg.logFiles.enable {
      description = "Log files of the MCP OAuth gateway";
      wantedBy = [ "multi-user.target" ];
      # journalctl does not find a journal that is created after it has started.
      wants = [ "systemd-journald@${toString namespace}.service" ];
      after = [ "systemd-journald@${toString namespace}.service" ];
      startLimitIntervalSec = 0;
      serviceConfig = hardening.asDefaults (
        # Its own messages must not come back to it.
        removeAttrs hardening.unit [ "LogNamespace" ]
        # journalctl reads the boot id in /proc.
        // gatewayLib.sandbox.relaxations.proc.serviceConfig
        // hardening.restart
        // {
          # `with-unit` names the unit in each line: unlike the syslog identifier, a program cannot choose it.
          # With the cursor, journalctl continues where it stopped.
          ExecStart = "${lib.getExe' pkgs.systemd "journalctl"} --namespace=${toString namespace} --follow --lines=all --output=with-unit --cursor-file=%S/mcp-gateway-logs/cursor";
          StandardError = "journal";
          StandardOutput = "append:/var/log/mcp-oauth-gateway/gateway.log";
          DynamicUser = true;
          SupplementaryGroups = [ "systemd-journal" ];
          StateDirectory = "mcp-gateway-logs";
          UMask = "0027";
        }
      );
    };

    # Users who may read the journal may read the files.
    systemd.tmpfiles.settings.mcp-oauth-gateway = lib.mkIf cfg.logFiles.enable {
      "/var/log/mcp-oauth-gateway".d = {
        mode = "2750";
        user = "root";
        group = "systemd-journal";
      };
    };

    services.logrotate.settings.mcp-oauth-gateway = lib.mkIf cfg.logFiles.enable {
      files = "/var/log/mcp-oauth-gateway/gateway.log";
      frequency = "daily";
      rotate = cfg.logFiles.keepDays;
      compress = true;
      # journalctl keeps the file open for appending.
      copytruncate = true;
      missingok = true;
    };
  };
}
