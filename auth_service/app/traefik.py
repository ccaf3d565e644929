"""Traefik's dynamic configuration, which depends on the settings only.

Each public path has a router here. Paths without one (`/verify`, `/routes`, `/healthz`, `/readyz`) cannot be reached
through Traefik. `/verify` learns the name of the resource from the ForwardAuth address, which is Traefik's own
configuration, and never from anything that a client sends.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from auth_service.app.verify.endpoint import PATH_PREFIX
from auth_service.protocol import metadata
from auth_service.protocol.parameters import MAX_BODY_BYTES, MAX_BYTES_KEPT
from auth_service.settings import RateLimit, Settings

AUTH_SERVICE: Final = "mcp.auth-service"
OTHER_HOSTS: Final = "mcp.other-hosts"
"""The transport to servers that may be on another host, and the middleware that tries again."""
SESSIONS: Final = "mcp.sessions"
"""The transport to the replica that has a session."""
WHOLE_REQUESTS: Final = "mcp.whole-requests"
"""The middleware that reads a request to its end before a server gets it."""
AUTHORIZATION_PATHS: Final = {
    "registration": ("/register",),
    "authorization": ("/authorize", "/consent", "/callback", "/account"),
    "token": ("/token", "/revoke", "/introspect"),
    "metadata": ("/jwks", "/style.css"),
}
"""The authorization server's public paths, by the rate limit that they share."""
_PAGES: Final = "authorization"
"""The group of pages, which have no CORS headers: web pages of other origins do not need them."""
REFUSALS_PATH: Final = "/refusals"
NOWHERE: Final = "nowhere"
"""The group of refusals at paths that have no endpoint."""
SERVER: Final = "mcp"
"""The group of refusals at the paths of MCP servers."""
WITHOUT_SESSION_ID: Final = "by-grant"
"""The group of refusals at the path of a server with replicas, for requests that Traefik keeps (`_ask_next`)."""
_REFUSED_BY_ROUTER: Final = ("413", "429", "502", "504")
"""Statuses that Traefik answers with itself, in plain text. 503 is not among them: that is the service's own."""
MISDIRECTED: Final = "mcp.misdirected"
NOT_FOUND: Final = "mcp.not-found"
NO_REPLICA: Final = "mcp.no-replica"
"""The service that answers if no replica of a server is live."""
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

_REFUSALS: Final = "mcp.refusals"
_KEPT_REFUSALS: Final = "mcp.by-grant-refusals"
_METADATA_PRIORITY, _AUTHORIZATION_PRIORITY, _REPLICA_PRIORITY, _RESOURCE_PRIORITY = 4000, 3000, 2000, 1000
_NOT_FOUND_PRIORITY = 1
_NO_SESSION_HERE: Final = "421"
"""The answer of a replica to a request without a session id if the grant has no session there."""
_MODERN: Final = "^20(2[6-9]|[3-9][0-9])-"
"""Protocol versions without sessions."""
_LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")


