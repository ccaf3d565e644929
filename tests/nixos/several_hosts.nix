# One gateway on five hosts: a router, two auth services with one Redis, and two that run the server's bridges.
let
  address = host: "192.168.1.${toString host}";

  common =
    { lib, pkgs, ... }:
    {
      services.mcp-oauth-gateway = {
        enable = true;
        domain = "mcp.example.com";
        masterKeyFile = "/etc/test-secrets/master-key";
        redis.url = "redis://edge:6379";
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
        # As the test driver numbers machines: by name.
        hosts = {
          auth1 = {
            address = address 1;
            roles = [ "auth" ];
          };
          auth2 = {
            address = address 2;
            roles = [ "auth" ];
          };
          edge = {
            address = address 3;
            roles = [ "router" ];
          };
          tools1 = {
            address = address 4;
            roles = [ "bridges" ];
          };
          tools2 = {
            address = address 5;
            roles = [ "bridges" ];
          };
        };
        servers.time.command = [
          (lib.getExe pkgs.mcp-server-time)
          "--local-timezone=UTC"
        ];
        # Each of its users has a token of their own. Its bridge asks another host for it.
        servers.vault = {
          command = [ (lib.getExe pkgs.hostile-server) ];
          hosts = [ "tools2" ];
          userCredentials.VAULT_TOKEN.label = "Vault token";
        };
      };

      networking.hosts.${address 3} = [
        "mcp.example.com"
        "time.mcp.example.com"
        "vault.mcp.example.com"
        "github.example.com"
      ];
      # Between the hosts only, in a network of their own.
      networking.firewall.enable = false;

      environment.systemPackages = [ pkgs.test-client ];
    };

  edge =
    { lib, pkgs, ... }:
    {
      imports = [ common ];

      services.mcp-oauth-gateway.metrics.enable = true;

      # What the gateway shares and asks: neither is its own.
      services.redis.servers.shared = {
        enable = true;
        port = 6379;
        bind = address 3;
        appendOnly = true;
        settings.protected-mode = "no";
      };
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
    };
in
{
  nodes = {
    inherit edge;
    auth1 = common;
    auth2 = common;
    tools1 = common;
    tools2 = common;
  };
}
