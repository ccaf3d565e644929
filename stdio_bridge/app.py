"""The HTTP endpoints: who may call what, in which form. What is said then is the sessions' business."""

from __future__ import annotations

import fnmatch
import logging
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from . import jsonrpc
from .detach import Headers, HttpServer, Request, Response
from .errors import Refusal, bad_request, unavailable
from .identity import Identity, Verifier
from .jsonrpc import InvalidMessage, Kind, Message
from .loop import Loop
from .metrics import CONTENT_TYPE, Registry
from .options import Options
from .session import requests_in
from .sessions import Answer, InitializeAnswer, Sessions

log = logging.getLogger(__name__)

VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
BATCH_VERSION = "2025-03-26"
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_JSON: Headers = [("Content-Type", "application/json")]
_TICK_SECONDS = 1.0
_KEEP_ALIVE_TICKS = 15
_READY_SECONDS = 30.0
_PROBE_SECONDS = 30.0


class Bridge:
    """The application behind the socket. Everything happens on the loop's thread."""

    def __init__(self, loop: Loop, options: Options, verifier: Verifier) -> None:
        self._loop = loop
        self._options = options
        self._verifier = verifier
        self._registry = Registry()
        self._requests = self._registry.counter("mcp_bridge_requests_total", "HTTP requests to the MCP endpoint")
        self._refused = self._registry.counter("mcp_bridge_refused_total", "Requests that were refused")
        self._sessions = Sessions(loop, options, self._registry)
        self._draining = False
        self._ticks = 0
        self._ready_until = 0.0
        self._probe_waiters: list[Response] = []
        self._routes: dict[str, Callable[[Request, Response], None]] = {
            "/mcp": self._mcp,
            "/mcp/": self._mcp,
            "/revocations": self._revocation,
            "/healthz": self._health,
            "/readyz": self._readiness,
            "/metrics": self._metrics,
        }
        loop.call_later(_TICK_SECONDS, self._tick)

    def __call__(self, request: Request, response: Response) -> None:
        """Answer one request."""
        route = self._routes.get(request.path)
        try:
            if route is None:
                raise Refusal("404 Not Found", jsonrpc.INVALID_REQUEST, "not found: the MCP endpoint is /mcp")
            route(request, response)
        except Refusal as refusal:
            self._refused.add()
            response.reply(refusal.status, [*_JSON, *refusal.headers], jsonrpc.encode(refusal.message))

    # The MCP endpoint

    def _mcp(self, request: Request, response: Response) -> None:
        self._requests.add()
        self._check_origin_and_host(request)
        identity = self._verifier.identify(request.header("X_GATEWAY_IDENTITY"))
        if request.method == "POST":
            self._post(request, response, identity)
        elif request.method == "GET":
            self._get(request, response, identity)
        elif request.method == "DELETE":
            _check_version(request)
            self._sessions.find(request.header("MCP_SESSION_ID"), identity).stop("the client ended the session")
            response.reply("204 No Content", [])
        else:
            raise _not_allowed("GET, POST, DELETE")

    def _check_origin_and_host(self, request: Request) -> None:
        origin = request.header("ORIGIN")
        origins = self._options.allowed_origins
        if origin is not None and not _matches(origin, origins) and not self._is_default_origin(origin):
            raise Refusal("403 Forbidden", jsonrpc.INVALID_REQUEST, "this Origin is not allowed")
        host = urlsplit("//" + (request.header("HOST") or "")).hostname or ""
        hosts = self._options.allowed_hosts or (("*",) if self._options.identity_key else _LOOPBACK_NAMES)
        if not _matches(host, hosts):
            raise Refusal("403 Forbidden", jsonrpc.INVALID_REQUEST, "this Host is not allowed")

    def _is_default_origin(self, origin: str) -> bool:
        if self._options.allowed_origins:
            return False
        # With an identity the gateway has seen to it already: a page cannot make a browser send a bearer token.
        return self._options.identity_key is not None or urlsplit(origin).hostname in _LOOPBACK_NAMES

    def _get(self, request: Request, response: Response, identity: Identity) -> None:
        if not _accepts(request, "text/event-stream"):
            raise Refusal("406 Not Acceptable", jsonrpc.INVALID_REQUEST, "Accept must include text/event-stream")
        _check_version(request)
        session = self._sessions.find(request.header("MCP_SESSION_ID"), identity)
        session.open_stream(response, identity, request.header("LAST_EVENT_ID"))

    def _post(self, request: Request, response: Response, identity: Identity) -> None:
        content_type = (request.header("CONTENT_TYPE") or "").partition(";")[0].strip().lower()
        if content_type != "application/json":
            raise Refusal(
                "415 Unsupported Media Type", jsonrpc.INVALID_REQUEST, "Content-Type must be application/json"
            )
        if not (_accepts(request, "application/json") and _accepts(request, "text/event-stream")):
            raise Refusal(
                "406 Not Acceptable",
                jsonrpc.INVALID_REQUEST,
                "Accept must include application/json and text/event-stream",
            )
        messages, batch = _parse(request.body())
        _check_version(request)
        requests = requests_in(messages)
        request_id = requests[0]["id"] if requests else None
        if self._draining:
            raise unavailable("the bridge is stopping", request_id=request_id, retry_seconds=5)
        if any(message["method"] == "initialize" for message in requests):
            if batch:
                raise bad_request(
                    jsonrpc.INVALID_REQUEST, "initialize must not be part of a batch", request_id=request_id
                )
            self._initialize(messages[0], response, identity)
            return
        session = self._sessions.find(request.header("MCP_SESSION_ID"), identity, request_id=request_id)
        if batch and session.version != BATCH_VERSION:
            raise bad_request(jsonrpc.INVALID_REQUEST, "batches are part of MCP 2025-03-26 only", request_id=request_id)
        # The answer is there before anything is sent: a server may answer at once.
        answer = Answer(session, response, identity, expected=len(requests), batch=batch) if requests else None
        for message in messages:
            kind = jsonrpc.kind_of(message)
            if kind is Kind.REQUEST and answer is not None:
                session.link.request(session, message, answer, self._loop.clock())
            elif kind is Kind.NOTIFICATION:
                session.link.notify(session, message)
            else:
                session.link.respond(session, message)
        if answer is None:
            response.reply("202 Accepted", [])

    def _initialize(self, message: Message, response: Response, identity: Identity) -> None:
        session = self._sessions.open(identity.user, message["id"])
        session.link.request(session, message, InitializeAnswer(session, response, identity), self._loop.clock())

    # What the gateway and the operator ask

    def _revocation(self, request: Request, response: Response) -> None:
        if request.method != "POST":
            raise _not_allowed("POST")
        grant = self._verifier.revoked_grant(request.body())
        for session in self._sessions.all():
            session.end_responses(lambda identity: identity.grant == grant, "the grant was revoked")
        response.reply("204 No Content", [])

    def _health(self, request: Request, response: Response) -> None:
        response.reply("200 OK", _JSON, b'{"status":"ok"}')

    def _metrics(self, request: Request, response: Response) -> None:
        response.reply("200 OK", [("Content-Type", CONTENT_TYPE)], self._registry.render())

    def _readiness(self, request: Request, response: Response) -> None:
        """200 if the server has just shown that it answers; else it is started and asked, once for all who wait."""
        if self._draining:
            raise unavailable("the bridge is stopping", request_id=None, retry_seconds=5)
        if self._loop.clock() < self._ready_until or any(session.version for session in self._sessions.all()):
            response.reply("200 OK", _JSON, b'{"status":"ready"}')
            return
        self._probe_waiters.append(response)
        if len(self._probe_waiters) == 1:
            try:
                self._probe()
            except Refusal:
                self._probe_done(ready=False)

    def _probe(self) -> None:
        session = self._sessions.open("", 0)
        message = {
            "jsonrpc": "2.0",
            "id": 0,
            "method": "initialize",
            "params": {
                "protocolVersion": VERSIONS[-1],
                "capabilities": {},
                "clientInfo": {"name": "mcp-stdio-bridge", "version": "1"},
            },
        }
        timer = self._loop.call_later(_PROBE_SECONDS, lambda: session.stop("it did not answer the readiness probe"))

        def answered(answer: Message) -> None:
            timer.cancel()
            session.stop("the readiness probe is done")
            self._probe_done(ready="result" in answer)

        session.link.request(session, message, _ProbeReply(answered), self._loop.clock())

    def _probe_done(self, *, ready: bool) -> None:
        if ready:
            self._ready_until = self._loop.clock() + _READY_SECONDS
        waiters, self._probe_waiters = self._probe_waiters, []
        for waiter in waiters:
            if ready:
                waiter.reply("200 OK", _JSON, b'{"status":"ready"}')
            else:
                waiter.reply("503 Service Unavailable", _JSON, b'{"status":"the MCP server does not answer"}')

    # Time

    def _tick(self) -> None:
        self._loop.call_later(_TICK_SECONDS, self._tick)
        self._ticks += 1
        now, seconds = self._loop.clock(), time.time()
        for session in self._sessions.all():
            session.tick(now)
            session.end_responses(
                lambda identity: identity.expires is not None and identity.expires <= seconds,
                "the access token has expired",
            )
            if self._ticks % _KEEP_ALIVE_TICKS == 0:
                session.keep_alive()

    def drain(self, server: HttpServer) -> None:
        """Take nothing new, let running calls finish within the limit, then end every process and stop the loop."""
        if self._draining:
            return
        self._draining = True
        log.info("stopping: %d calls are running", self._sessions.in_flight)
        server.stop_accepting()
        self._finish_by(self._loop.clock() + self._options.drain_timeout)

    def _finish_by(self, deadline: float) -> None:
        if self._sessions.in_flight and self._loop.clock() < deadline:
            self._loop.call_later(0.05, lambda: self._finish_by(deadline))
            return
        for session in self._sessions.all():
            session.stop("the bridge was stopped")
        self._stop_when_empty()

    def _stop_when_empty(self) -> None:
        if len(self._sessions):
            self._loop.call_later(0.02, self._stop_when_empty)
        else:
            self._loop.stop()


