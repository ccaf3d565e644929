# State: a Redis of the gateway's own on a unix socket only, unless one elsewhere is named.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.services.mcp-oauth-gateway;
  topology = import ../lib/topology.nix { inherit lib cfg; };
  hardening = import ../lib/hardening.nix;
in
{
  options.services.mcp-oauth-gateway.redis = {
    url = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "rediss+sentinel://10.0.0.11:26379,10.0.0.12:26379,10.0.0.13:26379/gateway";
      description = ''
        A Redis (6.2 or newer) elsewhere, shared by every host that runs the auth service: `redis://HOST:PORT`,
        `rediss://HOST:PORT` with TLS, or for Redis Sentinel `redis+sentinel://HOST:PORT,HOST:PORT/SERVICE`.
        Where null, this host runs one of its own, with an append-only file, reachable by the auth service alone.
      '';
    };

    passwordFile = mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/redis-password";
      description = "File with the password of the Redis at {option}`redis.url`, read by systemd as root.";
    };
  };

  config = lib.mkIf (cfg.enable && topology.has "auth") {
    services.redis.servers.mcp-oauth-gateway = lib.mkIf (cfg.redis.url == null) {
      enable = true;
      port = 0;
      unixSocketPerm = 660;
      # Grants and registrations must outlive a crash.
      appendOnly = true;
    };

    systemd.services.redis-mcp-oauth-gateway = lib.mkIf (cfg.redis.url == null) {
      # nixpkgs leaves a Redis that died as it is.
      startLimitIntervalSec = lib.mkDefault 0;
      serviceConfig = lib.mkMerge [
        (lib.mapAttrs (_: lib.mkDefault) hardening.restart)
        (lib.mkIf (cfg.journalNamespace != null) { LogNamespace = cfg.journalNamespace; })
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
