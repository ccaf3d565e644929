# services.mcp-oauth-gateway. options/ has what an operator sets, config/ what NixOS makes of it, lib/ what both use.
{
  _class = "nixos";

  imports = [
    ./lib

    ./options/auth.nix
    ./options/clients.nix
    ./options/gateway.nix
    ./options/health.nix
    ./options/hosts.nix
    ./options/identity-provider/github.nix
    ./options/identity-provider/oidc.nix
    ./options/logs.nix
    ./options/metrics.nix
    ./options/records.nix
    ./options/redis.nix
    ./options/servers.nix
    ./options/tracing.nix
    ./options/traefik.nix
    ./options/trusted-issuers.nix

    ./config/assertions/clients.nix
    ./config/assertions/gateway.nix
    ./config/assertions/hosts.nix
    ./config/assertions/router.nix
    ./config/assertions/rules.nix
    ./config/assertions/servers.nix
    ./config/assertions/trusted-issuers.nix
    ./config/assertions/user-credentials.nix
    ./config/auth.nix
    ./config/bridges.nix
    ./config/egress.nix
    ./config/health.nix
    ./config/logs.nix
    ./config/metrics.nix
    ./config/recovery.nix
    ./config/redis.nix
    ./config/servers.nix
    ./config/settings.nix
    ./config/status.nix
    ./config/traefik.nix
  ];
}
