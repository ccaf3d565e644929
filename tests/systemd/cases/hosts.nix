# One of several hosts: bridges of some servers, and nothing of the rest.
{
  networking.hostName = "tools-1";
  services.prometheus = {
    enable = true;
    # An operator's own, which stay.
    scrapeConfigs = [ { job_name = "blog"; } ];
    exporters.node = {
      listenAddress = "0.0.0.0";
      port = 9200;
    };
  };
  services.mcp-oauth-gateway = {
    enable = true;
    domain = "mcp.example.com";
    acme.email = "ops@example.com";
    masterKeyFile = "/run/secrets/master-key";
    redis.url = "rediss+sentinel://10.0.0.11:26379,10.0.0.12:26379/gateway";
    identityProvider.github = {
      clientId = "Iv1.test";
      clientSecretFile = "/run/secrets/github";
      allowedUsers = [ "octocat" ];
    };
    hostName = "tools-1";
    metrics = {
      prometheus = {
        enable = true;
        allHosts = true;
      };
      alerts.enable = true;
    };
    hosts = {
      edge = {
        address = "10.0.0.1";
        roles = [
          "router"
          "auth"
        ];
      };
      spare = {
        address = "fd00::2";
        roles = [ "auth" ];
      };
      tools-1 = {
        address = "10.0.0.3";
        roles = [ "bridges" ];
      };
      tools-2 = {
        address = "10.0.0.4";
        roles = [ "bridges" ];
      };
    };
    servers = {
      time = {
        enable = true;
        userCredentials.TIME_TOKEN.label = "Token";
      };
      fetch = {
        enable = true;
        replicas = 2;
        hosts = [ "tools-1" ];
      };
      git = {
        enable = true;
        hosts = [ "tools-2" ];
      };
    };
  };
}
