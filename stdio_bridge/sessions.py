"""Sessions of the legacy era: one server process each, bound to the user who opened it."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable

from . import jsonrpc
from .detach import Headers, Response
from .errors import Refusal, unavailable
from .framing import SSE_COMMENT, SSE_OPEN
from .identity import Identity
from .jsonrpc import InvalidMessage, Message
from .loop import Loop
from .metrics import Registry
from .options import Options
from .process import Exit, Limits, ServerProcess, SpawnError
from .session import EventStream, Link, Patience, negotiated_version, parse_event_id

log = logging.getLogger(__name__)

SESSION_HEADER = "Mcp-Session-Id"
SSE_HEADERS: Headers = [
    ("Content-Type", "text/event-stream"),
    ("Cache-Control", "no-cache, no-transform"),
    ("X-Accel-Buffering", "no"),
]
_STANDALONE = 0
_MAX_ENDED_STREAMS = 16
_MAX_STREAM_BYTES = 1 << 20
_UNSENT_FACTOR = 4
_RETRY_SECONDS = 5
# The first revision whose clients understand an event without data (2025-11-25, "Sending Messages").
_FIRST_PRIMED_VERSION = "2025-11-25"


class Session:
    """One client's conversation with one server process."""

    def __init__(self, manager: Sessions, user: str) -> None:
        """Start the process. Raises SpawnError."""
        options = manager.options
        self.id = secrets.token_urlsafe(24)
        self.user = user
        self.version: str | None = None
        self.stopping = False
        self.last_used = manager.loop.clock()
        self._manager = manager
        self._streams: dict[int, EventStream] = {}
        self._next_stream = _STANDALONE + 1
        self._open: dict[Response, tuple[Identity, EventStream | None]] = {}
        self.link = Link(self._write, patience=Patience(idle=options.call_timeout, total=options.call_timeout_total))
        self.link.join(self)
        self._streams[_STANDALONE] = EventStream(number=_STANDALONE, max_bytes=_MAX_STREAM_BYTES)
        self._process = ServerProcess(
            manager.loop,
            options.command,
            environment=options.environment,
            directory=options.directory,
            limits=Limits(
                max_line_bytes=options.max_message_bytes,
                max_unsent_bytes=_UNSENT_FACTOR * options.max_message_bytes,
                stop_seconds=options.stop_timeout,
            ),
            on_line=self._take_line,
            on_exit=self._ended,
        )

    # The server's side

    def _write(self, message: Message) -> None:
        self._process.write(jsonrpc.encode(message))

    def _take_line(self, line: bytes) -> None:
        try:
            value = jsonrpc.parse_json(line)
            for message in value if isinstance(value, list) else [value]:
                self.link.receive(message, self._manager.loop.clock())
        except InvalidMessage as error:
            self._manager.noise.add()
            log.warning("skipped a line on the server's stdout: %s", error)

    def _ended(self, exit_: Exit) -> None:
        self._manager.forget(self)
        self.link.close(str(exit_))
        for stream in self._streams.values():
            stream.end()
        for response in list(self._open):
            response.finish()
        self._open.clear()

    def stop(self, reason: str) -> None:
        """End the process, and with it everything of this session, which is unknown from now on."""
        self.stopping = True
        self._process.stop(reason)

    # The client's side

    def receive(self, message: Message) -> None:
        """Take a message of the server that belongs to no call: it waits for the client's GET stream."""
        self._streams[_STANDALONE].add(message)

    def open_stream(self, response: Response, identity: Identity, last_event_id: str | None) -> None:
        """Serve the GET stream, or go on with the stream that `last_event_id` is of. Raises Refusal."""
        number, after = _STANDALONE, None
        if last_event_id is not None:
            parsed = parse_event_id(last_event_id)
            if parsed is None or parsed[0] not in self._streams:
                raise Refusal(
                    "400 Bad Request",
                    jsonrpc.INVALID_REQUEST,
                    "Last-Event-ID names no stream of this session",
                )
            number, after = parsed
        response.start(SSE_HEADERS, SSE_OPEN)
        self.hold(response, identity, self._streams[number])
        self._streams[number].attach(response, after)

    def begin_stream(self, response: Response, identity: Identity, headers: Headers) -> EventStream:
        """Turn the answer to a POST into a stream of its own."""
        ended = [number for number, stream in self._streams.items() if stream.ended]
        for number in ended[:-_MAX_ENDED_STREAMS]:
            del self._streams[number]
        stream = EventStream(number=self._next_stream, max_bytes=_MAX_STREAM_BYTES)
        self._streams[self._next_stream] = stream
        self._next_stream += 1
        response.start([*SSE_HEADERS, *headers], SSE_OPEN)
        self.hold(response, identity, stream)
        stream.attach(response)
        if self.version is not None and self.version >= _FIRST_PRIMED_VERSION:
            stream.prime()
        return stream

    def hold(self, response: Response, identity: Identity, stream: EventStream | None) -> None:
        """Remember an open response, so that it ends with its token or its grant."""
        self._open[response] = identity, stream
        response.on_disconnect = lambda: self.release(response)

    def release(self, response: Response) -> None:
        """Forget a response that is finished or whose client is gone."""
        _, stream = self._open.pop(response, (None, None))
        if stream is not None:
            stream.detach(response)

    @property
    def open_streams(self) -> int:
        """How many responses are event streams at present."""
        return sum(response.started for response in self._open)

    def end_responses(self, ended: Callable[[Identity], bool], reason: str) -> None:
        """End every open response of an identity that is no longer good."""
        for response, (identity, _) in list(self._open.items()):
            if not ended(identity):
                continue
            self.release(response)
            if response.started:
                response.finish()
            else:
                body = jsonrpc.encode(jsonrpc.error(None, jsonrpc.SERVER_ERROR, reason))
                response.reply("403 Forbidden", [("Content-Type", "application/json")], body)

    def tick(self, now: float) -> None:
        """Fail calls whose time is up; end a session that nobody uses."""
        self._manager.timeouts.add(self.link.expire(now))
        # A response that was finished by the server's answer needs no holding.
        for response in [response for response in self._open if response.finished]:
            self.release(response)
        if self._open or self.link.in_flight:
            self.last_used = now
        elif now - self.last_used > self._manager.options.idle_timeout:
            self.stop("it was idle")

    def keep_alive(self) -> None:
        """Write a comment on every open stream, so that nothing on the way takes it for dead."""
        for response in self._open:
            if response.started:
                response.write(SSE_COMMENT)


