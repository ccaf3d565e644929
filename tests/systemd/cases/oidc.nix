# What excludes the choices of github.nix: another identity provider, an own certificate, an older Traefik.
{ pkgs, ... }:
{
  services.traefik.package = pkgs.traefik // {
    version = "3.7.8";
  };
  services.mcp-oauth-gateway = {
    enable = true;
    domain = "mcp.example.com";
    certificate = {
      certFile = "/run/secrets/server.crt";
      keyFile = "/run/secrets/server.key";
    };
    identityProvider.oidc = {
      issuer = "https://login.example.com/";
      clientId = "gateway";
      clientSecretFile = "/run/secrets/oidc";
      title = "Acme login";
      scopes = [
        "openid"
        "groups"
      ];
      usernameClaim = "email";
      groupsClaim = "roles";
      authorizationParameters.prompt = "consent";
      allowedUsers = [ "octocat@example.com" ];
      allowedGroups = [ "engineering" ];
    };
    declaredClients.desktop = {
      secretFile = "/run/secrets/desktop";
      userAssertions = true;
    };
    redis = {
      url = "rediss://redis.example.com:6379/0";
      passwordFile = "/run/secrets/redis";
    };
    health.enable = false;
    accessLog.enable = false;
    records.enable = false;
    tracing.endpoint = "https://collector.example.com/v1/traces";
    servers.time = {
      enable = true;
      allowedGroups = [ "clocks" ];
      scopes.set = {
        description = "Set the clock";
        allowedGroups = [ "clockmakers" ];
      };
      sandbox.relaxations = [
        "devices"
        "namespaces"
        "resources"
      ];
    };
  };
}
