# The gateway's own Redis, on a unix socket only, unless `redis.url` names another one.
{
  config,
  gatewayLib,
  lib,
  ...
}:
let
  cfg = config.services.mcp-oauth-gateway;
  inherit (gatewayLib) hardening topology;
in
{
  config = lib.mkIf (cfg.enable && topology.has "auth") {
    services.redis.servers.mcp-oauth-gateway = lib.mkIf (cfg.redis.url == null) {
      enable = true;
      port = 0;
      unixSocketPerm = 660;
      # Grants and registrations must outlive a crash.
      appendOnly = true;
    };

    systemd.services.redis-mcp-oauth-gateway = lib.mkIf (cfg.redis.url == null) {
      # nixpkgs does not restart a Redis that has died.
      startLimitIntervalSec = lib.mkDefault 0;
      serviceConfig = lib.mkMerge [
        (hardening.asDefaults hardening.restart)
        hardening.journal
      ];
    };

    services.mcp-oauth-gateway.settings.redis_url = lib.mkDefault (
      if cfg.redis.url != null then
        cfg.redis.url
      else
        "unix://${config.services.redis.servers.mcp-oauth-gateway.unixSocket}"
    );
  };
}
