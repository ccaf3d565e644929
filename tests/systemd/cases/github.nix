# Every option of a gateway on one host, with GitHub and certificates by DNS-01; oidc.nix has what these exclude.
{ lib, pkgs, ... }:
{
  services.prometheus.enable = true;
  services.grafana.enable = true;
  services.mcp-oauth-gateway = {
    enable = true;
    package = pkgs.callPackage ../../../nix/package.nix { };
    domain = "mcp.example.com";
    homePage = {
      enable = true;
      public = true;
    };
    routing = "path";
    openFirewall = true;
    port = 9010;
    workers = 2;
    logLevel = "debug";
    defaultServer = "notes";
    hstsSeconds = 0;
    trustedProxies = [ "192.0.2.0/24" ];
    masterKeyFile = "/run/secrets/master-key";

    acme = {
      email = "ops@example.com";
      challenge = "dns-01";
      dnsProvider = "hetzner";
      environmentFile = "/run/secrets/dns.env";
      server = "https://acme-staging-v02.api.letsencrypt.org/directory";
      caCertificates = [ "/etc/ssl/certs/internal-ca.pem" ];
    };

    identityProvider.github = {
      clientId = "Iv1.test";
      clientSecretFile = "/run/secrets/github";
      url = "https://github.example.com";
      apiUrl = "https://github.example.com/api/v3";
      allowedUsers = [ "octocat" ];
      allowedOrganizations = [ "acme" ];
      allowedTeams = [ "acme/platform" ];
    };

    lifetimes = {
      accessToken = 600;
      refreshToken = 86400;
      login = 300;
      session = 3600;
      signingKey = 86400;
      unusedClient = 3600;
      unconfirmedUser = 3600;
    };
    limits = {
      registrationsPerHour = 20;
      unusedClients = 1000;
      grantsPerClient = 10;
      tokenRequestsPerMinute = 60;
    };
    rateLimits =
      lib.genAttrs
        [
          "registration"
          "authorization"
          "token"
          "metadata"
        ]
        (_: {
          average = 2;
          period = 1;
          burst = 20;
        });
    declaredClients = {
      nightly = {
        title = "Nightly report";
        secretFile = "/run/secrets/nightly";
        servers = [ "notes" ];
        scopes = [ "notes:write" ];
        lifetime = 600;
      };
      ci = {
        jwksUrl = "https://ci.example.com/jwks.json";
        servers = [ "notes" ];
      };
      robot = {
        publicKeyFile = ./robot.pub.pem;
        servers = [ "notes" ];
      };
      portal.redirectUris = [ "https://portal.example.com/oauth/callback" ];
    };
    trustedIssuers = {
      github-actions = {
        issuer = "https://token.actions.githubusercontent.com";
        audience = "https://mcp.example.com";
        subjects = [
          "repo:acme@1234567/app@7654321:ref:refs/heads/main"
          "repo:acme/app:ref:refs/heads/main"
        ];
        claims.repository_owner_id = "1234567";
        servers = [ "notes" ];
      };
      cluster = {
        issuer = "https://kubernetes.default.svc";
        audience = "mcp";
        subjects = [ "system:serviceaccount:jobs:*" ];
        keysFile = ./cluster-keys.json;
        servers = [ "notes" ];
        scopes = [ "notes:write" ];
        lifetime = 300;
      };
    };
    clients.redirectSchemes.myapp = {
      name = "My App";
      callbacks = [ "myapp://mcp/oauth/callback" ];
    };
    clientDocuments = {
      enable = true;
      allowedHosts = [ "claude.ai" ];
      probeUrls = [ "https://claude.ai/oauth/claude-code-client-metadata" ];
      proxy = "http://10.0.0.1:3128";
      proxyResolvesNames = true;
    };

    accessLog.enable = true;
    tracing = {
      endpoint = "http://127.0.0.1:4318/v1/traces";
      sampleRatio = 0.1;
    };
    statusPort = 9011;
    metrics = {
      enable = true;
      port = 9110;
      prometheus = {
        enable = true;
        allHosts = true;
      };
      alerts.enable = true;
      dashboard.enable = true;
    };
    health = {
      enable = true;
      interval = "1h";
      onFailure = [ "alert.service" ];
    };
    journalNamespace = "gateway";
    journalSize = "200M";
    auditSize = "2G";
    records = {
      enable = true;
      size = "3G";
      arguments = "digest";
    };
    logFiles = {
      enable = true;
      keepDays = 30;
    };

    settings.router.entry_points = [ "websecure" ];

    servers = {
      notes = {
        enable = true;
        preset = "filesystem";
        arguments = [ "/srv/documents" ];
        title = "Notes";
        description = "Reads and writes notes.";
        routing = "subdomain";
        publicUrl = "https://notes.example.com/mcp";
        port = 21000;
        scopes = {
          "notes:read".description = "Read notes";
          "notes:write" = {
            description = "Change notes";
            required = false;
            allowedUsers = [ "octocat" ];
            allowedOrganizations = [ "owners" ];
            allowedTeams = [ "acme/writers" ];
          };
        };
        tools = {
          default = "deny";
          rules = {
            "read_*" = { };
            "write_*" = {
              scopes = [ "notes:write" ];
              callsPerMinute = 10;
              arguments = {
                required = [ "path" ];
                properties.path.pattern = "^/srv/documents/";
              };
            };
            read_multiple_files.deny = true;
          };
        };
        toolsLockFile = ./notes.lock.json;
        prompts = {
          default = "deny";
          rules = {
            summary = {
              scopes = [ "notes:read" ];
              callsPerMinute = 5;
              arguments.maxProperties = 1;
            };
            "internal-*".deny = true;
          };
        };
        resources = {
          default = "allow";
          rules = {
            "file:///srv/documents/private/*".deny = true;
            "file:///srv/documents/large/*".callsPerMinute = 1;
            "file:///srv/documents/drafts/*".scopes = [
              "notes:read"
              "notes:write"
            ];
          };
        };
        environment.PERCENT = "100%";
        environmentFile = "/run/secrets/notes.env";
        path = [ pkgs.git ];
        stateDirectory = true;
        workingDirectory = "/srv/documents";
        identityKeyFile = "/run/secrets/identity-notes";
        isolation = "per-user";
        warmSpares = 1;
        startsAtOnce = 2;
        era = "legacy";
        protocolVersions = [
          "2025-06-18"
          "2025-11-25"
        ];
        serverProtocolVersion = "2025-06-18";
        logLevel = "debug";
        replicas = 2;
        records.arguments = "full";
        timeouts = {
          call = 60;
          callTotal = 600;
          input = 120;
          idle = 300;
          stop = 3;
          drain = 5;
        };
        limits = {
          messageBytes = 1048576;
          sessions = 50;
          sessionsPerUser = 5;
          sharedSessions = 500;
          sharedSessionsPerUser = 50;
          calls = 1000;
          callsPerUser = 4;
          callsPerMinute = 120;
          connections = 512;
          memory = "512M";
          tasks = 64;
          cpu = "50%";
          total = {
            memory = "2G";
            tasks = 512;
            cpu = "150%";
          };
        };
        settings = {
          keep-alive = 30;
          max-calls = 500;
          server-protocol-version = null;
        };
        sandbox = {
          network = "internet";
          relaxations = [
            "jit"
            "proc"
          ];
          readOnlyPaths = [ "/home/octocat/notes" ];
          readWritePaths = [ "/srv/documents" ];
          groups = [ "documents" ];
        };
        serviceConfig = {
          IOWeight = 50;
          BindPaths = "/run/postgresql";
          TemporaryFileSystem = [ "/srv" ];
          SystemCallFilter = lib.mkForce [ "@system-service" ];
          ProtectClock = false;
          OOMPolicy = "stop";
        };
        allowedUsers = [ "hubot" ];
        allowedOrganizations = [ "robots" ];
        allowedTeams = [ "acme/notes" ];
      };
      wiki = {
        url = "https://10.0.0.5:3000/mcp";
        urlCredentialFile = "/run/secrets/wiki-token";
        urlClientCertificate = {
          certFile = "/run/secrets/gateway.crt";
          keyFile = "/run/secrets/gateway.key";
        };
        urlCaFile = "/etc/ssl/wiki-ca.pem";
      };
      local = {
        command = [ (lib.getExe pkgs.mcp-server-time) ];
        idleExit = 60;
      };
      issues = {
        command = [ (lib.getExe pkgs.mcp-server-time) ];
        isolation = "per-user";
        userCredentials = {
          TRACKER_TOKEN = {
            label = "Tracker token";
            help = "Create one in the tracker's settings.";
            pattern = "trk_[A-Za-z0-9]{20,}";
          };
          DRIVE_TOKEN = {
            label = "Drive";
            oauth = {
              authorizationEndpoint = "https://drive.example.com/authorize";
              tokenEndpoint = "https://drive.example.com/token";
              revocationEndpoint = "https://drive.example.com/revoke";
              issuer = "https://login.example.com";
              clientId = "gateway";
              clientSecretFile = "/run/secrets/drive";
              tokenEndpointAuthMethod = "client_secret_post";
              scopes = [ "files.read" ];
              authorizationParameters.access_type = "offline";
            };
          };
        };
      };
    };
  };

  # What an operator sets of the gateway's own units.
  systemd.services = {
    mcp-auth-service.serviceConfig.WatchdogSec = 30;
    mcp-bridge-local.serviceConfig.MemoryMax = "3G";
    mcp-gateway-health.serviceConfig.TimeoutStartSec = "1min";
    mcp-gateway-logs.serviceConfig.PrivateNetwork = false;
  };
}
