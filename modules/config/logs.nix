# Where the gateway's logs are: the system's journal, or one of their own, and plain files for those who want them.
{
  config,
  gatewayLib,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.mcp-oauth-gateway;
  inherit (gatewayLib) hardening topology;
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
      (lib.mkIf (topology.has "auth") {
        # No event is dropped for coming too fast, and none goes because others fill the disk.
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
      # journalctl finds no journal that begins after it.
      wants = [ "systemd-journald@${toString namespace}.service" ];
      after = [ "systemd-journald@${toString namespace}.service" ];
      startLimitIntervalSec = 0;
      serviceConfig = hardening.asDefaults (
        # What it says itself must not come back to it.
        removeAttrs hardening.unit [ "LogNamespace" ]
        # journalctl wants to know of which boot an entry is.
        // gatewayLib.sandbox.relaxations.proc.serviceConfig
        // hardening.restart
        // {
          # Each line names its unit, which no program can choose, as it can the identifier that it logs by.
          # The cursor makes it go on where it stopped.
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

    # Who may read the journal may read the files.
    systemd.tmpfiles.settings.mcp-oauth-gateway."/var/log/mcp-oauth-gateway".d = lib.mkIf cfg.logFiles.enable {
      mode = "2750";
      user = "root";
      group = "systemd-journal";
    };

    services.logrotate.settings.mcp-oauth-gateway = lib.mkIf cfg.logFiles.enable {
      files = "/var/log/mcp-oauth-gateway/gateway.log";
      frequency = "daily";
      rotate = cfg.logFiles.keepDays;
      compress = true;
      # It is open for appending, and stays so.
      copytruncate = true;
      missingok = true;
    };
  };
}
