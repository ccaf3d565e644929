# What `make` needs from a machine; Python's packages come from pyproject.toml.
{
  mkShellNoCC,
  nixfmt,
  nodejs,
  python3,
  redis,
  traefik,
}:
mkShellNoCC {
  packages = [
    nixfmt
    nodejs
    python3
    redis
    traefik
  ];
}
