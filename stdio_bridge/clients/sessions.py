"""Sessions of the legacy era: each is bound to the user who opened it."""

from __future__ import annotations

import collections
import functools
import secrets
import time
from collections.abc import Callable

from stdio_bridge.http.exchange import Headers, Response
from stdio_bridge.http.identity import Identity
from stdio_bridge.http.open_responses import SSE_HEADERS, OpenResponses
from stdio_bridge.io.metrics import Registry
from stdio_bridge.options import Isolation
from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.calls import CallOutcome
from stdio_bridge.protocol.errors import HttpError, bad_request
from stdio_bridge.protocol.event_stream import EventStream, parse_event_id
from stdio_bridge.protocol.framing import SSE_OPEN, SSE_RETRY
from stdio_bridge.protocol.jsonrpc import Message
from stdio_bridge.protocol.mcp import without_task_tools
from stdio_bridge.protocol.recipients import declared_by
from stdio_bridge.servers.backend import Reply
from stdio_bridge.servers.eviction import CALL_SECONDS, Bounds, end_if_idle
from stdio_bridge.servers.leases import Leases
from stdio_bridge.servers.pool import EVICTED

from .policy import Access

SESSION_HEADER = "Mcp-Session-Id"
_STANDALONE = 0
_MAX_ENDED_STREAMS = 16
# How long a server's request waits for a client that has no stream open. The client may be about to open its GET
# stream, or to resume a lost one after the second that SSE_RETRY tells it to wait.
_UNHEARD_SECONDS = 5.0
_MAX_STREAM_BYTES = 1 << 20
# The bound of all ended streams of a session: one answer alone may be as large as the largest message.
_MAX_ENDED_BYTES = 4 << 20
_MAX_ENDED_BYTES_IN_ALL = 256 << 20
# Smaller where sessions share a process: each of them keeps the messages that name no call.
_MAX_SHARED_STANDALONE_BYTES = 64 << 10
# The first revision whose clients understand an event without data (2025-11-25, "Sending Messages").
_FIRST_VERSION_OF_EMPTY_EVENTS = "2025-11-25"