class Answer:
    """The answer to one POST that holds requests: JSON if there is nothing else to say, an event stream otherwise."""

    def __init__(self, session: Session, response: Response, identity: Identity, *, expected: int, batch: bool) -> None:
        self._session = session
        self._response = response
        self._identity = identity
        self._missing = expected
        self._batch = batch
        self._stream: EventStream | None = None
        self._headers: Headers = []
        session.hold(response, identity, None)

    def send(self, message: Message) -> None:
        """Say something before the answer, which makes it a stream."""
        if self._stream is None:
            self._stream = self._session.begin_stream(self._response, self._identity, self._headers)
        self._stream.add(message)

    def finish(self, message: Message) -> None:
        """Answer one of the requests."""
        self._missing -= 1
        if self._batch or self._stream is not None:
            self.send(message)
            if self._missing == 0 and self._stream is not None:
                self._stream.end()
                self._session.release(self._response)
            return
        self._session.release(self._response)
        self._response.reply("200 OK", [("Content-Type", "application/json"), *self._headers], jsonrpc.encode(message))


class InitializeAnswer(Answer):
    """The answer to `initialize`: a success opens the session."""

    def __init__(self, session: Session, response: Response, identity: Identity) -> None:
        super().__init__(session, response, identity, expected=1, batch=False)
        self._headers = [(SESSION_HEADER, session.id)]

    def finish(self, message: Message) -> None:
        """Answer, and end the process if the server refused."""
        self._session.version = negotiated_version(message)
        if self._session.version is None:
            self._headers = []
            self._session.stop("it refused to initialize")
        super().finish(message)


class Sessions:
    """All sessions of one bridge."""

    def __init__(self, loop: Loop, options: Options, registry: Registry) -> None:
        self.loop = loop
        self.options = options
        self._sessions: dict[str, Session] = {}
        self.spawns = registry.counter("mcp_bridge_spawns_total", "Server processes started")
        self.noise = registry.counter("mcp_bridge_skipped_lines_total", "Lines of stdout that were no message")
        self.timeouts = registry.counter("mcp_bridge_call_timeouts_total", "Calls that were not answered in time")
        registry.gauge("mcp_bridge_sessions", "Open sessions", lambda: len(self._sessions))
        registry.gauge("mcp_bridge_calls_in_flight", "Calls not answered yet", lambda: self.in_flight)
        registry.gauge(
            "mcp_bridge_open_streams",
            "Open event streams",
            lambda: sum(session.open_streams for session in self._sessions.values()),
        )

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def in_flight(self) -> int:
        """How many calls are not answered yet."""
        return sum(session.link.in_flight for session in self._sessions.values())

    def open(self, user: str, request_id: jsonrpc.RequestId) -> Session:
        """Start a session's process. Raises Refusal when there are too many, or it cannot be started."""
        of_user = sum(session.user == user for session in self._sessions.values())
        if len(self._sessions) >= self.options.max_sessions or of_user >= self.options.max_sessions_per_user:
            raise unavailable("too many sessions are open", request_id=request_id, retry_seconds=_RETRY_SECONDS)
        try:
            session = Session(self, user)
        except SpawnError as error:
            log.error("%s", error)
            raise Refusal(
                "502 Bad Gateway",
                jsonrpc.INTERNAL_ERROR,
                "the MCP server cannot be started",
                request_id=request_id,
            ) from error
        self.spawns.add()
        self._sessions[session.id] = session
        return session

    def find(
        self, session_id: str | None, identity: Identity, *, request_id: jsonrpc.RequestId | None = None
    ) -> Session:
        """Return the user's session. Raises Refusal: 400 without an id, 404 on another's or an ended one."""
        if session_id is None:
            raise Refusal(
                "400 Bad Request", jsonrpc.INVALID_REQUEST, f"{SESSION_HEADER} is missing: initialize first",
                request_id=request_id,
            )  # fmt: skip
        session = self._sessions.get(session_id)
        if session is None or session.stopping or session.user != identity.user or session.version is None:
            raise Refusal(
                "404 Not Found",
                jsonrpc.SERVER_ERROR,
                "no such session: initialize anew",
                request_id=request_id,
            )
        session.last_used = self.loop.clock()
        return session

    def forget(self, session: Session) -> None:
        """Take an ended session out; its id is unknown from now on."""
        self._sessions.pop(session.id, None)

    def all(self) -> list[Session]:
        """Return every session."""
        return list(self._sessions.values())
