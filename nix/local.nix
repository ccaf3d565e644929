# `nix run .#local`: the whole gateway on this machine, as `make run` starts it.
{
  callPackage,
  lib,
  mcp-server-fetch,
  mcp-server-time,
  nodejs,
  package,
  redis,
  traefik,
  writeShellApplication,
}:
let
  source = callPackage ./source.nix { } [
    ../auth_service
    ../stdio_bridge
    ../local
  ];
  python = package.python.withPackages (_: package.dependencies);
in
writeShellApplication {
  name = "mcp-oauth-gateway-local";
  runtimeInputs = [
    mcp-server-fetch
    mcp-server-time
    nodejs
    redis
    traefik
  ];
  text = ''
    export PYTHONPATH=${source}
    exec ${lib.getExe python} -m local "$@"
  '';
}