class Session:
    """One client's conversation with one server."""

    def __init__(self, sessions: Sessions, identity: Identity, initialize: Message) -> None:
        """Join a server, or start one. Raises HttpError."""
        pool = sessions.pool
        replica = pool.options.replica
        self.id = f"{replica}.{secrets.token_urlsafe(24)}" if replica else secrets.token_urlsafe(24)
        self.user = user = identity.user
        self.grant = identity.grant
        self._knows_tasks = "tasks" in declared_by(initialize)
        self.version: str | None = None
        # What its user may do by the newest token; None if there are neither rules nor quotas.
        self.access: Access | None = None
        self.last_used = pool.loop.clock()
        self.open = OpenResponses()
        self.lease = sessions.leases.of_session(identity, initialize)
        self._sessions = sessions
        self._streams: dict[int, EventStream] = {}
        self._next_stream = _STANDALONE
        self._add_stream(_MAX_STREAM_BYTES if self.lease.exclusive else _MAX_SHARED_STANDALONE_BYTES)
        self._ended: collections.deque[EventStream] = collections.deque()
        self.ended_bytes = 0
        self.lease.join(self, user=user, initialize=initialize)

    def request(self, message: Message, reply: Reply) -> None:
        """Pass on a request of its client."""
        if not self._knows_tasks and message["method"] == "tools/list":
            reply = _ChangedReply(reply, without_task_tools)
        if self.access is not None and self.access.changes_answer_to(message):
            reply = _ChangedReply(reply, functools.partial(self.access.answered, message))
        self.lease.backend.request(self, message, reply)

    def stop(self, reason: str) -> None:
        """End the session, so that its id is unknown from now on, and its server if no other session can use it."""
        self._sessions.forget(self)
        self.lease.leave(self, reason)
        self._end()

    def lease_ended(self) -> None:
        """End the session, as its server is gone."""
        self._sessions.forget(self)
        self._end()

    def _end(self) -> None:
        for stream in self._streams.values():
            stream.end()
        self.open.finish()
        while self._ended:
            self.forget_oldest()

    def receive(self, message: Message) -> None:
        """Take a message of the server that belongs to no call: it waits for the client's GET stream."""
        self.deliver(self._streams[_STANDALONE], message)

    def open_stream(self, response: Response, identity: Identity, last_event_id: str | None) -> None:
        """Serve the GET stream, or resume the stream of `last_event_id`. Raises HttpError."""
        number, after = _STANDALONE, None
        if last_event_id is not None:
            parsed = parse_event_id(last_event_id)
            if parsed is None or parsed[0] not in self._streams:
                raise bad_request(jsonrpc.INVALID_REQUEST, "Last-Event-ID names no stream of this session")
            number, after = parsed
        response.start(SSE_HEADERS, SSE_OPEN)
        self._attach(response, identity, self._streams[number], after)

    def begin_stream(self, response: Response, identity: Identity, headers: Headers) -> EventStream:
        """Turn the answer to a POST into a stream of its own."""
        stream = self._add_stream(_MAX_STREAM_BYTES)
        response.start([*SSE_HEADERS, *headers], SSE_OPEN)
        self._attach(response, identity, stream, None)
        if self._knows_empty_events:
            stream.prime()
        return stream

    def _add_stream(self, max_bytes: int) -> EventStream:
        stream = EventStream(number=self._next_stream, max_bytes=max_bytes)
        self._streams[self._next_stream] = stream
        self._next_stream += 1
        return stream

    def deliver(self, stream: EventStream, message: Message, data: bytes | None = None) -> None:
        """Put a message on a stream. `data` is the encoded message, if there is one.

        A request of the server that no client fetches in time is refused, so that the server can continue.
        """
        if self.access is not None and not self.access.shows(message):
            return
        for request in stream.add(message, data):
            self._refuse(request)
        if stream.wire is None and "id" in message and "method" in message:
            self._sessions.pool.loop.call_later(_UNHEARD_SECONDS, lambda: self._give_up(stream, message))

    def _give_up(self, stream: EventStream, request: Message) -> None:
        if stream.give_up(request):
            self._refuse(request)

    def _refuse(self, request: Message) -> None:
        # Not at once: the backend may be in the middle of sending this client a request.
        reason = "the client has no open stream to be asked on"
        self._sessions.pool.loop.call_soon(lambda: self.lease.backend.unheard(self, request, reason))

    def end_stream(self, stream: EventStream) -> None:
        """End a stream. It can still be resumed, until newer streams take its place."""
        stream.end()
        if not self._sessions.knows(self):
            return  # the session has ended, so that no stream of it can be resumed
        self._ended.append(stream)
        self.ended_bytes += stream.size
        self._sessions.ended_bytes += stream.size
        while len(self._ended) > _MAX_ENDED_STREAMS or (self.ended_bytes > _MAX_ENDED_BYTES and len(self._ended) > 1):
            self.forget_oldest()
        self._sessions.bound_ended()

    def forget_oldest(self) -> None:
        """Forget the stream that ended first, so that it can no longer be resumed."""
        oldest = self._ended.popleft()
        self.ended_bytes -= oldest.size
        self._sessions.ended_bytes -= oldest.size
        del self._streams[oldest.number]

    def _attach(self, response: Response, identity: Identity, stream: EventStream, after: int | None) -> None:
        # A partial takes less memory than a closure, and there may be thousands of streams.
        self.open.hold(response, identity, functools.partial(self._close_early, response, stream))
        stream.attach(response, after)

    def _close_early(self, response: Response, stream: EventStream) -> None:
        stream.detach(response)
        # "If the server does close the connection prior to terminating the SSE stream, it SHOULD send an SSE event with
        # a standard retry field before closing". This has no effect if the client has left.
        if self._knows_empty_events:
            response.write(SSE_RETRY)

    @property
    def _knows_empty_events(self) -> bool:
        return self.version is not None and self.version >= _FIRST_VERSION_OF_EMPTY_EVENTS

    @property
    def busy(self) -> bool:
        """Whether it is still being initialized, or has an unanswered call."""
        return self.version is None or self.lease.backend.has_calls_of(self)

    @property
    def idle_since(self) -> float | None:
        """When it was last used; None while it begins, a call is not over, or a response is open.

        A call that waits for its client keeps the session in use only while the client has a response open. The client
        may still come back with an answer, but a client that never does must not use up its user's sessions.
        """
        # The server's answer may have finished a response.
        self.open.sweep()
        is_abandoned = self.version is not None and self.lease.backend.waits_for(self)
        return None if self.open or (self.busy and not is_abandoned) else self.last_used

    @property
    def seconds_in_use(self) -> float:
        """About how long it is still in use: a stream until its token expires, a call for a short time."""
        return self.open.seconds_left(time.time()) if self.open.streams else CALL_SECONDS

    def evict(self) -> None:
        """End, to make room for another session."""
        self.stop(EVICTED)

    def tick(self, now: float) -> None:
        """End the session if it has been idle for too long."""
        end_if_idle(self, now, idle_timeout=self._sessions.pool.options.idle_timeout)


