"""Traefik's dynamic configuration, which depends on the settings only.

Each public path has a router here. Paths without one (`/verify`, `/routes`, `/healthz`, `/readyz`) cannot be reached
through Traefik. `/verify` learns the name of the resource from the ForwardAuth address, which is Traefik's own
configuration, and never from anything that a client sends.
"""

from __future__ import annotations

from typing import Any

from auth_service.settings import Settings

from .middlewares import write_middlewares
from .routers import write_routers
from .services import write_services, write_transports


def dynamic_configuration(settings: Settings) -> dict[str, Any]:
    """Return the answer of `GET /routes`."""
    return {
        "http": {
            "routers": write_routers(settings),
            "services": write_services(settings),
            "middlewares": write_middlewares(settings),
            "serversTransports": write_transports(settings),
        }
    }
