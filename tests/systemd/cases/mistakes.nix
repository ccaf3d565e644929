# What an operator may get wrong, one thing at a time; evaluated/mistakes.json has what they are told.
let
  gateway = changes: host: {
    services.mcp-oauth-gateway = host.lib.mkMerge [
      {
        enable = true;
        domain = "mcp.example.com";
        acme.email = host.lib.mkDefault "ops@example.com";
        identityProvider.github = {
          clientId = host.lib.mkDefault "Iv1.test";
          clientSecretFile = host.lib.mkDefault "/run/secrets/github";
          allowedUsers = host.lib.mkDefault [ "octocat" ];
        };
        servers.time.enable = host.lib.mkDefault true;
      }
      (if builtins.isFunction changes then changes host.lib else changes)
    ];
  };
  servers =
    changes:
    gateway (lib: {
      servers = if lib.isFunction changes then changes lib else changes;
    });
  client =
    name: client:
    gateway {
      declaredClients.${name} = client;
    };
  issuers =
    names: changes:
    gateway (lib: {
      trustedIssuers = lib.genAttrs names (
        _:
        {
          issuer = "https://token.actions.githubusercontent.com";
          audience = "https://mcp.example.com";
          subjects = [ "repo:acme/app:ref:refs/heads/main" ];
          servers = [ "time" ];
        }
        // changes
      );
    });
  secretFile = "/run/secrets/client";
  hosts =
    changes:
    gateway (
      lib:
      lib.mkMerge [
        {
          masterKeyFile = lib.mkDefault "/run/secrets/master-key";
          redis.url = lib.mkDefault "rediss://redis.example.com:6379";
          hosts = {
            machine = {
              address = "10.0.0.1";
              roles = lib.mkDefault [
                "router"
                "auth"
              ];
            };
            tools = {
              address = "10.0.0.2";
              roles = lib.mkDefault [ "bridges" ];
            };
          };
        }
        (if lib.isFunction changes then changes lib else changes)
      ]
    );
  traefik = version: host: {
    imports = [ (gateway { }) ];
    services.traefik.package = host.pkgs.traefik // {
      inherit version;
    };
  };
  keeping =
    changes:
    servers (lib: {
      time = lib.mkMerge [
        { stateDirectory = "per-user"; }
        changes
      ];
    });
  asking =
    changes:
    servers (lib: {
      time = lib.mkMerge [
        { userCredentials.API_TOKEN.label = "Token"; }
        changes
      ];
    });
  connecting =
    changes:
    asking {
      userCredentials.API_TOKEN.oauth = {
        authorizationEndpoint = "https://api.example.com/authorize";
        tokenEndpoint = "https://api.example.com/token";
        clientId = "gateway";
        scopes = [ "read" ];
      }
      // changes;
    };
