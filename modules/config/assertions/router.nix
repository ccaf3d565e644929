# Mistakes in the options of the router, and releases of Traefik that are not safe.
{
  config,
  gatewayLib,
  lib,
  ...
}:
let
  cfg = config.services.mcp-oauth-gateway;
  inherit (gatewayLib.traefik) knowsAliases version;
  option = "services.mcp-oauth-gateway";
in
{
  config = lib.mkIf (cfg.enable && gatewayLib.topology.has "router") {
    assertions = [
      {
        assertion = (cfg.certificate.certFile == null) == (cfg.certificate.keyFile == null);
        message = "${option}.certificate: set both `certFile` and `keyFile`, or neither.";
      }
      {
        assertion = (cfg.acme.email != null) != (cfg.certificate.certFile != null);
        message = "${option}: set exactly one of `acme.email` and `certificate.certFile`.";
      }
      {
        assertion = (cfg.acme.challenge == "dns-01") == (cfg.acme.dnsProvider != null);
        message = "${option}.acme.dnsProvider: must be set if, and only if, `acme.challenge` is \"dns-01\".";
      }
      {
        # Older releases also refuse the routes, which ask Traefik to read whole requests, or lose what they have read.
        assertion = lib.versionAtLeast version "3.7.6";
        message = ''
          services.traefik.package: Traefik ${version} cannot drop header names that alias another one, so that
          clients could forge their identity (GHSA-x677-9fxg-v5c5), and it truncates responses. Use 3.7.6 or newer.
        '';
      }
    ];

    warnings = lib.optional (lib.versionOlder version "3.7.13") (
      lib.concatStringsSep "\n" (
        [
          "services.traefik.package: Traefik ${version} has known vulnerabilities, which 3.7.13 fixes: GHSA-qqjf-53cj-pwvv,"
          "GHSA-f52w-8j3h-j724, GHSA-v67p-phpq-fc8x, GHSA-w4v4-9rw7-5326, GHSA-8fcf-v89g-xpg6."
        ]
        ++ lib.optionals (!knowsAliases) [
          "It lets names such as X.User.Id through, which servers may take for X-User-Id"
          "(GHSA-rf44-j88r-hh8c, CVE-2026-88011); bridges are not affected, because they verify a signature."
        ]
        ++ [
          "Update nixpkgs. If your release has no newer Traefik, take it from nixos-unstable, as a flake input:"
          "services.traefik.package = inputs.nixos-unstable.legacyPackages.\${pkgs.stdenv.hostPlatform.system}.traefik;"
        ]
      )
    );
  };
}
