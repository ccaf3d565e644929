# How the auth service listens, how long things live in it, and how much of them there may be.
{ lib }:
let
  inherit (lib) mkOption types;
  number =
    default: example: description:
    mkOption {
      type = types.ints.positive;
      inherit default example description;
    };
  seconds = default: description: number default 600 "${description} In seconds.";
  day = 24 * 3600;

  rate = average: burst: what: {
    average = number average 10 "${what}: requests of one address (one /64 in IPv6) per period, for as long as it likes.";
    period = number 1 60 "${what}: the period, in seconds.";
    burst = number burst 50 "${what}: requests at once.";
  };
in
{
  port = mkOption {
    type = types.port;
    default = 9000;
    example = 9010;
    description = "Port of the auth service, for Traefik and for nobody else: on loopback, or with several hosts on {option}`hosts.<name>.address`.";
  };

  workers = number 1 2 "Processes of the auth service. One answers thousands of requests a second.";

  logLevel = mkOption {
    type = types.enum [
      "debug"
      "info"
      "warning"
    ];
    default = "info";
    example = "debug";
    description = "The least that the auth service logs. What it decided is `info`. No secret is at any level.";
  };

  defaultServer = mkOption {
    type = types.nullOr types.str;
    default = null;
    example = "time";
    description = "The server that clients mean who name none, as those of MCP 2025-03-26; they are refused where null.";
  };

  lifetimes = {
    accessToken = seconds 3600 "How long an access token is good.";
    refreshToken = seconds (30 * day) "How long a login lasts after its last use.";
    login = seconds 600 "How long a login at the identity provider may take, at most 600.";
    session = seconds (7 * day) "How long a browser stays signed in to the account page, at most.";
    unusedClient = seconds (7 * day) "How long a registration waits for a first login, and outlives its last one.";
    signingKey = mkOption {
      type = types.nullOr (types.ints.between 3600 (10 * 365 * day));
      default = 90 * day;
      example = 30 * day;
      description = "How long a key signs tokens before the next one does, in seconds; where null, until told otherwise.";
    };
    unconfirmedUser = seconds day "How long after a login tokens can be refreshed where the provider gave nothing to ask again with.";
  };

  limits = {
    registrationsPerHour = number 60 20 "New client registrations from one address (one /64 in IPv6).";
    unusedClients = number 10000 1000 "Client registrations without a login, in all; the oldest go first.";
    grantsPerClient = number 50 10 "Logins of one user with one client; the least recently used go first.";
    tokenRequestsPerMinute = number 120 60 "Token requests in the name of one client from one address.";
  };

  rateLimits = {
    registration = rate 1 30 "Registration of clients";
    authorization = rate 5 100 "The pages of a login, which is three requests or more";
    token = rate 50 200 "Tokens, revocation and introspection";
    metadata = rate 50 200 "Discovery documents and keys";
  };

  clients.redirectSchemes = mkOption {
    type = types.attrsOf (
      types.submodule (
        { name, ... }:
        {
          options = {
            name = mkOption {
              type = types.str;
              default = name;
              example = "My App";
              description = "What people call the application; the consent page shows it.";
            };
            callbacks = mkOption {
              type = types.nonEmptyListOf (types.strMatching "[a-z][a-z0-9+.-]*://[A-Za-z0-9.-]+/.+");
              example = [ "myapp://mcp/oauth/callback" ];
              description = "Where answers to the application go, in full. No other address of its scheme is reached.";
            };
          };
        }
      )
    );
    default = { };
    example = {
      myapp = {
        name = "My App";
        callbacks = [ "myapp://mcp/oauth/callback" ];
      };
    };
    description = "Applications whose redirect URIs begin with a scheme of their own, beside those that are known (Claude, Cursor, Visual Studio Code, Warp and others) and reversed domain names.";
  };

  clientDocuments = {
    enable = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = "Whether clients may be known by an https URL, from which the auth service fetches their metadata.";
    };

    allowedHosts = mkOption {
      type = types.nullOr (types.listOf types.str);
      default = null;
      example = [ "claude.ai" ];
      description = "The hosts where metadata and key sets may be; any public one where null. Clients of other hosts are told to register, and most do not by themselves.";
    };

    probeUrls = mkOption {
      type = types.nullOr (types.listOf types.str);
      default = null;
      example = [ "https://claude.ai/oauth/claude-code-client-metadata" ];
      description = "At most four documents, fetched every ten minutes: clients are offered to be known by a URL while all of these can be fetched, and register otherwise. Where null, those of Claude Code, Codex and VS Code.";
    };

    proxy = mkOption {
      type = types.nullOr (types.strMatching "http://[^/@]+:[0-9]+");
      default = null;
      example = "http://10.0.0.1:3128";
      description = "The HTTP proxy through which documents and key sets are fetched, for a host with no other way out. It is asked to connect to addresses that this host has looked up and found public.";
    };

    proxyResolvesNames = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = "Whether {option}`clientDocuments.proxy` looks names up instead, for a host that cannot. Then the proxy alone can refuse names that mean an internal address: let it.";
    };
  };
}
