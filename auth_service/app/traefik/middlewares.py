"""Middlewares: preflights, rate limits, the form of refusals, ForwardAuth, and what is removed from messages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from auth_service.app.verify.endpoint import PATH_PREFIX
from auth_service.protocol.parameters import MAX_BODY_BYTES
from auth_service.settings import RateLimit, Resource, Settings

from .names import AUTH_SERVICE, AUTHORIZATION_PATHS, NO_REPLICA, NOWHERE, OTHER_HOSTS, SERVER, backend_path_of

WHOLE_REQUESTS: Final = "mcp.whole-requests"
"""The middleware that reads a request to its end before a server gets it."""
REFUSALS_PATH: Final = "/refusals"
VISITS_PATH: Final = "/visits"
WITHOUT_SESSION_ID: Final = "by-grant"
"""The group of refusals at the path of a server with replicas, for requests that Traefik keeps (services.py)."""
MISDIRECTED: Final = "mcp.misdirected"
NOT_FOUND: Final = "mcp.not-found"
VISIT: Final = "mcp.visit-"
ROOT: Final = "mcp.root-"
"""Before a server's name: what a browser gets at its URL, and at the root of its host."""
IDENTITY_HEADERS: Final = ("X-Gateway-Identity", "X-User-Id", "X-User-Name", "X-Client-Id", "X-Scopes")
ORIGIN_HEADERS: Final = (
    "Set-Cookie",
    "Clear-Site-Data",
    "Strict-Transport-Security",
    "Alt-Svc",
    "NEL",
    "Report-To",
    "Reporting-Endpoints",
    "Public-Key-Pins",
)
"""Headers that a browser applies to the whole origin or domain, which other servers and the pages share."""
MAX_VERIFY_BODY_BYTES: Final = 16 * 1024
IPV6_SUBNET: Final = 64
"""The network that one customer of an internet provider has at least."""

PAGES: Final = "authorization"
"""The group of pages, which have no CORS headers: web pages of other origins do not need them."""
_REFUSED_BY_ROUTER: Final = ("413", "429", "502", "504")
"""Statuses that Traefik answers with itself, in plain text. 503 is not among them: that is the service's own."""
_REFUSALS: Final = "mcp.refusals"
_KEPT_REFUSALS: Final = "mcp.by-grant-refusals"
_HSTS: Final = "mcp.hsts"


def write_middlewares(settings: Settings) -> dict[str, Any]:
    """Return all middlewares, by name."""
    middlewares = _shared_middlewares(settings)
    for name, resource in settings.resources.items():
        middlewares |= _server_middlewares(settings, name, resource)
    return middlewares


def of_every_router(settings: Settings) -> list[str]:
    """Return the middlewares of every router."""
    return [_HSTS] if settings.router.tls and settings.router.hsts_seconds else []


def of_endpoints(group: str, *, refusals: str | None = None) -> list[str]:
    """Return the middlewares of a group's endpoints: preflight and the form of refusals come before the limits.

    `refusals` names the group whose form refusals have, if it is another.
    """
    headers = "mcp.pages" if group == PAGES else "mcp.cors"
    return [headers, f"mcp.{refusals or group}-refusals", f"mcp.{group}-rate", "mcp.body"]


def of_server(name: str, resource: Resource, *, kept: bool = False) -> list[str]:
    """Return the middlewares of an MCP server's requests; Traefik may send `kept` ones to several replicas."""
    names = ["mcp.cors", _KEPT_REFUSALS if kept else _REFUSALS, f"mcp-{name}.auth", "mcp.headers"]
    if backend_path_of(resource) is not None:
        names.append(f"mcp-{name}.path")
    names.append(WHOLE_REQUESTS)
    if resource.replicas:
        names.append(OTHER_HOSTS)
    return names


def _shared_middlewares(settings: Settings) -> dict[str, Any]:
    middlewares: dict[str, Any] = {
        "mcp.cors": {"headers": {**_CORS, **_NO_UPGRADE}},
        "mcp.pages": {"headers": _NO_UPGRADE},
        _REFUSALS: {"errors": _refusals(("502", "504"), SERVER)},
        _KEPT_REFUSALS: {"errors": _refusals(("413", "502", "504"), WITHOUT_SESSION_ID)},
        NO_REPLICA: {"errors": _refusals(("503",), SERVER)},
        "mcp.body": {"buffering": {"maxRequestBodyBytes": MAX_BODY_BYTES, "memRequestBodyBytes": MAX_BODY_BYTES}},
        NOT_FOUND: {"replacePath": {"path": f"{REFUSALS_PATH}/{NOWHERE}/404"}},
        MISDIRECTED: {"replacePath": {"path": f"{REFUSALS_PATH}/{NOWHERE}/421"}},
        f"{MISDIRECTED}.{SERVER}": {"replacePath": {"path": f"{REFUSALS_PATH}/{SERVER}/421"}},
        "mcp.headers": {"headers": _REMOVED},
        OTHER_HOSTS: {"retry": _RETRY},
        WHOLE_REQUESTS: {"retry": _READ_FIRST},
    }
    if of_every_router(settings):
        middlewares[_HSTS] = {"headers": {"stsSeconds": settings.router.hsts_seconds, "forceSTSHeader": True}}
    for group in AUTHORIZATION_PATHS:
        middlewares[f"mcp.{group}-rate"] = {"rateLimit": _rate_limit(settings, getattr(settings.limits.rates, group))}
    for group in (*AUTHORIZATION_PATHS, NOWHERE, SERVER):
        middlewares[f"mcp.{group}-refusals"] = {"errors": _refusals(_REFUSED_BY_ROUTER, group)}
    return middlewares