def dynamic_configuration(settings: Settings) -> dict[str, Any]:
    """Return the answer of `GET /routes`."""
    routers: dict[str, Any] = {}
    services = _auth_services(settings)
    middlewares = _shared_middlewares(settings)
    again = [OTHER_HOSTS] if settings.instances else []
    common: list[str] = []
    if settings.router.tls and settings.router.hsts_seconds:
        middlewares["mcp.hsts"] = {"headers": {"stsSeconds": settings.router.hsts_seconds, "forceSTSHeader": True}}
        common.append("mcp.hsts")

    def router(rule: str, service: str, *, priority: int, through: list[str]) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "rule": rule,
            "service": service,
            "priority": priority,
            "entryPoints": list(settings.router.entry_points),
        }
        if common or through:
            entry["middlewares"] = [*common, *through]
        if settings.router.tls:
            resolver = settings.router.certificate_resolver
            entry["tls"] = {} if resolver is None else {"certResolver": resolver}
        return entry

    issuer = urlsplit(settings.issuer)
    hosts = {issuer.hostname or ""} | {
        urlsplit(resource.url).hostname or "" for resource in settings.resources.values()
    }
    routers["mcp.discovery"] = router(
        f"({_any('Host', sorted(hosts))}) && ({_any('Path', metadata.authorization_server_paths(settings.issuer))})",
        AUTH_SERVICE,
        priority=_METADATA_PRIORITY,
        through=[*_public("metadata"), *again],
    )
    # Requests that no other router takes. Traefik's own 404 is plain text, without CORS headers.
    routers[NOT_FOUND] = router(
        _any("Host", sorted(hosts)),
        AUTH_SERVICE,
        priority=_NOT_FOUND_PRIORITY,
        through=[*_public("metadata", refusals=NOWHERE), NOT_FOUND, *again],
    )
    for group, paths in AUTHORIZATION_PATHS.items():
        routers[f"mcp.{group}"] = router(
            _authorization_rule(settings, paths, hosts=hosts),
            AUTH_SERVICE,
            priority=_AUTHORIZATION_PRIORITY,
            through=[*_public(group), *again],
        )
    if settings.is_loopback:
        # At another name of loopback the answer says which name to use.
        elsewhere = _any("Host", [name for name in _LOOPBACK_NAMES if name not in hosts])
        routers[MISDIRECTED] = router(
            elsewhere,
            AUTH_SERVICE,
            priority=_NOT_FOUND_PRIORITY,
            through=[*_public("metadata", refusals=NOWHERE), MISDIRECTED],
        )
        routers[f"{MISDIRECTED}.{SERVER}"] = router(
            f"({elsewhere}) && ({' || '.join(_server_rule(each.url) for each in settings.resources.values())})",
            AUTH_SERVICE,
            priority=_RESOURCE_PRIORITY,
            through=[*_public("metadata", refusals=SERVER), f"{MISDIRECTED}.{SERVER}"],
        )
    locations = metadata.protected_resource_locations({name: each.url for name, each in settings.resources.items()})
    for name, resource in settings.resources.items():
        url = urlsplit(resource.url)
        host = f"Host(`{url.hostname}`)"
        documents = [path for (_, path), owner in locations.items() if owner == name]
        routers[f"mcp-{name}.metadata"] = router(
            f"{host} && ({_any('Path', documents)})",
            AUTH_SERVICE,
            priority=_METADATA_PRIORITY,
            through=[*_public("metadata"), *again],
        )
        middlewares[f"mcp-{name}.auth"] = {"forwardAuth": _forward_auth(settings, name)}
        through = ["mcp.cors", _REFUSALS, f"mcp-{name}.auth", "mcp.headers"]
        backend_path = urlsplit(resource.endpoints[0]).path
        if backend_path != url.path:
            middlewares[f"mcp-{name}.path"] = {
                "replacePathRegex": {
                    "regex": f"^{re.escape(url.path)}(/.*)?$",
                    "replacement": f"{backend_path}${{1}}",
                }
            }
            through.append(f"mcp-{name}.path")
        through.append(WHOLE_REQUESTS)
        if resource.replicas:
            through.append(OTHER_HOSTS)
        rule = f"{host} && ({_server_rule(resource.url)})"
        routers[f"mcp-{name}"] = router(rule, f"mcp-{name}", priority=_RESOURCE_PRIORITY, through=through)
        if not resource.replicas:
            services[f"mcp-{name}"] = _service([_origin(backend) for backend in resource.backends])
            continue
        services |= _replica_services(name, resource.replicas)
        routers[f"mcp-{name}.by-grant.first"] = router(
            f"{rule} && !HeaderRegexp(`Mcp-Session-Id`, `.`) && !HeaderRegexp(`MCP-Protocol-Version`, `{_MODERN}`)",
            f"mcp-{name}.by-grant.first",
            priority=_REPLICA_PRIORITY,
            through=[_KEPT_REFUSALS if each == _REFUSALS else each for each in through],
        )
        for replica in resource.replicas:
            routers[f"mcp-{name}.{replica}"] = router(
                f"{rule} && HeaderRegexp(`Mcp-Session-Id`, `^{replica}[.]`)",
                f"mcp-{name}.{replica}",
                priority=_REPLICA_PRIORITY,
                through=through,
            )
    transports = {
        # A host without power does not refuse connections, and Traefik would wait for half a minute.
        OTHER_HOSTS: {"forwardingTimeouts": {"dialTimeout": "1s"}},
        # A lost packet for a new connection is sent again after a second, so it costs no session.
        SESSIONS: {"forwardingTimeouts": {"dialTimeout": "2s"}},
    }
    configuration = {
        "routers": routers,
        "services": services,
        "middlewares": middlewares,
        "serversTransports": transports,
    }
    return {"http": configuration}


def _auth_services(settings: Settings) -> dict[str, Any]:
    if not settings.instances:
        return {AUTH_SERVICE: _service([settings.internal_url])}
    # If none is ready, as without Redis, any of them refuses in the form of its endpoints, which Traefik cannot.
    ready, any_instance = f"{AUTH_SERVICE}.ready", f"{AUTH_SERVICE}.any"
    return {
        AUTH_SERVICE: {"failover": {"service": ready, "fallback": any_instance}},
        ready: _service(settings.instances, check="/readyz", transport=OTHER_HOSTS),
        any_instance: _service(settings.instances, transport=OTHER_HOSTS),
    }


def _public(group: str, *, refusals: str | None = None) -> list[str]:
    """Return the middlewares of a group's endpoints: preflight and the form of refusals come before the limits.

    `refusals` names the group whose form refusals have, if it is another.
    """
    headers = "mcp.pages" if group == _PAGES else "mcp.cors"
    return [headers, f"mcp.{refusals or group}-refusals", f"mcp.{group}-rate", "mcp.body"]


