"""Routers: which host and path leads to which service, and through which middlewares."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from auth_service.protocol import metadata
from auth_service.settings import Resource, Settings

from .middlewares import MISDIRECTED, NOT_FOUND, PAGES, ROOT, VISIT, of_endpoints, of_every_router, of_server
from .names import AUTH_SERVICE, AUTHORIZATION_PATHS, HOME_PATH, NOWHERE, OTHER_HOSTS, SERVER, roots_of_servers

_METADATA_PRIORITY, _AUTHORIZATION_PRIORITY, _VISIT_PRIORITY = 4000, 3000, 2500
_REPLICA_PRIORITY, _RESOURCE_PRIORITY = 2000, 1000
_NOT_FOUND_PRIORITY = 1
_MODERN: Final = "^20(2[6-9]|[3-9][0-9])-"
"""Protocol versions without sessions."""
_FROM_BROWSER: Final = (
    "(Method(`GET`) || Method(`HEAD`)) && HeaderRegexp(`Accept`, `text/html`) && !HeaderRegexp(`Authorization`, `.`)"
)
"""What a browser sends when a person opens a server's URL. MCP clients accept no HTML there."""
_LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")


def write_routers(settings: Settings) -> dict[str, Any]:
    """Return all routers, by name."""
    hosts = {urlsplit(url).hostname or "" for url in (settings.issuer, *(r.url for r in settings.resources.values()))}
    routers = _endpoint_routers(settings, hosts)
    if settings.is_loopback:
        routers |= _misdirected_routers(settings, hosts)
    locations = metadata.protected_resource_locations({name: each.url for name, each in settings.resources.items()})
    for name, resource in settings.resources.items():
        documents = [path for (_, path), owner in locations.items() if owner == name]
        routers |= _server_routers(settings, name, resource, documents=documents)
    if settings.home_page.enabled:
        routers |= _visit_routers(settings)
    return routers


def _router(settings: Settings, rule: str, service: str, *, priority: int, through: list[str]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "rule": rule,
        "service": service,
        "priority": priority,
        "entryPoints": list(settings.router.entry_points),
    }
    if middlewares := [*of_every_router(settings), *through]:
        entry["middlewares"] = middlewares
    if settings.router.tls:
        resolver = settings.router.certificate_resolver
        entry["tls"] = {} if resolver is None else {"certResolver": resolver}
    return entry


def _endpoint_routers(settings: Settings, hosts: set[str]) -> dict[str, Any]:
    """Return the routers of the authorization server's endpoints, and of paths that no other router takes."""
    again = [OTHER_HOSTS] if settings.instances else []
    here = _any("Host", sorted(hosts))
    routers = {
        "mcp.discovery": _router(
            settings,
            f"({here}) && ({_any('Path', metadata.authorization_server_paths(settings.issuer))})",
            AUTH_SERVICE,
            priority=_METADATA_PRIORITY,
            through=[*of_endpoints("metadata"), *again],
        ),
        # Traefik's own 404 is plain text, without CORS headers.
        NOT_FOUND: _router(
            settings,
            here,
            AUTH_SERVICE,
            priority=_NOT_FOUND_PRIORITY,
            through=[*of_endpoints("metadata", refusals=NOWHERE), NOT_FOUND, *again],
        ),
    }
    for group, paths in AUTHORIZATION_PATHS.items():
        home = (HOME_PATH,) if group == PAGES and settings.home_page.enabled else ()
        routers[f"mcp.{group}"] = _router(
            settings,
            _authorization_rule(settings, (*paths, *home), hosts=hosts),
            AUTH_SERVICE,
            priority=_AUTHORIZATION_PRIORITY,
            through=[*of_endpoints(group), *again],
        )
    return routers


def _misdirected_routers(settings: Settings, hosts: set[str]) -> dict[str, Any]:
    """Return the routers for other names of loopback, where the answer says which name to use."""
    elsewhere = _any("Host", [name for name in _LOOPBACK_NAMES if name not in hosts])
    servers = " || ".join(_server_rule(each.url) for each in settings.resources.values())
    return {
        MISDIRECTED: _router(
            settings,
            elsewhere,
            AUTH_SERVICE,
            priority=_NOT_FOUND_PRIORITY,
            through=[*of_endpoints("metadata", refusals=NOWHERE), MISDIRECTED],
        ),
        f"{MISDIRECTED}.{SERVER}": _router(
            settings,
            f"({elsewhere}) && ({servers})",
            AUTH_SERVICE,
            priority=_RESOURCE_PRIORITY,
            through=[*of_endpoints("metadata", refusals=SERVER), f"{MISDIRECTED}.{SERVER}"],
        ),
    }


