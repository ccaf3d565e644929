# The auth service, the bridge and mcp-gatewayctl as one Python application.
{
  callPackage,
  lib,
  python3,
}:
let
  # Newer than a stable nixpkgs may have: with nixpkgs' own where that is new enough, else with the source from PyPI.
  releases = {
    gunicorn = {
      minimum = "25";
      version = "27.0.1";
      hash = "sha256-sVFJZTYci36BB6gKoqkmNoeN8cz6xt0gSmdkJuBNnj4=";
    };
    # 1.6.9 fixes CVE-2026-27962.
    authlib = {
      minimum = "1.6.9";
      version = "1.9.9";
      hash = "sha256-zKPf+lHI2A1t8ZruInnkchncmW9aUnwGrC450HV8me8=";
    };
    # 2.12 fixes CVE-2026-32597.
    pyjwt = {
      minimum = "2.12";
      version = "2.15.1";
      hash = "sha256-TyWegM37az/Bin3lH9HvnseWUvJQGbrmiXXKJGijTfg=";
    };
    a2wsgi = {
      minimum = "1.10.8";
      version = "1.10.10";
      hash = "sha256-pbz/tSCBujnfDV6aiE/G+BnZLjpCOJNDunfL+An+H0U=";
    };
    redis = {
      minimum = "6.4";
      version = "8.1.0";
      hash = "sha256-bhoZvu+SJcg+/Wicfmt9otUhWx9CzRO3/DcU0KCceyU=";
    };
    waitress = {
      minimum = "3.0.2";
      version = "3.0.2";
      hash = "sha256-aCqq8q8MRK2kq/tw3tNjk/DjB/SrlFaiFc4AILrvwx8=";
    };
  };

  python = python3.override {
    self = python;
    packageOverrides =
      final: previous:
      lib.mapAttrs (
        name: release:
        if lib.versionAtLeast previous.${name}.version release.minimum then
          previous.${name}
        else
          previous.${name}.overridePythonAttrs {
            inherit (release) version;
            src = final.fetchPypi {
              pname = name;
              inherit (release) version hash;
            };
            # A source distribution carries no tests.
            doCheck = false;
          }
      ) releases;
  };

  project = lib.importTOML ../pyproject.toml;
in
python.pkgs.buildPythonApplication {
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

  build-system = [ python.pkgs.hatchling ];

  dependencies =
    with python.pkgs;
    [
      a2wsgi
      click
      authlib
      flask
      gunicorn
      h11
      itsdangerous
      prometheus-client
      pydantic
      pyjwt
      redis
      requests
      uvloop
      waitress
    ]
    ++ pyjwt.optional-dependencies.crypto
    ++ redis.optional-dependencies.hiredis;

  pythonImportsCheck = [
    "auth_service"
    "stdio_bridge"
  ];

  passthru = { inherit python; };

  meta = {
    inherit (project.project) description;
    license = lib.licenses.mit;
    mainProgram = "mcp-gatewayctl";
    platforms = lib.platforms.linux;
  };
}
