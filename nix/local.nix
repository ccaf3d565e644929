# `nix run .#local`: the whole gateway on this machine, with the same servers as `make run`.
{
  callPackage,
  lib,
  mcp-server-fetch,
  mcp-server-memory,
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
    mcp-server-memory
    mcp-server-time
    nodejs
    redis
    traefik
  ];
  text = ''
    export PYTHONPATH=${source} LOCAL_STACK_LAUNCHER=nix
    exec ${lib.getExe python} -m local "$@"
  '';
}
