# State: a Redis of the gateway's own, on a unix socket only.
{ config, lib, ... }:
let
  cfg = config.services.mcp-oauth-gateway;
in
{
  config = lib.mkIf cfg.enable {
    services.redis.servers.mcp-oauth-gateway = {
      enable = true;
      port = 0;
      unixSocketPerm = 660;
      # Grants and registrations must outlive a crash.
      appendOnly = true;
    };

    services.mcp-oauth-gateway.settings.redis_url = lib.mkDefault "unix://${config.services.redis.servers.mcp-oauth-gateway.unixSocket}";
  };
}
