# What `make` needs. Python packages come from pyproject.toml, in a virtual environment. Programs in wheels do not run
# on NixOS, so these come from nixpkgs.
{
  lib,
  mkShellNoCC,
  nixfmt,
  nodejs,
  prometheus,
  python3,
  redis,
  ruff,
  stdenv,
  traefik,
}:
mkShellNoCC {
  packages = [
    nixfmt
    nodejs
    prometheus.cli
    python3
    redis
    ruff
    traefik
  ];

  # The library that modules in wheels are linked with.
  LD_LIBRARY_PATH = lib.makeLibraryPath [ stdenv.cc.cc.lib ];
  RUFF = lib.getExe ruff;
}
