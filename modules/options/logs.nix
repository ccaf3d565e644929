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
        A journal of its own for all units of the gateway, Redis and Traefik among them, which servers that log much
        cannot push others' entries out of: `journalctl --namespace=mcp-gateway` shows the whole. Where null, they log
        to the system's journal.
      '';
    };

    journalSize = mkOption {
      type = types.str;
      default = "1G";
      example = "200M";
      description = "How large that journal may become. It counts from the next start of `systemd-journald@NAMESPACE` on.";
    };

    auditSize = mkOption {
      type = types.str;
      default = "1G";
      example = "10G";
      description = ''
        How large the audit log may become, whose journal is always its own, so that nothing else makes room for itself
        in it: `journalctl --namespace=mcp-gateway-audit`. It counts from the next start of
        `systemd-journald@mcp-gateway-audit` on.
      '';
    };

    logFiles = {
      enable = lib.mkEnableOption "writing {option}`journalNamespace` to {file}`/var/log/mcp-oauth-gateway/gateway.log` as well";

      keepDays = mkOption {
        type = types.ints.positive;
        default = 14;
        example = 30;
        description = "How many days of it to keep. A new file begins each day.";
      };
    };
  };
}
