"""The ASGI application of a worker. It serves `/verify` and internal paths itself, and all others through Flask."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import socket
from collections.abc import Callable, Collection, MutableMapping
from typing import Any, cast

from a2wsgi import WSGIMiddleware

from auth_service.app.verify.endpoint import PATH_PREFIX, Verifier
from auth_service.app.verify.grant_liveness import GrantWatch
from auth_service.app.verify.traced import TracedVerifier
from auth_service.app.views.error_handlers import REFUSAL
from auth_service.ops.metrics import CONTENT_TYPE, FLUSH_SECONDS, Metrics, metrics_directory
from auth_service.protocol.parameters import MAX_BODY_BYTES, MAX_HEADER_BYTES, MAX_URL_BYTES
from auth_service.settings import Credentials, Settings

from .composition import Parts
from .flask_app import create_app
from .responses import Message, Receive, Response, Send, json_response, plain_response
from .traefik import dynamic_configuration
from .upkeep import Upkeep
from .views import client_address

FLASK_THREADS = 32
"""More than may wait for the identity provider (`idp/bounded.py`) and documents (`oauth/client_lookup.py`) together."""
BODY_SECONDS = 10
"""How long a client may take to send a request's body."""
DISCARDED_BYTES = 1024 * 1024
"""How much of a body beyond its limit is read before the refusal is sent."""
ROUTES_SECONDS = 3.0
"""How long `/routes` waits after a reload, less than the router's own time-out (`pollTimeout`)."""
GARBAGE_THRESHOLDS = (10_000, 20, 1_000_000)
_READINESS_POLL_SECONDS = 0.05
_OF_USE = frozenset({b"accept", b"host", b"x-real-ip"})
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})

log = logging.getLogger(__name__)

_HEALTHY = json_response(200, b'{"status":"ok"}')
_READY = json_response(200, b'{"redis":true}')
_ROUTES_LATER = json_response(503, b'{"error":"a worker has not taken over the settings yet"}')
_NOT_READY = json_response(503, b'{"redis":false}')


