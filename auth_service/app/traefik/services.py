"""Services: the instances of the auth service, the backends of each server, and which replica gets a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from auth_service.protocol.parameters import MAX_BYTES_KEPT
from auth_service.settings import BackendTls, Settings

from .names import AUTH_SERVICE, NO_REPLICA, OTHER_HOSTS

SESSIONS: Final = "mcp.sessions"
"""The transport to the replica that has a session."""
TRANSPORTS: Final = {
    # A host without power does not refuse connections, and Traefik would wait for half a minute.
    OTHER_HOSTS: {"forwardingTimeouts": {"dialTimeout": "1s"}},
    # A lost packet for a new connection is sent again after a second, so it costs no session.
    SESSIONS: {"forwardingTimeouts": {"dialTimeout": "2s"}},
}


def write_transports(settings: Settings) -> dict[str, Any]:
    """Return how connections are made, by name."""
    own = {
        f"mcp-{name}": _transport(resource.backend_tls)
        for name, resource in settings.resources.items()
        if resource.backend_tls is not None
    }
    return TRANSPORTS | own


def _transport(tls: BackendTls) -> dict[str, Any]:
    """Return the transport to a backend; with authorities of its own, Traefik believes no others."""
    transport: dict[str, Any] = {}
    if tls.ca_file is not None:
        transport["rootCAs"] = [tls.ca_file]
    if tls.certificate_file is not None:
        transport["certificates"] = [{"certFile": tls.certificate_file, "keyFile": tls.key_file}]
    return transport


_NO_SESSION_HERE: Final = "421"
"""The answer of a replica to a request without a session id if the grant has no session there."""


def write_services(settings: Settings) -> dict[str, Any]:
    """Return all services, by name."""
    services = _auth_services(settings)
    for name, resource in settings.resources.items():
        if resource.replicas:
            services |= _replica_services(name, resource.replicas)
        else:
            services[f"mcp-{name}"] = _service(
                [_origin(backend) for backend in resource.backends],
                transport=None if resource.backend_tls is None else f"mcp-{name}",
            )
    return services


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


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
