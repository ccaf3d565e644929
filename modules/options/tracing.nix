# Traces.
{ lib, ... }:
let
  inherit (lib) mkOption types;
in
{
  options.services.mcp-oauth-gateway.tracing = {
    endpoint = mkOption {
      type = types.nullOr (types.strMatching "https?://[^/@?#[:space:]]+/[^?#[:space:]]+");
      default = null;
      example = "http://127.0.0.1:4318/v1/traces";
      description = ''
        URL at which a collector takes traces with OTLP over HTTP, path included. Traefik, the auth service and the bridges send
        a trace of each request there: who answered what and how long it took, without tokens, users, arguments and results. A
        collector that needs credentials belongs behind one on this host that has them, since Traefik's configuration is in the
        Nix store. With null, nothing is traced.
      '';
    };

    sampleRatio = mkOption {
      type = types.numbers.between 0 1;
      default = 1.0;
      example = 0.1;
      description = ''
        Which part of the requests to trace. A client that traces its own requests can have Traefik trace all of these; the
        auth service and the bridges trace no more than this part of all requests.
      '';
    };
  };
}