class Application:
    """Dispatch requests by path. `lifespan` starts and ends the background tasks."""

    def __init__(
        self,
        settings: Settings,
        credentials: Credentials,
        *,
        slot: int = 0,
        has_routes: Callable[[], bool] = lambda: True,
    ) -> None:
        """Build every part; `slot` is a number that no other live worker has. Raises SigningKeyError.

        `has_routes` says whether every other worker has these settings too.
        """
        self._has_routes = has_routes
        parts = Parts(
            settings, lambda: credentials, redis_password=credentials.redis_password, requester=client_address
        )
        parts.denials.prepare()
        self._notices = parts.notices
        self._connections = parts.connections
        self._watch = GrantWatch(settings.redis_url, parts.denials, password=credentials.redis_password)
        self._verifier = Verifier(settings, credentials, parts.signing_keys, self._watch)
        self._traced = None if settings.tracing is None else TracedVerifier(self._verifier, settings.tracing)
        self._verify = self._traced or self._verifier
        self._metrics = Metrics(metrics_directory(settings), slot, count_grants=parts.store.grants.count)
        self._upkeep = Upkeep(parts, forget_tokens=self._verifier.forget)
        app = create_app(parts)
        self._metrics.observe(app)
        self._flask = cast(
            "Callable[[MutableMapping[str, Any], Receive, Send], Any]",
            WSGIMiddleware(cast("Any", app), workers=FLASK_THREADS),
        )
        self._routes = json_response(200, json.dumps(dynamic_configuration(settings)).encode())

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request, or serve the lifespan protocol."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        path = scope["path"]
        if path.startswith(PATH_PREFIX):
            await self._verify(scope, receive, send)
        elif path == "/routes":
            await (await self._find_routes()).send(send)
        elif path == "/metrics":
            self._flush()
            values = await asyncio.to_thread(self._metrics.render)
            await plain_response(200, CONTENT_TYPE, values).send(send)
        elif path == "/healthz":
            await _HEALTHY.send(send)
        elif path == "/readyz":
            await (_READY if await self._watch.is_reachable() else _NOT_READY).send(send)
        else:
            await self._ask_flask(scope, receive, send)

    async def _find_routes(self) -> Response:
        """Return the routes once all workers have the settings that they follow from.

        Until then the router keeps its present routes.
        """
        try:
            async with asyncio.timeout(ROUTES_SECONDS):
                # Memory that processes share says so: there is no event.
                while not self._has_routes():  # noqa: ASYNC110
                    await asyncio.sleep(_READINESS_POLL_SECONDS)
        except TimeoutError:
            return _ROUTES_LATER
        return self._routes

    async def _ask_flask(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Read a request to its end and let Flask answer it, or refuse it if it is too large or too slow."""
        body: bytes | None = b""
        status = _find_refusal(scope)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _receive_body(receive)
        except TimeoutError:
            status = 408
        if body is None:
            return
        if status is not None:
            # Only headers that decide the form of the answer stay.
            headers = [
                header for header in scope["headers"] if header[0] in _OF_USE and len(header[1]) <= MAX_URL_BYTES
            ]
            scope = {**scope, "query_string": b"", "headers": headers, REFUSAL: status}
            body = b""
        await self._flask(_with_length(scope, len(body)), _whole(body), send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        # All that is loaded until now stays, and each collection of it would delay requests.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GARBAGE_THRESHOLDS)
        tasks = [
            asyncio.create_task(task)
            for task in (
                self._watch.run(),
                self._tell_when_ready(),
                self._flush_every_second(),
                *self._upkeep.tasks(),
            )
        ]
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await _end(tasks)
        await self._watch.close()
        await asyncio.to_thread(self._notices.close)
        await asyncio.to_thread(self._connections.close)
        if self._traced is not None:
            await asyncio.to_thread(self._traced.close)
        self._flush()
        await send({"type": "lifespan.shutdown.complete"})

    async def _flush_every_second(self) -> None:
        while True:
            self._flush()
            await asyncio.sleep(FLUSH_SECONDS)

    def _flush(self) -> None:
        self._metrics.flush(
            self._verifier.outcomes,
            self._notices.outcomes,
            redis_is_up=self._watch.is_watching(),
            redis_takes_writes=not self._upkeep.redis_refuses_writes(),
        )

    async def _tell_when_ready(self) -> None:
        """Tell the service manager once this worker serves and Redis answers (sd_notify(3))."""
        # `is_watching` ends with time: there is no event.
        while not (self._upkeep.is_prepared() and self._watch.is_watching()):  # noqa: ASYNC110
            await asyncio.sleep(_READINESS_POLL_SECONDS)
        notify_service_manager(b"READY=1")


def _find_refusal(scope: MutableMapping[str, Any]) -> int | None:
    """Return the status of a refusal for a request that is too large or has a query that is not ASCII."""
    if len(scope["path"]) + len(scope["query_string"]) > MAX_URL_BYTES:
        return 414
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
        return 431
    if not scope["query_string"].isascii():
        return 400  # WSGI has no form for it, and queries are ASCII (RFC 3986 §3.4)
    return None


async def _end(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they have ended."""
    remaining = set(tasks)
    while remaining:
        for task in remaining:
            task.cancel()
        # Again, as a task may swallow a cancellation, for example while it makes a connection.
        remaining = (await asyncio.wait(remaining, timeout=_READINESS_POLL_SECONDS))[1]


async def _receive_body(receive: Receive) -> bytes | None:
    """Return a request's body, None if the client has disconnected.

    Flask would wait for the body in one of few threads, all of which slow clients could occupy. Of a body that is too
    large, one byte too many is kept, and up to DISCARDED_BYTES more are read and discarded: if a connection is closed
    while its client still sends, it is reset and the answer is lost.
    """
    body = b""
    excess = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        piece: bytes = message.get("body", b"")
        room = MAX_BODY_BYTES + 1 - len(body)
        body += piece[:room]
        excess += len(piece[room:])
        if excess > DISCARDED_BYTES or not message.get("more_body", False):
            return body


def _with_length(scope: MutableMapping[str, Any], length: int) -> MutableMapping[str, Any]:
    """Return the scope with the body's length in place of its framing.

    WSGI reads as much of a body as Content-Length says. A body in chunks (RFC 9112 §7.1) or over HTTP/2 may have none.
    """
    headers = [header for header in scope["headers"] if header[0] not in _FRAMING]
    if length:
        headers.append((b"content-length", str(length).encode()))
    return {**scope, "headers": headers}


def _whole(body: bytes) -> Receive:
    """Return a `receive` that yields the whole body at once."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


NOTIFY_VARIABLE = "MCP_AUTH_NOTIFY_SOCKET"
"""Holds the value of NOTIFY_SOCKET. Gunicorn must not see that: it would report readiness before a worker serves."""


def notify_service_manager(state: bytes) -> None:
    """Send one message of sd_notify(3), if the service manager has given a socket."""
    if not (address := os.environ.get(NOTIFY_VARIABLE)):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
        notify.sendto(state, "\0" + address[1:] if address.startswith("@") else address)
