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
  # The module's own package, whatever its file says: nothing is built here.
  callPackage = _: _: mkPackage "mcp-oauth-gateway" { };
  formats.json = _: { type = json; };
}
// lib.genAttrs [
  "coreutils"
  "findutils"
  "gnugrep"
  "gnused"
  "hostile-server"
  "iproute2"
  "mcp-server-fetch"
  "mcp-server-time"
  "pebble"
  "redis"
  "stand-in-github"
  "stand-in-resolver"
  "systemd"
  "test-client"
  "traefik"
] (name: mkPackage name { })