class _ProbeReply:
    """Takes the answer to a probe."""

    def __init__(self, answered: Callable[[Message], None]) -> None:
        self._answered = answered

    def send(self, message: Message) -> None:
        """Anything before the answer is of no interest."""

    def finish(self, message: Message) -> None:
        """The server has answered, or is gone."""
        self._answered(message)


def _parse(body: bytes) -> tuple[list[Message], bool]:
    """Return the messages, and whether they came as a batch. Raises Refusal."""
    try:
        value = jsonrpc.parse_json(body)
        batch = isinstance(value, list)
        messages = value if batch else [value]
        if not messages:
            raise InvalidMessage(jsonrpc.INVALID_REQUEST, "an empty batch")
        for message in messages:
            jsonrpc.kind_of(message)
    except InvalidMessage as error:
        raise bad_request(error.code, str(error)) from error
    return messages, batch


def _check_version(request: Request) -> None:
    # Never -32022: a client of both eras would take that for a modern server's answer and not fall back.
    version = request.header("MCP_PROTOCOL_VERSION")
    if version is not None and version not in VERSIONS:
        raise bad_request(
            jsonrpc.INVALID_REQUEST, f"unsupported MCP-Protocol-Version; supported: {', '.join(VERSIONS)}"
        )


def _accepts(request: Request, media_type: str) -> bool:
    major = media_type.partition("/")[0]
    ranges = {part.partition(";")[0].strip().lower() for part in (request.header("ACCEPT") or "").split(",")}
    return not ranges.isdisjoint({media_type, f"{major}/*", "*/*"})


def _matches(value: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(value.lower(), pattern.lower()) for pattern in patterns)


def _not_allowed(methods: str) -> Refusal:
    return Refusal("405 Method Not Allowed", jsonrpc.INVALID_REQUEST, f"only {methods}", headers=(("Allow", methods),))
