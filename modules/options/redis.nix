# Where the gateway's state is.
{ lib, ... }:
let
  inherit (lib) mkOption types;
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
}