def _server_middlewares(settings: Settings, name: str, resource: Resource) -> dict[str, Any]:
    middlewares: dict[str, Any] = {f"mcp-{name}.auth": {"forwardAuth": _forward_auth(settings, name)}}
    if settings.home_page.enabled:
        for visit, status in ((VISIT, 401), (ROOT, 200)):
            middlewares[visit + name] = {"replacePath": {"path": f"{VISITS_PATH}/{name}/{status}"}}
    if (backend_path := backend_path_of(resource)) is not None:
        middlewares[f"mcp-{name}.path"] = {
            "replacePathRegex": {
                "regex": f"^{re.escape(urlsplit(resource.url).path)}(/.*)?$",
                "replacement": f"{backend_path}${{1}}",
            }
        }
    return middlewares


# Traefik answers the preflight itself, before any check of a token: a browser sends it without one.
_CORS: Final = {
    "accessControlAllowOriginList": ["*"],
    "accessControlAllowMethods": ["GET", "POST", "PUT", "DELETE", "OPTIONS"],
    "accessControlAllowHeaders": ["*", "Authorization"],
    "accessControlExposeHeaders": ["Mcp-Session-Id", "MCP-Protocol-Version", "WWW-Authenticate", "Retry-After"],
    "accessControlMaxAge": 7200,
    "addVaryHeader": True,
}


# An empty value removes a header. An upgraded connection would outlive its token, and be a tunnel through the router.
# Without the header the request is an ordinary one (RFC 9110 §7.8).
_NO_UPGRADE: Final = {"customRequestHeaders": {"Upgrade": ""}}

# An MCP server needs no cookies. On a host with several paths they are those of this gateway.
_REMOVED: Final = {
    "customRequestHeaders": {"Cookie": ""},
    "customResponseHeaders": dict.fromkeys(ORIGIN_HEADERS, ""),
}


def _refusals(statuses: Sequence[str], group: str) -> dict[str, Any]:
    """Return the middleware that gives Traefik's own answers the form of the endpoints (views/router_refusals.py)."""
    return {"status": list(statuses), "service": AUTH_SERVICE, "query": f"{REFUSALS_PATH}/{group}/{{status}}"}


def _forward_auth(settings: Settings, name: str) -> dict[str, Any]:
    return {
        "address": f"{settings.internal_url}{PATH_PREFIX}{name}",
        "trustForwardHeader": False,
        "authRequestHeaders": ["Authorization"],
        # Each is removed from the request, then set if /verify answers with it: Authorization where the gateway has a
        # token of its own for the backend, and never the user's.
        "authResponseHeaders": ["Authorization", *IDENTITY_HEADERS],
        "maxResponseBodySize": MAX_VERIFY_BODY_BYTES,
    }


def _rate_limit(settings: Settings, limit: RateLimit) -> dict[str, Any]:
    # Behind other proxies the client's address is the last one that is none of theirs. Otherwise it is the
    # connection's, and headers of the client are ignored.
    proxies = settings.router.trusted_proxies
    source = {"excludedIPs": list(proxies)} if proxies else {"ipv6Subnet": IPV6_SUBNET}
    return {
        "average": limit.average,
        "period": f"{limit.period}s",
        "burst": limit.burst,
        "sourceCriterion": {"ipStrategy": source},
    }


# Used until the check has noticed a dead server. Only a request that no server has taken is sent again.
_RETRY: Final = {"attempts": 5, "initialInterval": "400ms"}


# Go's reverse proxy, Traefik's part that talks to servers, cuts answers that begin before it has found the end of the
# request (docs/contracts.md, "Why requests are read to their end"). The retry middleware reads the whole body first if
# it has a status at which it tries again. It gets a status that no server can answer with, so that it never does.
_READ_FIRST: Final = {
    "attempts": 2,
    "status": ["1000"],
    "retryNonIdempotentMethod": True,
    "disableRetryOnNetworkError": True,
    # Traefik passes on the rest of a longer body as it comes. A bridge waits before it answers that with a stream.
    "maxRequestBodyBytes": 64 * 1024,
}