in
{
  none = gateway { };
  credentials-of-users = connecting { };
  credentials-of-a-shared-process = asking { isolation = "shared"; };
  credentials-of-a-spare-process = asking { warmSpares = 1; };
  credentials-of-unknown-users = asking {
    settings = {
      require-identity = null;
      no-identity = true;
    };
  };
  credentials-without-a-bridge = servers {
    wiki = {
      url = "http://10.0.0.5:3000/mcp";
      userCredentials.API_TOKEN.label = "Token";
    };
  };
  credentials-beside-files-of-all-users = asking {
    userCredentials.API_TOKEN.label = "Token";
    stateDirectory = true;
  };
  credentials-beside-files-of-each-user = asking {
    userCredentials.API_TOKEN.label = "Token";
    stateDirectory = "per-user";
  };
  credential-of-no-variable = asking { userCredentials."API-TOKEN".label = "Token"; };
  credential-that-starts-programs = asking { userCredentials.LD_PRELOAD.label = "Token"; };
  credential-that-is-set = asking {
    userCredentials.API_KEY.label = "Key";
    environment.API_KEY = "x";
  };
  credential-of-two-kinds = asking {
    userCredentials.OTHER_TOKEN = {
      label = "Token";
      pattern = ".+";
      oauth = {
        authorizationEndpoint = "https://api.example.com/authorize";
        tokenEndpoint = "https://api.example.com/token";
        clientId = "gateway";
        scopes = [ ];
      };
    };
  };
  credential-without-its-secret = connecting { tokenEndpointAuthMethod = "client_secret_post"; };
  state-of-each-user = keeping { isolation = "per-user"; };
  state-of-a-shared-process = keeping { isolation = "shared"; };
  state-of-a-spare-process = keeping { settings.warm-spares = 1; };
  state-of-unknown-users = keeping {
    settings = {
      require-identity = null;
      no-identity = true;
    };
  };
  state-without-a-user-namespace = keeping { sandbox.relaxations = [ "namespaces" ]; };
  old-systemd = host: {
    imports = [ (gateway { }) ];
    systemd.package = host.pkgs.systemd // {
      version = "256.9";
    };
  };
  old-linux = {
    imports = [ (gateway { }) ];
    boot.kernelPackages.kernel.version = "6.6.30";
  };
  no-domain = gateway (lib: {
    domain = lib.mkForce "not a domain";
  });
  no-server = servers { time.enable = false; };
  client-without-id = client "Upper" {
    inherit secretFile;
    servers = [ "time" ];
  };
  client-with-a-servers-name = client "time" {
    inherit secretFile;
    servers = [ "time" ];
  };
  client-of-no-kind = client "nightly" { inherit secretFile; };
  client-of-both-kinds = client "nightly" {
    inherit secretFile;
    servers = [ "time" ];
    redirectUris = [ "https://portal.example.com/callback" ];
  };
  client-with-two-proofs = client "nightly" {
    inherit secretFile;
    jwksUrl = "https://ci.example.com/jwks.json";
    servers = [ "time" ];
  };
  client-with-its-public-key = client "nightly" {
    publicKeyFile = ./robot.pub.pem;
    servers = [ "time" ];
  };
  client-with-its-private-key = client "nightly" {
    publicKeyFile = ./robot.pem;
    servers = [ "time" ];
  };
  client-without-proof = client "nightly" { servers = [ "time" ]; };
  client-with-assertions-of-github = client "desktop" {
    inherit secretFile;
    userAssertions = true;
  };
  client-with-assertions-and-no-proof = client "desktop" { userAssertions = true; };
  client-of-an-unknown-server = client "nightly" {
    inherit secretFile;
    servers = [ "other" ];
  };
  client-with-an-unknown-scope = client "nightly" {
    inherit secretFile;
    servers = [ "time" ];
    scopes = [ "write" ];
  };
  client-with-users-and-scopes = client "portal" {
    redirectUris = [ "https://portal.example.com/callback" ];
    scopes = [ "mcp" ];
  };
  issuer-without-name = issuers [ "Upper" ] { };
  issuers-with-one-audience = issuers [
    "ci"
    "deploy"
  ] { };
  programs-at-a-server-that-asks-users = {
    imports = [
      (asking { })
      (client "nightly" {
        inherit secretFile;
        servers = [ "time" ];
      })
      (issuers [ "ci" ] { })
    ];
  };
  issuer-of-an-unknown-server = issuers [ "ci" ] { servers = [ "other" ]; };
  issuer-with-an-unknown-scope = issuers [ "ci" ] { scopes = [ "write" ]; };
  issuer-with-keys = issuers [ "ci" ] { keysFile = ./cluster-keys.json; };
  issuer-with-a-key-in-pem = issuers [ "ci" ] { keysFile = ./robot.pub.pem; };
  issuer-with-other-json = issuers [ "ci" ] { keysFile = ./notes.lock.json; };
  issuer-with-usual-subjects = issuers [ "ci" ] {
    subjects = [
      "repo:acme@1234567/app@7654321:ref:refs/heads/main"
      "repo:acme/*:ref:refs/heads/*"
      "repo:acme/app:environment:*"
      "repo:acme/app:pull_request"
      "repository_owner:acme"
    ];
  };
  issuer-with-subjects-of-no-job = issuers [ "ci" ] {
    subjects = [
      "acme/app"
      "repo:acme/app"
      "repo:acme/*"
      "repo:acme/app:*"
    ];
  };
  issuer-with-such-subjects-elsewhere = issuers [ "ci" ] {
    issuer = "https://ci.example.com";
    subjects = [ "acme/app" ];
  };
  credential-without-path = servers {
    wiki = {
      url = "https://tickets.internal.example.com";
      urlCredentialFile = "/run/secrets/token";
    };
  };
  certificate-without-path = servers {
    wiki = {
      url = "https://tickets.internal.example.com";
      urlClientCertificate = {
        certFile = "/run/secrets/cert.pem";
        keyFile = "/run/secrets/key.pem";
      };
    };
  };
  credential-without-url = servers { time.urlCredentialFile = "/run/secrets/token"; };
  authority-without-url = servers { time.urlCaFile = "/etc/ssl/ca.pem"; };
  authority-without-https = servers {
    wiki = {
      url = "http://10.0.0.5:3000/mcp";
      urlCaFile = "/etc/ssl/ca.pem";
    };
  };
  credential-in-plain-text = servers {
    wiki = {
      url = "http://10.0.0.5:3000/mcp";
      urlCredentialFile = "/run/secrets/token";
    };
  };
  credential-in-plain-text-to-a-name = servers {
    wiki = {
      url = "http://127.0.0.1.example.com:3000/mcp";
      urlCredentialFile = "/run/secrets/token";
    };
  };
  credential-in-plain-text-on-this-host = servers (
    lib:
    lib.mapAttrs
      (_: url: {
        inherit url;
        urlCredentialFile = "/run/secrets/token";
      })
      {
        one = "http://127.0.0.1:3000/mcp";
        two = "http://localhost:3000/mcp";
        three = "http://[::1]:3000/mcp";
        four = "https://10.0.0.5:3000/mcp";
      }
  );
  bridge-of-a-url = servers (lib: {
    wiki = {
      url = "http://10.0.0.5:3000/mcp";
      arguments = [ "--read-only" ];
      environment.LOG_LEVEL = "info";
      environmentFile = "/run/secrets/wiki.env";
      idleExit = 60;
      isolation = "per-user";
      limits.total.memory = "1G";
      port = 20001;
      sandbox = {
        network = "internet";
        readOnlyPaths = [ "/srv/documents" ];
      };
      serviceConfig.IOWeight = 50;
      settings.keep-alive = 30;
      stateDirectory = true;
      timeouts.call = 60;
    };
  });
  defaults-of-a-url = servers (lib: {
    wiki = {
      url = "http://10.0.0.5:3000/mcp";
      isolation = lib.mkDefault "per-session";
      sandbox.network = "none";
      sandbox.readOnlyPaths = [ ];
    };
    # An entry of the catalogue sets its sandbox only for its command.
    fetch.url = "http://10.0.0.6:3000/mcp";
  });
  proxy-beside-the-gateways = servers {
    time = {
      sandbox.network.domains = [ "api.example.com" ];
      environment = {
        HTTPS_PROXY = "http://10.0.0.1:3128";
        NO_PROXY = "localhost";
        LOG_LEVEL = "info";
      };
    };
  };
  proxy-of-the-operator = servers {
    time = {
      sandbox.network = "full";
      environment.HTTPS_PROXY = "http://10.0.0.1:3128";
    };
  };
  no-domains = servers (lib: {
    time.sandbox.network.domains = [ ];
  });
  no-domain-names = servers (lib: {
    time.sandbox.network.domains = [
      "api.example.com"
      "*.example.com"
      "https://api.example.com"
      "api.example.com:443"
      "api.example.com."
      "API.example.com"
      "bücher.example.com"
      "10.0.0.5"
      "::1"
      "*"
      "*.com"
      "localhost"
      "api.*.com"
    ];
  });
  no-name = servers { Upper.command = [ "/bin/true" ]; };
  no-command = servers { wiki = { }; };
  command-and-url = servers {
    wiki = {
      command = [ "/bin/true" ];
      url = "http://10.0.0.5:3000/mcp";
    };
  };
  no-url = servers { wiki.url = "10.0.0.5:3000"; };
  no-path = servers { time.workingDirectory = "documents"; };
  same-url = servers {
    wiki.url = "http://10.0.0.5:3000/mcp";
    notes = {
      url = "http://10.0.0.6:3000/mcp";
      publicUrl = "https://wiki.mcp.example.com/mcp";
    };
  };
  no-public-url = servers { time.publicUrl = "http://time.example.com"; };
  url-of-a-page = servers { time.publicUrl = "https://mcp.example.com/callback"; };
  url-of-a-callback = servers {
    time.publicUrl = "https://mcp.example.com/connections/callback/time/TOKEN";
  };
  url-with-a-dot-segment = servers { time.publicUrl = "https://mcp.example.com/x/../callback"; };
  url-with-an-escape = servers { time.publicUrl = "https://mcp.example.com/%63allback"; };
  url-of-a-page-at-another-port = servers { time.publicUrl = "https://mcp.example.com:8443/token"; };
  url-of-a-registration = servers {
    time.enable = false;
    register = {
      command = [ "/bin/true" ];
      routing = "path";
    };
  };
  url-of-a-document = servers { time.publicUrl = "https://time.example.com/.well-known/mcp"; };
  same-port = servers {
    time.port = 20001;
    fetch = {
      port = 20000;
      replicas = 2;
    };
  };
  sleep-of-spare-processes = servers {
    time = {
      warmSpares = 1;
      idleExit = 600;
    };
  };
  sleep-that-the-status-service-does-not-know-of = servers {
    time = {
      idleExit = 0;
      settings.idle-exit = 600;
    };
  };
  sleep-that-is-left-out = servers { time.settings.idle-exit = null; };
  sleep-that-is-said-twice = servers {
    time = {
      idleExit = 60;
      settings.idle-exit = 60;
    };
  };
  sleep-of-replicas = servers {
    time = {
      replicas = 2;
      idleExit = 600;
    };
  };
  port-of-the-status = gateway { statusPort = 22456; };
  port-of-the-service = gateway { port = 22456; };
  port-of-metrics = gateway {
    metrics = {
      enable = true;
      port = 9000;
    };
  };
  port-of-scraped-metrics = {
    imports = [
      (gateway {
        metrics = {
          prometheus.enable = true;
          port = 9000;
        };
      })
    ];
    services.prometheus.enable = true;
  };
  groups-of-github = servers { time.allowedGroups = [ "engineering" ]; };
  teams-of-oidc = gateway (lib: {
    identityProvider = {
      github.clientId = lib.mkForce null;
      oidc = {
        issuer = "https://login.example.com";
        clientId = "gateway";
        clientSecretFile = "/run/secrets/oidc";
        allowedUsers = [ "octocat" ];
      };
    };
    servers.time.allowedTeams = [ "acme/platform" ];
  });
  groups-of-github-for-a-scope = servers {
    time.scopes.set = {
      description = "Set the clock";
      allowedGroups = [ "clockmakers" ];
    };
  };
  teams-of-oidc-for-a-scope = gateway (lib: {
    identityProvider = {
      github.clientId = lib.mkForce null;
      oidc = {
        issuer = "https://login.example.com";
        clientId = "gateway";
        clientSecretFile = "/run/secrets/oidc";
        allowedUsers = [ "octocat" ];
      };
    };
    servers.time.scopes.set = {
      description = "Set the clock";
      allowedOrganizations = [ "acme" ];
      allowedTeams = [ "acme/clockmakers" ];
    };
  });
  no-provider = gateway { identityProvider.github.clientId = null; };
  no-client-secret = gateway { identityProvider.github.clientSecretFile = null; };
  no-issuer = gateway (lib: {
    identityProvider = {
      github.clientId = lib.mkForce null;
      oidc = {
        issuer = "login.example.com";
        clientId = "gateway";
        clientSecretFile = "/run/secrets/oidc";
        allowedUsers = [ "octocat" ];
      };
    };
  });
  two-providers = gateway {
    identityProvider.oidc = {
      issuer = "https://login.example.com";
      clientId = "gateway";
      clientSecretFile = "/run/secrets/oidc";
      allowedUsers = [ "octocat" ];
    };
  };
  rules-without-a-bridge = servers {
    wiki = {
      url = "http://10.0.0.5:3000/mcp";
      prompts.default = "deny";
    };
  };
  unknown-scope = servers {
    time = {
      scopes.read.description = "Read";
      tools.rules."create_*".scopes = [
        "read"
        "wirte"
      ];
    };
  };
  unknown-scope-beside-the-usual-one = servers {
    time.prompts.rules.review.scopes = [
      "mcp"
      "write"
    ];
  };
  rules-that-tie = servers {
    time.resources.rules = {
      "memo://*" = { };
      "memo://*/private".deny = true;
      "memo://a*/private".deny = true;
      "memo://*/public" = { };
    };
  };
  denied-with-scopes = servers {
    time.tools.rules.drop = {
      scopes = [ "mcp" ];
      deny = true;
    };
  };
  denied-with-a-quota = servers {
    time.tools.rules = {
      drop = {
        callsPerMinute = 5;
        deny = true;
      };
      wipe = {
        arguments.maxProperties = 0;
        deny = true;
      };
    };
  };
  quota-without-a-bridge = servers {
    wiki = {
      url = "http://10.0.0.5:3000/mcp";
      limits.callsPerMinute = 60;
      limits.callsPerUser = 4;
    };
  };
  records-without-a-bridge = servers {
    wiki = {
      url = "http://10.0.0.5:3000/mcp";
      records.arguments = "digest";
    };
  };
  lock-without-a-bridge = servers {
    wiki = {
      url = "http://10.0.0.5:3000/mcp";
      toolsLockFile = ./notes.lock.json;
    };
  };
  lock-of-something-else = servers { time.toolsLockFile = ../../npm/package.json; };
  no-certificate = gateway { acme.email = null; };
  two-certificates = gateway {
    certificate = {
      certFile = "/etc/server.crt";
      keyFile = "/etc/server.key";
    };
  };
  half-a-certificate = gateway {
    acme.email = null;
    certificate.certFile = "/etc/server.crt";
  };
  no-dns-provider = gateway { acme.challenge = "dns-01"; };
  dns-provider-for-nothing = gateway { acme.dnsProvider = "hetzner"; };
  no-default-server = gateway { defaultServer = "nobody"; };
  long-login = gateway { lifetimes.login = 3600; };
  no-redis = gateway { redis.url = "http://redis.example.com"; };
  password-of-no-redis = gateway { redis.passwordFile = "/run/secrets/redis"; };
  redis-password = gateway { redis.url = "redis://:secret@redis.example.com"; };
  names-resolved-by-no-proxy = gateway { clientDocuments.proxyResolvesNames = true; };
  log-files-of-no-journal = gateway { logFiles.enable = true; };
  metrics-without-prometheus = gateway { metrics.prometheus.enable = true; };
  alerts-about-nothing = gateway { metrics.alerts.enable = true; };
  alerts-by-an-agent = {
    imports = [
      (gateway {
        metrics = {
          prometheus.enable = true;
          alerts.enable = true;
        };
      })
    ];
    services.prometheus = {
      enable = true;
      enableAgentMode = true;
    };
  };
  dashboard-without-grafana = gateway { metrics.dashboard.enable = true; };

  several-hosts = hosts { };
  not-among-the-hosts = hosts { hostName = "elsewhere"; };
  host-name = hosts {
    hosts."Tools_1" = {
      address = "10.0.0.3";
      roles = [ "bridges" ];
    };
  };
  no-router = hosts { hosts.machine.roles = [ "auth" ]; };
  two-redis = hosts {
    redis.url = null;
    hosts.tools.roles = [
      "auth"
      "bridges"
    ];
  };
  no-shared-key = hosts { masterKeyFile = null; };
  no-key-for-bridges = hosts {
    masterKeyFile = null;
    hostName = "tools";
  };
  host-by-name = hosts (lib: {
    hosts.tools.address = lib.mkForce "tools.example.com";
  });
  host-at-every-address = hosts (lib: {
    hosts.tools.address = lib.mkForce "0.0.0.0";
  });
  same-address = hosts (lib: {
    hosts.tools.address = lib.mkForce "10.0.0.1";
  });
  unknown-host-for-a-server = hosts {
    servers.time.hosts = [
      "tools"
      "tolls"
    ];
  };
  no-host-for-a-server = hosts { servers.time.hosts = [ "machine" ]; };

  nobody = gateway { identityProvider.github.allowedUsers = [ ]; };
  secret-in-the-environment = servers { time.environment.API_TOKEN = "secret"; };
  forgeable-headers = traefik "3.7.5";
  forgeable-headers-of-the-older-line = traefik "3.6.22";
  known-flaws = traefik "3.7.12";
  aliases = traefik "3.7.8";
}
