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

  # A value of a format, as pkgs.formats has them; TOML has no null.
  mkFormat =
    description: orNull:
    let
      value = orNull (
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
    value // { inherit description; };

  # A document of inline tables: JSON's strings, numbers and lists are TOML's, too.
  toToml =
    value:
    if lib.isAttrs value then
      "{ ${
        lib.concatStringsSep ", " (
          lib.mapAttrsToList (name: each: "${builtins.toJSON name} = ${toToml each}") value
        )
      } }"
    else if lib.isList value then
      "[ ${lib.concatMapStringsSep ", " toToml value} ]"
    else
      builtins.toJSON value;
  renderToml =
    document:
    lib.concatStrings (
      lib.mapAttrsToList (name: each: "${builtins.toJSON name} = ${toToml each}\n") document
    );

  # The one that a package of the project runs on.
  python = {
    interpreter = "${mkPackage "python3" { }}/bin/python3";
    sitePackages = "lib/python3/site-packages";
  };
in
{
  # The project's own packages, whatever their files say: nothing is built here.
  callPackage =
    file: _:
    let
      name = lib.removeSuffix ".nix" (baseNameOf file);
    in
    if name == "package" then mkPackage "mcp-oauth-gateway" { inherit python; } else mkPackage name { };
  formats.json = _: { type = mkFormat "JSON value" lib.types.nullOr; };
  formats.toml = _: {
    type = mkFormat "TOML value" lib.id;
    # nixpkgs writes a file of it.
    render = renderToml;
  };
  runCommand =
    name: attrs: buildCommand:
    mkPackage name (
      attrs
      // {
        inherit buildCommand;
        # As in the Nix store, a path that changes with what it is made of.
        outPath = "/nix/store/${builtins.hashString "md5" (builtins.toJSON attrs + buildCommand)}-${name}";
      }
    );
  stdenv = {
    buildPlatform.canExecute = _: true;
    hostPlatform = { };
  };
  systemd = mkPackage "systemd" { version = "257.13"; };
  traefik = mkPackage "traefik" { version = "3.7.15"; };
  mcp-oauth-gateway-next = mkPackage "mcp-oauth-gateway-next" { inherit python; };
}
// lib.genAttrs [
  "bashInteractive"
  "chromium"
  "coreutils"
  "findutils"
  "git"
  "github-mcp-server"
  "gnugrep"
  "gnused"
  "hostile-server"
  "iproute2"
  "mcp-server-fetch"
  "mcp-server-filesystem"
  "mcp-server-git"
  "mcp-server-memory"
  "mcp-server-sequential-thinking"
  "mcp-server-time"
  "nsncd"
  "pebble"
  "playwright-mcp"
  "prometheus-node-exporter"
  "redis"
  "set-dns-record"
  "stand-in-backend"
  "stand-in-collector"
  "stand-in-drive"
  "stand-in-github"
  "stand-in-resolver"
  "test-client"
  "tmux"
] (name: mkPackage name { })
