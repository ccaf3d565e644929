"""Names that routers, services and middlewares refer to each other by."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from auth_service.settings import Resource, Settings

AUTH_SERVICE: Final = "mcp.auth-service"
OTHER_HOSTS: Final = "mcp.other-hosts"
"""The transport to servers that may be on another host, and the middleware that tries again."""
NO_REPLICA: Final = "mcp.no-replica"
"""The service that answers if no replica of a server is live, and its middleware."""
AUTHORIZATION_PATHS: Final = {
    "registration": ("/register",),
    "authorization": ("/authorize", "/consent", "/callback", "/provide", "/account"),
    "token": ("/token", "/revoke", "/introspect"),
    "metadata": ("/jwks", "/style.css"),
}
"""The authorization server's public paths, by the rate limit that they share."""
NOWHERE: Final = "nowhere"
"""The group of refusals at paths that have no endpoint."""
SERVER: Final = "mcp"
"""The group of refusals at the paths of MCP servers."""
HOME_PATH: Final = "/"


def roots_of_servers(settings: Settings) -> set[str]:
    """Return the names of the servers that are alone on their host, whose root leads to a page about them."""
    owners: dict[str | None, list[str]] = {}
    for name, resource in settings.resources.items():
        owners.setdefault(urlsplit(resource.url).hostname, []).append(name)
    owners.pop(urlsplit(settings.issuer).hostname, None)
    return {names[0] for names in owners.values() if len(names) == 1}


def backend_path_of(resource: Resource) -> str | None:
    """Return the path of a resource at its backend if it has another one there than in public."""
    path = urlsplit(resource.endpoints[0]).path
    return None if path == urlsplit(resource.url).path else path
