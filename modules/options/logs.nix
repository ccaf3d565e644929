# Where the gateway logs, and how much of it is kept.
{ lib, ... }:
let
  inherit (lib) mkOption types;
in
{
  options.services.mcp-oauth-gateway = {
    journalNamespace = mkOption {
      type = types.nullOr (types.strMatching "[a-z0-9-]+");
      default = null;
      example = "mcp-gateway";
      description = ''
        Journal namespace for all units of the gateway, including Redis and Traefik. Servers that log a lot then do not
        displace entries of the system's journal. `journalctl --namespace=mcp-gateway` shows it. If null, the units log
        to the system's journal.
      '';
    };

    journalSize = mkOption {
      type = types.str;
      default = "1G";
      example = "200M";
      description = "Maximum size of the journal of {option}`journalNamespace`. A change takes effect when `systemd-journald@NAMESPACE` is started again.";
    };

    auditSize = mkOption {
      type = types.str;
      default = "1G";
      example = "10G";
      description = ''
        Maximum size of the audit log. It always has a journal of its own, so that no other entries displace it:
        `journalctl --namespace=mcp-gateway-audit`. A change takes effect when `systemd-journald@mcp-gateway-audit` is
        started again.
      '';
    };

    logFiles = {
      enable = lib.mkEnableOption "copying the journal of {option}`journalNamespace` to {file}`/var/log/mcp-oauth-gateway/gateway.log`";

      keepDays = mkOption {
        type = types.ints.positive;
        default = 14;
        example = 30;
        description = "How many days of log files to keep. There is one file for each day.";
      };
    };
  };
}
