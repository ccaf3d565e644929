# The names of the flake's outputs, with stand-ins for nixpkgs' builders: that everything up to them evaluates.
{
  lib ? import <nixpkgs/lib>,
}:
let
  # Its filesets need a newer Nix than some distributions have.
  nixpkgsLib = lib // {
    fileset = {
      unions = files: if lib.all builtins.pathExists files then files else throw "no such file";
      toSource = { root, fileset }: if fileset != [ ] then root else throw "no files";
    };
  };

  mkDerivation = attrs: attrs // {
    type = "derivation";
    name = attrs.name or attrs.pname;
    outPath = "/nix/store/${lib.strings.sanitizeDerivationName (attrs.name or attrs.pname)}";
    meta = {
      mainProgram = "program";
    }
    // attrs.meta or { };
  };
  builder = attrs: mkDerivation attrs // attrs.passthru or { };

  python = {
    override = { packageOverrides, ... }: python // {
      pkgs = python.pkgs // packageOverrides python.pkgs python.pkgs;
    };
    withPackages = choose: mkDerivation {
      name = "python";
      packages = choose python.pkgs;
    };
    pkgs =
      lib.genAttrs pythonPackages (
        name:
        mkDerivation {
          inherit name;
          version = "999";
          optional-dependencies = lib.genAttrs [
            "cli"
            "crypto"
            "hiredis"
          ] (_: [ ]);
        }
      )
      // {
        buildPythonApplication = builder;
      };
  };
  pythonPackages = [
    "a2wsgi"
    "authlib"
    "click"
    "flask"
    "gunicorn"
    "h11"
    "hatchling"
    "hypothesis"
    "itsdangerous"
    "joserfc"
    "mcp"
    "prometheus-client"
    "psutil"
    "pydantic"
    "pyjwt"
    "pytest"
    "pytest-timeout"
    "redis"
    "requests"
    "uvloop"
    "time-machine"
    "uvloop"
    "waitress"
  ];

  pkgs = {
    inherit pkgs;
    lib = nixpkgsLib;
    callPackage = lib.callPackageWith pkgs;
    buildNpmPackage = builder;
    fetchPypi = attrs: mkDerivation { name = attrs.pname; };
    importNpmLock = {
      __functor = _: attrs: mkDerivation { name = "npm-deps"; };
      npmConfigHook = mkDerivation { name = "npm-config-hook"; };
    };
    mkShellNoCC = attrs: mkDerivation ({ name = "shell"; } // attrs);
    python3 = python;
    python3Packages = python.pkgs;
    runCommand = name: attrs: text: mkDerivation (attrs // { inherit name text; });
    symlinkJoin = mkDerivation;
    testers.runNixOSTest = mkDerivation;
    writeShellApplication = mkDerivation;
    writeText = name: text: mkDerivation { inherit name text; };
  }
  // lib.genAttrs [
    "makeWrapper"
    "mcp-server-fetch"
    "mcp-server-time"
    "nixfmt"
    "nixfmt-tree"
    "nodejs"
    "openssl"
    "redis"
    "traefik"
  ] (name: mkDerivation { inherit name; });

  flake = import ../../flake.nix;
  outputs = flake.outputs {
    self = outputs;
    nixpkgs = {
      lib = nixpkgsLib;
      legacyPackages = lib.genAttrs [
        "x86_64-linux"
        "aarch64-linux"
      ] (_: pkgs);
    };
  };
  perSystem = lib.mapAttrs (_: lib.mapAttrs (_: output: output.name or output.program));
in
{
  packages = lib.mapAttrs (
    _: lib.mapAttrs (_: package: map (dependency: dependency.name) (package.dependencies or [ ]))
  ) outputs.packages;
  apps = perSystem outputs.apps;
  devShells = perSystem outputs.devShells;
  checks = lib.mapAttrs (
    _: lib.mapAttrs (_: check: builtins.stringLength (check.text or check.testScript or check.name))
  ) outputs.checks;
  testPackages = lib.concatMap (
    input: map (package: package.name) (input.packages or [ ])
  ) outputs.checks.x86_64-linux.tests.nativeBuildInputs;
  formatter = lib.mapAttrs (_: formatter: formatter.name) outputs.formatter;
  modules = lib.mapAttrs (_: builtins.pathExists) outputs.nixosModules;
  templates = lib.mapAttrs (
    _: template: builtins.pathExists (template.path + "/flake.nix")
  ) outputs.templates;
  overlays = lib.mapAttrs (_: overlay: lib.attrNames (overlay pkgs pkgs)) outputs.overlays;
}
