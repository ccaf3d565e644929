# The flake's outputs, with stand-ins for nixpkgs' builders and modules: that everything evaluates, and what comes of it.
{
  lib ? import <nixpkgs/lib>,
  # What nixpkgs has of these: nixos-26.05's, unless told otherwise.
  gunicorn ? "23.0.0",
  mcp ? "1.26.0",
}:
let
  # Its filesets need a newer Nix than some distributions have.
  nixpkgsLib = lib // {
    fileset = {
      unions = files: if lib.all builtins.pathExists files then files else throw "no such file";
      toSource = { root, fileset }: if fileset != [ ] then root else throw "no files";
    };
    nixosSystem = arguments: {
      config.system.build.toplevel = mkDerivation {
        name = "host";
        complaints = complaintsOf pkgs { imports = arguments.modules; };
      };
    };
  };

  mkDerivation =
    attrs:
    attrs
    // {
      type = "derivation";
      name = attrs.name or attrs.pname;
      outPath = "/nix/store/${lib.strings.sanitizeDerivationName (attrs.name or attrs.pname)}";
      meta = {
        mainProgram = "program";
      }
      // attrs.meta or { };
    };
  builder = attrs: mkDerivation attrs // attrs.passthru or { };

  # What the operator of a machine with these packages is told.
  complaintsOf =
    packages: configuration:
    let
      inherit
        (import ./module.nix {
          inherit configuration lib;
          pkgs = packages;
        })
        config
        ;
      units = lib.attrValues config.systemd.services;
    in
    # Whether every unit can be written down, too, and nothing is set that is set already.
    builtins.deepSeq
      [
        (map (unit: unit.serviceConfig) units)
        (config.nixpkgs.overlays or [ ])
      ]
      (
        config.warnings
        ++ map (entry: entry.message) (lib.filter (entry: !entry.assertion) config.assertions)
      );

  # A VM test's machines: as in nixpkgs, their packages are the test's, and `nixpkgs.overlays` is set already.
  runNixOSTest =
    packages:
    {
      name,
      nodes,
      testScript,
      ...
    }@test:
    mkDerivation {
      inherit name testScript;
      options = removeAttrs test [
        "name"
        "nodes"
        "testScript"
      ];
      machines = lib.mapAttrs (
        machine: node:
        complaintsOf packages (
          { lib, ... }:
          {
            imports = [ node ];
            options.nixpkgs.overlays = lib.mkOption {
              type = lib.types.unique { message = "nixpkgs.overlays is set to read-only"; } lib.types.anything;
            };
            config = {
              nixpkgs.overlays = [ ];
              networking.hostName = lib.mkDefault machine;
            };
          }
        )
      ) nodes;
    };

  python = {
    interpreter = "/nix/store/python/bin/python3";
    sitePackages = "lib/python3/site-packages";
    withPackages =
      choose:
      mkDerivation {
        name = "python";
        packages = choose python.pkgs;
      };
    pkgs =
      lib.mapAttrs (
        name: version:
        mkDerivation {
          inherit name version;
          optional-dependencies = lib.genAttrs [
            "cli"
            "crypto"
            "hiredis"
          ] (_: [ ]);
        }
      ) pythonPackages
      // {
        buildPythonApplication = builder;
        buildPythonPackage = builder;
      };
  };
  pythonPackages =
    lib.genAttrs [
      "a2wsgi"
      "authlib"
      "click"
      "flask"
      "h11"
      "hatchling"
      "hypothesis"
      "itsdangerous"
      "joserfc"
      "jsonschema"
      "jsonschema-rs"
      "opentelemetry-exporter-otlp-proto-http"
      "opentelemetry-sdk"
      "prometheus-client"
      "psutil"
      "pydantic"
      "pyjwt"
      "pytest"
      "pytest-timeout"
      "redis"
      "requests"
      "setuptools"
      "time-machine"
      "uvloop"
      "waitress"
    ] (_: "999")
    // {
      inherit gunicorn mcp;
    };

  # Those of other stand-ins, but for what the flake itself makes.
  standIns = removeAttrs (import ./packages.nix { inherit lib; }) [
    "hostile-server"
    "mcp-oauth-gateway-next"
    "set-dns-record"
    "stand-in-collector"
    "stand-in-github"
    "stand-in-resolver"
    "test-client"
  ];
  pkgs = makeExtensible (_: _: { });
  makeExtensible =
    overlay:
    let
      self =
        standIns
        // {
          pkgs = self;
          lib = nixpkgsLib;
          callPackage = lib.callPackageWith self;
          extend = makeExtensible;
          buildNpmPackage = builder;
          fetchPypi = attrs: mkDerivation { name = attrs.pname; };
          importNpmLock = {
            __functor = _: _: mkDerivation { name = "npm-deps"; };
            npmConfigHook = mkDerivation { name = "npm-config-hook"; };
          };
          mkShellNoCC = attrs: mkDerivation ({ name = "shell"; } // attrs);
          prometheus.cli = mkDerivation { name = "promtool"; };
          python3 = python;
          python3Packages = python.pkgs;
          runCommand =
            name: attrs: text:
            mkDerivation (attrs // { inherit name text; });
          stdenv = standIns.stdenv // {
            cc.cc.lib = mkDerivation { name = "gcc-lib"; };
            hostPlatform.system = "x86_64-linux";
          };
          symlinkJoin = builder;
          testers.runNixOSTest = runNixOSTest self;
          writeShellApplication = mkDerivation;
          writeText = name: text: mkDerivation { inherit name text; };
        }
        // lib.genAttrs [
          "makeWrapper"
          "nixfmt"
          "nixfmt-tree"
          "nodejs"
          "openssl"
          "ruff"
        ] (name: mkDerivation { inherit name; })
        // overlay self standIns;
    in
    self;

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
  checks = outputs.checks.x86_64-linux;
in
{
  packages = lib.mapAttrs (
    _:
    lib.mapAttrs (
      _: package:
      map (dependency: "${dependency.name} ${dependency.version or ""}") (package.dependencies or [ ])
    )
  ) outputs.packages;
  apps = perSystem outputs.apps;
  devShells = perSystem outputs.devShells;
  checks = lib.mapAttrs (
    _: lib.mapAttrs (_: check: builtins.stringLength (check.text or check.testScript or check.name))
  ) outputs.checks;
  testPackages = lib.concatMap (
    input: map (package: package.name) (input.packages or [ ])
  ) checks.tests.nativeBuildInputs;
  testCommand = checks.tests.text;
  hosts = lib.mapAttrs (_: check: check.complaints) (
    lib.filterAttrs (_: check: check ? complaints) checks
  );
  vmTests = lib.mapAttrs (_: check: {
    inherit (check) machines options;
  }) (lib.filterAttrs (_: check: check ? machines) checks);
  # As nixpkgs does: a stand-in that took everything would hide what it does not take.
  acceptsOverlaysInVmTests =
    (builtins.tryEval (
      builtins.deepSeq
        (runNixOSTest pkgs {
          name = "overlays";
          nodes.machine.nixpkgs.overlays = [ "another" ];
          testScript = "";
        }).machines
        true
    )).success;
  formatter = lib.mapAttrs (_: formatter: formatter.name) outputs.formatter;
  modules = lib.mapAttrs (_: module: map builtins.pathExists module.imports) outputs.nixosModules;
  templates = lib.mapAttrs (
    _: template: builtins.pathExists (template.path + "/flake.nix")
  ) outputs.templates;
  overlays = lib.mapAttrs (_: overlay: lib.attrNames (overlay pkgs pkgs)) outputs.overlays;
}
