# What `make` needs from a machine. Python's packages come from pyproject.toml, in a virtual environment; programs that
# come as wheels would find no loader on NixOS, so that these are nixpkgs'.
{
  lib,
  mkShellNoCC,
  nixfmt,
  nodejs,
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
    python3
    redis
    ruff
    traefik
  ];

  # What modules in wheels link to.
  LD_LIBRARY_PATH = lib.makeLibraryPath [ stdenv.cc.cc.lib ];
  RUFF = lib.getExe ruff;
}
