# The auth service, the bridge and mcp-gatewayctl as one Python application.
{
  callPackage,
  fetchPypi,
  lib,
  python3,
}:
let
  pythonPackages = python3.pkgs;

  # For this application only: an override of the package set would rebuild every package that uses Gunicorn.
  gunicorn =
    # The worker of /verify is a subclass of Gunicorn's, so use a release that the tests have seen; nixos-26.05 has an
    # older one.
    if lib.versionAtLeast pythonPackages.gunicorn.version "27" then
      pythonPackages.gunicorn
    else
      pythonPackages.buildPythonPackage rec {
        pname = "gunicorn";
        version = "27.0.1";
        pyproject = true;

        src = fetchPypi {
          inherit pname version;
          hash = "sha256-sVFJZTYci36BB6gKoqkmNoeN8cz6xt0gSmdkJuBNnj4=";
        };

        build-system = [ pythonPackages.setuptools ];

        # A source distribution carries no tests.
        doCheck = false;
        pythonImportsCheck = [ "gunicorn" ];

        meta = {
          description = "HTTP server for Python applications";
          homepage = "https://gunicorn.org";
          license = lib.licenses.mit;
        };
      };

  dependencies =
    (with pythonPackages; [
      a2wsgi
      authlib
      click
      flask
      h11
      itsdangerous
      jsonschema-rs
      opentelemetry-exporter-otlp-proto-http
      opentelemetry-sdk
      prometheus-client
      pydantic
      pyjwt
      redis
      requests
      uvloop
      waitress
    ])
    ++ [ gunicorn ]
    ++ pythonPackages.pyjwt.optional-dependencies.crypto
    ++ pythonPackages.redis.optional-dependencies.hiredis;

  project = lib.importTOML ../pyproject.toml;
in
pythonPackages.buildPythonApplication {
  pname = project.project.name;
  inherit (project.project) version;
  pyproject = true;

  src = callPackage ./source.nix { } [
    ../pyproject.toml
    ../README.md
    ../LICENSE
    ../auth_service
    ../stdio_bridge
  ];

  build-system = [ pythonPackages.hatchling ];

  inherit dependencies;

  pythonImportsCheck = [
    "auth_service"
    "stdio_bridge"
  ];

  passthru = {
    # For other environments with the same Python.
    inherit dependencies;
    python = python3;
  };

  meta = {
    inherit (project.project) description;
    license = lib.licenses.mit;
    mainProgram = "mcp-gatewayctl";
    platforms = lib.platforms.linux;
  };
}
