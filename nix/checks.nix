# What `nix flake check` proves: the package and its tests, the documentation, the module's cases, and VM tests.
{
  callPackage,
  lib,
  nixfmt,
  nixosSystem,
  package,
  pkgs,
  python3,
  redis,
  runCommand,
  stdenv,
  symlinkJoin,
  writeShellApplication,
  writeText,
}:
let
  source = callPackage ./source.nix { };
  # The tests and the files that they need; tests/systemd/test_python.py runs the same ones on Debian.
  suite = lib.importJSON ./tests.json;
  checkout = source (map (path: ../. + "/${path}") suite.sources);

  withPackages = extra: package.python.withPackages (ps: package.dependencies ++ extra ps);

  # These tests need version 2 of the MCP package, which a stable nixpkgs may not have.
  leftOut = map (path: "--ignore=${path}") (
    lib.optionals (lib.versionOlder package.python.pkgs.mcp.version "2.3") suite.needMcp2
  );
  tests =
    runCommand "mcp-oauth-gateway-tests"
      {
        nativeBuildInputs = [
          redis
          (withPackages (
            ps: with ps; [
              hypothesis
              joserfc
              jsonschema
              mcp
              psutil
              pytest
              pytest-timeout
              time-machine
            ]
          ))
        ];
      }
      ''
        cp --recursive --no-preserve=mode ${checkout} checkout
        cd checkout
        export HOME=$TMPDIR
        echo "for want of mcp 2.3 or newer: ${toString leftOut}"
        pytest -p no:cacheprovider ${toString leftOut} ${toString suite.tests}
        touch $out
      '';

  formatting = runCommand "nix-formatting" { nativeBuildInputs = [ nixfmt ]; } ''
    find ${
      source [
        ../flake.nix
        ../modules
        ../nix
        ../templates
        ../tests/nixos
        ../tests/systemd
      ]
    } -name '*.nix' -exec nixfmt --check {} +
    touch $out
  '';

  # As `make evaluate` does it, with nixpkgs' library and the names of packages only.
  options = runCommand "options-page" { nativeBuildInputs = [ python3 ]; } ''
    cd ${checkout}
    python -c 'import json, sys; from tests.systemd.evaluation import render_options
    sys.stdout.write(render_options(json.load(sys.stdin)))' \
      < ${
        writeText "options.json" (builtins.toJSON (import ../tests/systemd/options.nix { inherit lib; }))
      } > $out
    diff --unified docs/options.md $out || { echo "docs/options.md is not of these modules; run: make evaluate"; exit 1; }
  '';

  cases =
    folder:
    lib.mapAttrs' (file: _: lib.nameValuePair (lib.removeSuffix ".nix" file) (folder + "/${file}")) (
      lib.filterAttrs (file: _: lib.hasSuffix ".nix" file) (builtins.readDir folder)
    );
  evaluation =
    let
      evaluate =
        name: path:
        if name == "mistakes" then
          import ../tests/systemd/complaints.nix {
            inherit lib;
            configurations = path;
          }
        else
          import ../tests/systemd/evaluate.nix {
            inherit lib;
            configuration = path;
          };
      differs =
        name: path:
        builtins.fromJSON (builtins.toJSON (evaluate name path))
        != lib.importJSON (../tests/systemd/evaluated + "/${name}.json");
      different = lib.attrNames (
        lib.filterAttrs differs (cases ../tests/systemd/cases // cases scenarios)
      );
    in
    runCommand "module-evaluation" { } (
      if different == [ ] then
        "touch $out"
      else
        "echo 'not as committed, run make evaluate: ${toString different}'; exit 1"
    );

  scenarios = ../tests/nixos;
  python = withPackages (_: [ ]);
  runModule =
    name: module:
    writeShellApplication {
      inherit name;
      text = ''
        export PYTHONPATH=${checkout} REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt
        exec ${lib.getExe python} -m ${module} "$@"
      '';
    };
  # The machines of a VM test must not set `nixpkgs.overlays`, so the test's packages already have what they need.
  testPackages = pkgs.extend (
    _: _: {
      mcp-oauth-gateway = package;
      # The same package under another name, for the test of an upgrade.
      mcp-oauth-gateway-next = symlinkJoin {
        name = "mcp-oauth-gateway-next";
        paths = [ package ];
        passthru = { inherit (package) python; };
      };
      hostile-server = runModule "hostile-server" "tests.nixos.hostile_server";
      set-dns-record = runModule "set-dns-record" "tests.nixos.dns_record";
      stand-in-backend = runModule "stand-in-backend" "tests.nixos.stand_in_backend";
      stand-in-collector = runModule "stand-in-collector" "tests.nixos.stand_in_collector";
      stand-in-drive = runModule "stand-in-drive" "tests.nixos.stand_in_drive";
      stand-in-github = runModule "stand-in-github" "local.github";
      stand-in-resolver = runModule "stand-in-resolver" "tests.nixos.stand_in_resolver";
      test-client = runModule "test-client" "tests.nixos.client";
    }
  );

  certificates = callPackage ./test-certificates.nix { };
  machine = {
    imports = [ ../modules ];
    security.pki.certificateFiles = [ "${certificates}/server.crt" ];
    environment.etc = {
      "test-certificates".source = certificates;
      "test-secrets/backend-token".text = "the-gateways-own-token";
      "test-secrets/drive-client-secret".text = "s3cret of the/application";
      "test-secrets/github-client-secret".text = "s3cret";
      "test-secrets/master-key".text = lib.concatStrings (lib.replicate 32 "test");
    };
  };

  # A scenario is one machine, or has several in `nodes`.
  nodesOf =
    path:
    let
      scenario = import path;
    in
    if lib.isAttrs scenario && scenario ? nodes then scenario.nodes else { machine = path; };
  mkTest =
    script: scenario:
    testPackages.testers.runNixOSTest {
      name = "mcp-oauth-gateway-${script}";
      nodes = lib.mapAttrs (_: node: {
        imports = [
          machine
          node
        ];
      }) (nodesOf (scenarios + "/${scenario}.nix"));
      testScript = builtins.readFile (scenarios + "/${script}.py");
    };
  # Each scenario has a script with its name; three more scripts use the scenario full_flow.
  vmTests = lib.mapAttrs (name: _: mkTest name name) (cases scenarios) // {
    hardening = mkTest "hardening" "full_flow";
    operating = mkTest "operating" "full_flow";
    recovery = mkTest "recovery" "full_flow";
  };

  # Complete hosts: the example of the README, and the template of `nix flake init`.
  hosts =
    let
      configurations = {
        readme = ./readme-host.nix;
        template = {
          imports = [ ../templates/host/gateway.nix ];
          # Stands for sops-nix, which would need a secret.
          options.sops = {
            defaultSopsFile = lib.mkOption { type = lib.types.path; };
            secrets = lib.mkOption {
              type = lib.types.attrsOf (
                lib.types.submodule (
                  { name, ... }:
                  {
                    options = {
                      path = lib.mkOption {
                        type = lib.types.str;
                        default = "/run/secrets/${name}";
                      };
                      restartUnits = lib.mkOption { type = lib.types.listOf lib.types.str; };
                    };
                  }
                )
              );
            };
          };
        };
      };
      # What nixos-generate-config writes for a host.
      hardware = {
        nixpkgs.hostPlatform = lib.mkForce stdenv.hostPlatform.system;
        boot.loader.grub.enable = false;
        fileSystems."/" = {
          device = "none";
          fsType = "tmpfs";
        };
        system.stateVersion = lib.mkDefault lib.trivial.release;
      };
      mkHost =
        configuration:
        (nixosSystem {
          modules = [
            ../modules
            configuration
            hardware
          ];
        }).config.system.build.toplevel;
    in
    lib.mapAttrs (_: mkHost) configurations;
in
{
  inherit
    evaluation
    formatting
    options
    package
    tests
    ;
  everything-server = pkgs.callPackage ./packages/mcp-server-everything { };
  tmux-server = pkgs.callPackage ./packages/tmux-mcp.nix { };
}
// lib.mapAttrs' (name: lib.nameValuePair "host-${name}") hosts
// lib.mapAttrs' (name: lib.nameValuePair "vm-${name}") vmTests
