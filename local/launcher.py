"""How the stack was started, which decides what the user is told to type."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Launcher:
    """A way to start the stack; its texts are parts of sentences."""

    command: str
    port: str
    """How the user chooses a port."""
    traefik: str
    """How the user gets another Traefik."""
    memory: str
    """What the server `memory` needs."""
    gatewayctl: str
    """How the user calls `mcp-gatewayctl`, without its arguments."""


_LAUNCHERS = {
    "make": Launcher(
        command="make run",
        port="PORT=",
        traefik="run `make clean`, then `make run` again",
        memory="it needs Node.js and npm: install them, then `make run` again",
        gatewayctl=".venv/bin/mcp-gatewayctl",
    ),
    "nix": Launcher(
        command="nix run .#local --",
        port="--port",
        traefik="run `nix flake update nixpkgs`, or name another with --traefik",
        memory="it needs mcp-server-memory and node",
        gatewayctl="nix run . --",
    ),
}
_MODULE = Launcher(
    command="python -m local",
    port="--port",
    traefik="name another with --traefik",
    memory="it needs mcp-server-memory and node on the PATH",
    gatewayctl="python -m auth_service.cli",
)


def current_launcher() -> Launcher:
    """Return the launcher of this process, which has set an environment variable."""
    return _LAUNCHERS.get(os.environ.get("LOCAL_STACK_LAUNCHER", ""), _MODULE)
