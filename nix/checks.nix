# VM tests: the scenarios and scripts that tests/systemd runs in a container, on NixOS itself.
{
  lib,
  openssl,
  package,
  pkgs,
  runCommand,
  testers,
  writeShellApplication,
}:
let
  scenarios = ../tests/nixos;

  source = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../auth_service
      ../stdio_bridge
      ../local
      ../tests
    ];
  };
  python = package.python.withPackages (
    ps: with ps; [
      flask
      itsdangerous
      requests
      waitress
    ]
  );
  runModule =
    name: module:
    writeShellApplication {
      inherit name;
      text = ''
        export PYTHONPATH=${source} REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt
        exec ${lib.getExe python} -m ${module} "$@"
      '';
    };
  overlay = _: _: {
    mcp-oauth-gateway = package;
    stand-in-github = runModule "stand-in-github" "local.github";
    test-client = runModule "test-client" "tests.nixos.client";
  };

  certificates = runCommand "test-certificates" { nativeBuildInputs = [ openssl ]; } ''
    mkdir $out
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 \
      -subj /CN=test -keyout $out/server.key -out $out/server.crt \
      -addext keyUsage=critical,digitalSignature,keyCertSign \
      -addext subjectAltName=DNS:mcp.example.com,DNS:time.mcp.example.com,DNS:github.example.com
  '';

  mkTest =
    { scenario, script }:
    testers.runNixOSTest {
      name = "mcp-oauth-gateway-${script}";
      nodes.machine = {
        imports = [
          ../modules
          (scenarios + "/${scenario}.nix")
        ];
        nixpkgs.overlays = [ overlay ];
        services.mcp-oauth-gateway.package = package;
        security.pki.certificateFiles = [ "${certificates}/server.crt" ];
        environment.etc = {
          "test-certificates/server.crt".source = "${certificates}/server.crt";
          "test-certificates/server.key".source = "${certificates}/server.key";
          "test-secrets/github-client-secret".text = "s3cret";
        };
      };
      # `make lint` checks the scripts, against the container's driver.
      skipTypeCheck = true;
      testScript = builtins.readFile (scenarios + "/${script}.py");
    };
in
{
  inherit package;
  full-flow = mkTest {
    scenario = "full_flow";
    script = "full_flow";
  };
  hardening = mkTest {
    scenario = "full_flow";
    script = "hardening";
  };
}
