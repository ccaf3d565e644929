# The auth service: where it listens, its lifetimes, limits and rate limits.
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
    average =
      number average 10
        "${what}: how many requests each address (each /64 in IPv6) may send per period.";
    period = number 1 60 "${what}: the length of a period, in seconds.";
    burst = number burst 50 "${what}: how many requests each address may send at once.";
  };
in
{
  options.services.mcp-oauth-gateway = {
    port = mkOption {
      type = types.port;
      default = 9000;
      example = 9010;
      description = "Port of the auth service, to which only Traefik connects. It is on loopback, or with several hosts on {option}`hosts.<name>.address`.";
    };

    workers =
      number 1 2
        "Number of worker processes of the auth service. One process answers thousands of requests per second.";

    logLevel = mkOption {
      type = types.enum [
        "debug"
        "info"
        "warning"
      ];
      default = "info";
      example = "debug";
      description = "The lowest level of messages that the auth service logs. Audit events are `info`. No level logs secrets.";
    };

    defaultServer = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "time";
      description = "The server for clients that do not name one, such as clients of MCP 2025-03-26. If null, these clients are refused.";
    };

    lifetimes = {
      accessToken = seconds 3600 "How long an access token is valid.";
      refreshToken = seconds (30 * day) "How long a refresh token is valid after its last use.";
      login = seconds 600 "How long a user may take to log in at the identity provider. At most 600.";
      session = seconds (7 * day) "How long a browser stays signed in.";
      unusedClient = seconds (7 * day) "How long a client registration is kept without a login.";
      signingKey = mkOption {
        type = types.nullOr (types.ints.between 3600 (10 * 365 * day));
        default = 90 * day;
        example = 30 * day;
        description = "How long a signing key is used before the next one replaces it, in seconds. If null, keys are replaced only by `mcp-gatewayctl keys rotate`.";
      };
      unconfirmedUser = seconds day "How long after a login tokens can be refreshed if the identity provider gave no token with which the service could check the user again.";
    };

    limits = {
      registrationsPerHour =
        number 60 20
          "Client registrations per hour from one address (one /64 in IPv6).";
      unusedClients =
        number 10000 1000
          "Client registrations that have no login yet. A further registration removes the oldest one.";
      grantsPerClient =
        number 50 10
          "Logins of one user with one client. A further login ends the least recently used one.";
      tokenRequestsPerMinute = number 120 60 "Token requests per minute for one client from one address.";
    };

    rateLimits = {
      registration = rate 1 30 "Client registration";
      authorization = rate 5 100 "Pages of a login (a login needs at least three requests)";
      token = rate 50 200 "Token, revocation and introspection endpoints";
      metadata = rate 50 200 "Metadata documents and the key set";
    };
  };
}