def _server_rule(url: str) -> str:
    path = urlsplit(url).path
    return f"Path(`{path}`) || PathPrefix(`{path}/`)"


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
    for group in AUTHORIZATION_PATHS:
        middlewares[f"mcp.{group}-rate"] = {"rateLimit": _rate_limit(settings, getattr(settings.limits.rates, group))}
    for group in (*AUTHORIZATION_PATHS, NOWHERE, SERVER):
        middlewares[f"mcp.{group}-refusals"] = {"errors": _refusals(_REFUSED_BY_ROUTER, group)}
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
    """Return the middleware that gives Traefik's own answers the form of the endpoints (views/refusals.py)."""
    return {"status": list(statuses), "service": AUTH_SERVICE, "query": f"{REFUSALS_PATH}/{group}/{{status}}"}


def _authorization_rule(settings: Settings, paths: Sequence[str], *, hosts: Iterable[str]) -> str:
    """Return the rule of one router for all hosts, so that they share one count of its rate limit."""
    issuer = urlsplit(settings.issuer)
    here = _any("Path", [issuer.path + path for path in paths])
    if "/register" in paths:
        here += f" || PathRegexp(`^{re.escape(issuer.path)}/register/[^/]+$`)"
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


def _forward_auth(settings: Settings, name: str) -> dict[str, Any]:
    return {
        "address": f"{settings.internal_url}{PATH_PREFIX}{name}",
        "trustForwardHeader": False,
        "authRequestHeaders": ["Authorization"],
        # Each is removed from the request, then set if /verify answers with it. It never answers with Authorization, so
        # the user's token does not reach the server.
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


def _replica_services(name: str, replicas: Mapping[str, str]) -> dict[str, Any]:
    """Return the services of a server that has replicas: all of them together, and each by itself."""
    # A busy replica gets no new work, but requests for its sessions wait for it.
    live = _service([_origin(url) for url in replicas.values()], check="/healthz", timeout="10s", transport=OTHER_HOSTS)
    # The strategy sends an address to the same replica each time, where the user's process and suspended calls are. A
    # client with a session names its replica by the session's id.
    live["loadBalancer"]["strategy"] = "hrw"
    services = {
        f"mcp-{name}.any.live": live,
        f"mcp-{name}": {"failover": {"service": f"mcp-{name}.any.live", "fallback": NO_REPLICA}},
        # Without servers Traefik itself answers 503. Only here is it certain that no bridge did, whose 503 says more.
        NO_REPLICA: {"loadBalancer": {"servers": []}, "middlewares": [NO_REPLICA]},
    }
    # Some clients lose their session's id, and change their address. A bridge without a session of the grant says so,
    # and the others are asked in turn. The client gets the answer of the last one.
    following = f"mcp-{name}"
    for number, replica in enumerate(reversed(list(replicas))):
        services[f"mcp-{name}.by-grant.{number}"] = _ask_next(f"mcp-{name}.{replica}.only", following)
        following = f"mcp-{name}.by-grant.{number}"
    services[f"mcp-{name}.by-grant.first"] = _ask_next(f"mcp-{name}", following)
    for replica, url in replicas.items():
        of_replica = f"mcp-{name}.{replica}"
        # If the replica is gone, another one answers that it does not know the session, and the client opens a new one.
        services[of_replica] = {"failover": {"service": f"{of_replica}.only", "fallback": f"mcp-{name}"}}
        # A replica that takes connections and answers late has lost nothing. The check fails without a connection, or
        # without an answer for so long that its clients have given up.
        services[f"{of_replica}.only"] = _service([_origin(url)], check="/healthz", timeout="30s", transport=SESSIONS)
    return services


def _ask_next(service: str, following: str) -> dict[str, Any]:
    errors = {"status": [_NO_SESSION_HERE], "maxRequestBodyBytes": MAX_BYTES_KEPT}
    return {"failover": {"service": service, "fallback": following, "errors": errors}}


def _service(
    origins: Sequence[str], *, check: str | None = None, timeout: str = "2s", transport: str | None = None
) -> dict[str, Any]:
    """Return a service; with `check`, it leaves out servers that do not answer 200 at that path in time."""
    balancer: dict[str, Any] = {"servers": [{"url": origin} for origin in origins], "passHostHeader": True}
    if transport is not None:
        balancer["serversTransport"] = transport
    if check is not None:
        # There is no passive check, which would take an answer of 500 or more for a dead server: a user who makes a
        # replica refuse a request would end the sessions of all others there.
        balancer["healthCheck"] = {"path": check, "interval": "1s", "unhealthyInterval": "1s", "timeout": timeout}
    return {"loadBalancer": balancer}


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


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _any(matcher: str, values: list[str] | tuple[str, ...]) -> str:
    return " || ".join(f"{matcher}(`{value}`)" for value in values)