class _ChangedReply:
    """A reply that removes from the answer what its client cannot use, or may not use."""

    def __init__(self, reply: Reply, change: Callable[[Message], Message]) -> None:
        self._reply = reply
        self._change = change

    def send(self, message: Message) -> None:
        self._reply.send(message)

    def finish(self, message: Message, outcome: CallOutcome | None = None) -> None:
        self._reply.finish(self._change(message), outcome)


class Sessions:
    """All sessions of one bridge."""

    def __init__(self, leases: Leases, registry: Registry) -> None:
        self.leases = leases
        self.pool = leases.pool
        self._sessions: dict[str, Session] = {}
        self.ended_bytes = 0
        registry.gauge("mcp_bridge_sessions", "Open sessions", lambda: len(self._sessions))

    def open(self, identity: Identity, initialize: Message) -> Session:
        """Open a session for the client that sent this `initialize`. Raises HttpError if there are too many."""
        options = self.pool.options
        if options.isolation is not Isolation.PER_SESSION:
            # With per-session isolation the limits of processes limit sessions too.
            bounds = Bounds(in_all=options.max_shared_sessions, of_user=options.max_shared_sessions_per_user)
            self.pool.make_room(self._sessions.values(), identity.user, bounds, "--max-shared-sessions")
        session = Session(self, identity, initialize)
        self._sessions[session.id] = session
        return session

    def find(self, session_id: str | None, identity: Identity) -> Session:
        """Return the user's session. Raises HttpError: 400 or 421 without an id, 404 for another user's or ended one.

        Some clients lose the id, but not their token: without an id it is the newest session of the token's grant.
        """
        session = self._newest_of(identity) if session_id is None else self._sessions.get(session_id)
        if session_id is None and session is None:
            text = f"{SESSION_HEADER} is missing: initialize first"
            if identity.grant is not None and self.pool.options.replica:
                # Another replica may have the session: the router tries one after the other.
                raise HttpError("421 Misdirected Request", jsonrpc.INVALID_REQUEST, text)
            raise bad_request(jsonrpc.INVALID_REQUEST, text)
        if session is None or session.user != identity.user or session.version is None:
            raise HttpError("404 Not Found", jsonrpc.SERVER_ERROR, "there is no such session: initialize a new one")
        session.last_used = self.pool.loop.clock()
        return session

    def _newest_of(self, identity: Identity) -> Session | None:
        if identity.grant is None:
            return None
        for session in reversed(self._sessions.values()):
            if (session.user, session.grant) == (identity.user, identity.grant) and session.version is not None:
                return session
        return None

    def tick(self, now: float) -> None:
        """End the sessions that have been idle for too long."""
        for session in self.all():
            session.tick(now)

    def forget(self, session: Session) -> None:
        """Forget an ended session and its id."""
        self._sessions.pop(session.id, None)

    def knows(self, session: Session) -> bool:
        """Whether a session has not ended."""
        return session.id in self._sessions

    def bound_ended(self) -> None:
        """Keep ended streams within their bound: forget the oldest stream of the session with the most bytes."""
        while self.ended_bytes > _MAX_ENDED_BYTES_IN_ALL:
            max(self._sessions.values(), key=lambda session: session.ended_bytes).forget_oldest()

    def all(self) -> list[Session]:
        """Return every session."""
        return list(self._sessions.values())

    def end_responses(self, is_invalid: Callable[[Identity], bool], reason: str) -> None:
        """End every open response of an identity that is no longer valid."""
        for session in self.all():
            session.open.end(is_invalid, reason)

    def end_streams(self, is_expired: Callable[[Identity], bool]) -> None:
        """End every event stream whose token has expired."""
        for session in self.all():
            session.open.end_streams(is_expired)
