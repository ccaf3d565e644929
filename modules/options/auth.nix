# How the auth service listens, how long things live in it, and how much of them there may be.
{ lib, ... }:
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
  options.services.mcp-oauth-gateway = {
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
  };
}
