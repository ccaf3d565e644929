# Stand-ins for nixpkgs' packages: a name, and a store path that the container fills with its own programs.
{ lib }:
let
  mkPackage =
    name: extra:
    {
      type = "derivation";
      inherit name;
      outPath = "/nix/store/00000000000000000000000000000000-${name}";
      meta.mainProgram = name;
    }
    // extra;

  # Any JSON value, as pkgs.formats has it.
  json =
    let
      value = lib.types.nullOr (
        lib.types.oneOf [
          lib.types.bool
          lib.types.int
          lib.types.float
          lib.types.str
          (lib.types.attrsOf value)
          (lib.types.listOf value)
        ]
      );
    in
    value // { description = "JSON value"; };
in
{
  # The project's own packages, whatever their files say: nothing is built here.
  callPackage =
    file: _:
    let
      name = lib.removeSuffix ".nix" (baseNameOf file);
    in
    mkPackage (if name == "package" then "mcp-oauth-gateway" else name) { };
  formats.json = _: { type = json; };
  runCommand = name: _: buildCommand: mkPackage name { inherit buildCommand; };
  stdenv = {
    buildPlatform.canExecute = _: true;
    hostPlatform = { };
  };
  traefik = mkPackage "traefik" { version = "3.7.15"; };
}
// lib.genAttrs [
  "bashInteractive"
  "coreutils"
  "findutils"
  "git"
  "gnugrep"
  "gnused"
  "hostile-server"
  "iproute2"
  "mcp-oauth-gateway-next"
  "mcp-server-fetch"
  "mcp-server-filesystem"
  "mcp-server-git"
  "mcp-server-memory"
  "mcp-server-sequential-thinking"
  "mcp-server-time"
  "nscd"
  "pebble"
  "playwright-mcp"
  "redis"
  "set-dns-record"
  "stand-in-github"
  "stand-in-resolver"
  "systemd"
  "test-client"
  "tmux"
] (name: mkPackage name { })
