# The Redis that has the gateway's state.
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
        URL of a Redis (6.2 or newer) that all hosts with the auth service share: `redis://HOST:PORT`,
        `rediss://HOST:PORT` with TLS, or for Redis Sentinel `redis+sentinel://HOST:PORT,HOST:PORT/SERVICE`.
        If null, this host runs a Redis with an append-only file, to which only the auth service can connect.
      '';
    };

    passwordFile = mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/redis-password";
      description = "File with the password of the Redis at {option}`redis.url`. systemd reads it as root.";
    };
  };
}
