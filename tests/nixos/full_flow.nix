# A gateway in front of one real server, whose users come from the stand-in for GitHub.
{ lib, pkgs, ... }:
{
  services.mcp-oauth-gateway = {
    enable = true;
    domain = "mcp.example.com";
    openFirewall = true;
    certificate = {
      certFile = "/etc/test-certificates/server.crt";
      keyFile = "/etc/test-certificates/server.key";
    };
    identityProvider.github = {
      clientId = "Iv1.test";
      clientSecretFile = "/etc/test-secrets/github-client-secret";
      url = "https://github.example.com";
      apiUrl = "https://github.example.com";
      allowedUsers = [
        "octocat"
        "hubot"
      ];
    };
    journalNamespace = "mcp-gateway";
    logFiles.enable = true;
    metrics.enable = true;
    servers.time = {
      command = [
        (lib.getExe pkgs.mcp-server-time)
        "--local-timezone=UTC"
      ];
      scopes = {
        mcp.description = "Ask for the time";
        convert = {
          description = "Convert times";
          required = false;
          # octocat is a member, hubot is not.
          allowedTeams = [ "acme/platform" ];
        };
      };
      limits.callsPerMinute = 1000;
      tools.rules.convert_time = {
        scopes = [ "convert" ];
        arguments.properties.target_timezone.const = "UTC";
      };
    };
  };

  # The stand-in for GitHub, on a route of the host's own.
  systemd.services.stand-in-github = {
    description = "Stand-in for GitHub";
    wantedBy = [ "multi-user.target" ];
    serviceConfig.ExecStart = "${lib.getExe pkgs.stand-in-github} --listen 127.0.0.1:8090 --client-id Iv1.test --client-secret-file /etc/test-secrets/github-client-secret --callback-url https://mcp.example.com/callback";
  };
  services.traefik.dynamicConfigOptions.http = {
    routers.github = {
      rule = "Host(`github.example.com`)";
      entryPoints = [ "websecure" ];
      tls = { };
      service = "github";
    };
    services.github.loadBalancer.servers = [ { url = "http://127.0.0.1:8090"; } ];
  };
  networking.hosts."127.0.0.1" = [
    "mcp.example.com"
    "time.mcp.example.com"
    "github.example.com"
  ];

  environment.systemPackages = [ pkgs.test-client ];
}