def _server_routers(settings: Settings, name: str, resource: Resource, *, documents: list[str]) -> dict[str, Any]:
    """Return the routers of an MCP server: its metadata at the paths `documents`, and its requests."""
    host = f"Host(`{urlsplit(resource.url).hostname}`)"
    rule = f"{host} && ({_server_rule(resource.url)})"
    through = of_server(name, resource)
    routers = {
        f"mcp.metadata-of-{name}": _router(
            settings,
            f"{host} && ({_any('Path', documents)})",
            AUTH_SERVICE,
            priority=_METADATA_PRIORITY,
            through=[*of_endpoints("metadata"), *([OTHER_HOSTS] if settings.instances else [])],
        ),
        f"mcp-{name}": _router(settings, rule, f"mcp-{name}", priority=_RESOURCE_PRIORITY, through=through),
    }
    if resource.replicas:
        routers[f"mcp-{name}.by-grant.first"] = _router(
            settings,
            f"{rule} && !HeaderRegexp(`Mcp-Session-Id`, `.`) && !HeaderRegexp(`MCP-Protocol-Version`, `{_MODERN}`)",
            f"mcp-{name}.by-grant.first",
            priority=_REPLICA_PRIORITY,
            through=of_server(name, resource, kept=True),
        )
    for replica in resource.replicas:
        routers[f"mcp-{name}.{replica}"] = _router(
            settings,
            f"{rule} && HeaderRegexp(`Mcp-Session-Id`, `^{replica}[.]`)",
            f"mcp-{name}.{replica}",
            priority=_REPLICA_PRIORITY,
            through=through,
        )
    return routers


def _visit_routers(settings: Settings) -> dict[str, Any]:
    """Return the routers for people who open a server's URL, or the root of its host, in a browser."""
    again = [OTHER_HOSTS] if settings.instances else []
    roots = roots_of_servers(settings)
    routers: dict[str, Any] = {}
    for name, resource in settings.resources.items():
        url = urlsplit(resource.url)
        visited = {VISIT: _server_rule(resource.url)} | ({ROOT: "Path(`/`)"} if name in roots else {})
        for visit, rule in visited.items():
            routers[visit + name] = _router(
                settings,
                f"Host(`{url.hostname}`) && ({rule}) && {_FROM_BROWSER}",
                AUTH_SERVICE,
                priority=_VISIT_PRIORITY,
                through=[*of_endpoints("metadata", refusals=SERVER), visit + name, *again],
            )
    return routers


def _authorization_rule(settings: Settings, paths: Sequence[str], *, hosts: Iterable[str]) -> str:
    """Return the rule of one router for all hosts, so that they share one count of its rate limit."""
    issuer = urlsplit(settings.issuer)
    here = _any("Path", [issuer.path + path for path in paths])
    if "/register" in paths:
        here += f" || PathRegexp(`^{re.escape(issuer.path)}/register/[^/]+$`)"
    if "/callback" in paths and any(each.connections for each in settings.resources.values()):
        here += f" || PathRegexp(`^{re.escape(issuer.path)}/connections/callback/[^/]+/[^/]+$`)"
    rules = [f"(Host(`{issuer.hostname}`) && ({here}))"]
    rules.extend(
        f"(({_any('Host', elsewhere)}) && Path(`{path}`))"
        for path in metadata.ENDPOINTS_AT_EVERY_HOST
        if path in paths and (elsewhere := _hosts_with_endpoint(settings, path, hosts))
    )
    return " || ".join(rules)


def _hosts_with_endpoint(settings: Settings, path: str, hosts: Iterable[str]) -> list[str]:
    """Return the hosts whose root has an endpoint of the issuer too: all but those with an MCP server at its path."""
    issuer = urlsplit(settings.issuer)
    taken = {(issuer.hostname, issuer.path + path)}
    for resource in settings.resources.values():
        url = urlsplit(resource.url)
        if f"{path}/".startswith(f"{url.path}/"):
            taken.add((url.hostname, path))
    return sorted(host for host in hosts if (host, path) not in taken)


def _server_rule(url: str) -> str:
    path = urlsplit(url).path
    return f"Path(`{path}`) || PathPrefix(`{path}/`)"


def _any(matcher: str, values: list[str] | tuple[str, ...]) -> str:
    return " || ".join(f"{matcher}(`{value}`)" for value in values)
