"""Leases: which session, user or group of sessions and calls a server process serves."""

from __future__ import annotations

import abc
import json
import math
from dataclasses import dataclass

from stdio_bridge.options import Isolation
from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.errors import HttpError, stopping
from stdio_bridge.protocol.jsonrpc import Message
from stdio_bridge.protocol.mcp import LISTEN
from stdio_bridge.protocol.to_legacy import capabilities_of
from stdio_bridge.protocol.to_modern import answer_from, initialize_result
from stdio_bridge.protocol.tool_catalog import ToolCatalog

from .backend import CallBackend, ModernCaller, Reply, SessionBackend, SessionClient
from .dispatcher import Dispatcher
from .eviction import CALL_SECONDS, end_if_idle
from .handshake import EraCache, Failed, Gone, Handshake, Initialized, Modern, Outcome, own_initialize
from .legacy_for_modern import LegacyForModern
from .modern_for_legacy import ModernForLegacy
from .passthrough import CallPassthrough, SessionPassthrough
from .pool import EVICTED, ServerPool
from .suspended_calls import SuspendedCalls
from .tool_lookup import ToolLookup

_EVERYONE = ""
_INITIALIZED = "notifications/initialized"


@dataclass(frozen=True, kw_only=True)
class Key:
    """The key of a shared server.

    Sessions share one of their user's or of everyone's. Calls that stand alone have others, as a legacy server learns
    once what its client can do and asks for no more: a client that declares something else is better served by another
    process than by errors. `capabilities` are those of such a client; a modern server serves all of them.
    """

    user: str
    of_calls: bool
    capabilities: str = ""


class ServerLease(abc.ABC):
    """The lease of one server process. Raises HttpError if no process may start."""

    def __init__(self, leases: Leases, user: str) -> None:
        self.leases = leases
        self.user = user
        """The user whose limit counts its process."""
        self._server = leases.pool.start(self, self._ended)
        self.last_used = leases.pool.loop.clock()

    @property
    def dispatcher(self) -> Dispatcher:
        """The conversation with the server."""
        return self._server.dispatcher

    @property
    def ending(self) -> bool:
        """Whether it takes no new clients."""
        return self._server.ending

    def check_room(self, calls: int = 1) -> None:
        """Raise HttpError if the server can take no more calls."""
        self._server.check_room(calls)

    @property
    @abc.abstractmethod
    def idle_since(self) -> float | None:
        """When it was last used; None while it is in use."""

    @property
    @abc.abstractmethod
    def seconds_in_use(self) -> float:
        """About how long it is still in use; infinite if that is unknown."""

    def evict(self) -> None:
        """End the server, so that another can start."""
        self._server.stop(EVICTED)

    @abc.abstractmethod
    def tick(self, now: float) -> None:
        """End a server that has been idle for too long."""

    @abc.abstractmethod
    def _ended(self, reason: str) -> None:
        """The server is gone."""


class SessionLease(ServerLease):
    """A server of one session, or of several.

    The first session's `initialize` is what the server sees. The others get the same answer, except that one who asks
    for an older revision that the bridge knows is given it: revisions only add.
    """

    def __init__(self, leases: Leases, user: str, *, exclusive: bool) -> None:
        self._clients: dict[SessionClient, Message] = {}
        super().__init__(leases, user)
        self.exclusive = exclusive
        # A server is taken for a legacy one until the handshake shows that it is not.
        self.backend: SessionBackend = SessionPassthrough(self.dispatcher)
        self._versions = leases.era_cache.versions
        self._result: Message | None = None
        self._handshake: Handshake | None = None
        self._asked_with: Message | None = None
        self._waiting: list[tuple[SessionClient, Message, Reply]] = []
        self._told_initialized = False

    def is_left_for(self, user: str, initialize: Message) -> bool:
        """Whether it is still starting for a client that has left, and fits this `initialize`."""
        abandoned = self.exclusive and not self._clients and not self.ending
        return abandoned and self.user == user and self._asked_with == _asked_with(initialize)

    def join(self, client: SessionClient, *, user: str, initialize: Message) -> None:
        """Serve one more session."""
        self._clients[client] = initialize
        self.backend.join(client, user=user, initialize=initialize)

    def leave(self, client: SessionClient, reason: str) -> None:
        """Remove a session, whose calls fail. Its server ends with it, or when it is idle if it is shared.

        A server that is still starting goes on: its client may have given up waiting and come back.
        """
        if client not in self._clients:
            return
        del self._clients[client]
        self._waiting = [waiting for waiting in self._waiting if waiting[0] is not client]
        self.backend.leave(client)
        self.last_used = self.leases.pool.loop.clock()
        if self.exclusive and not (self._handshake is not None and self._server.running):
            self._server.stop(reason)

    @property
    def idle_since(self) -> float | None:
        """When the last of its sessions was used; None while one is in use."""
        used = [client.idle_since for client in self._clients]
        idle = [since for since in used if since is not None]
        return max(idle, default=self.last_used) if len(idle) == len(used) else None

    @property
    def seconds_in_use(self) -> float:
        """About how long one of its sessions still needs it."""
        return max((client.seconds_in_use for client in self._clients), default=0.0)

    def evict(self) -> None:
        """End the server and its sessions, so that another can start."""
        for client in list(self._clients):
            client.evict()
        super().evict()

    def tick(self, now: float) -> None:
        """End a server that has been idle for too long."""
        if not self._clients and not self.ending and now - self.last_used > self.leases.pool.options.idle_timeout:
            self._server.stop("it was idle")

    def _ended(self, reason: str) -> None:
        self.leases.forget(self)
        self.backend.fail(reason)
        clients, self._clients = self._clients, {}
        for client in clients:
            client.lease_ended()

    def notify(self, client: SessionClient, message: Message) -> None:
        """Pass a session's notification on; that it is initialized is told once."""
        if message["method"] == _INITIALIZED:
            if self._told_initialized:
                return
            self._told_initialized = True
        self.backend.notify(client, message)

    # The handshake

    def initialize(self, client: SessionClient, message: Message, reply: Reply) -> None:
        """Answer a session's `initialize`, with what the server says or has said to the first."""
        if self._result is not None:
            reply.finish(self._answer(message, self._result))
        elif self._handshake is not None:
            self._waiting.append((client, message, reply))
        else:
            self._begin(message, reply)

    def _begin(self, message: Message, reply: Reply) -> None:
        self._asked_with = _asked_with(message)
        params = jsonrpc.params_of(message)
        if isinstance(asked := params.get("protocolVersion"), str):
            params = {**params, "protocolVersion": self._versions.to_server(asked)}
        sent = {**message, "params": params}

        def done(outcome: Outcome) -> None:
            self._handshake_done(sent, message, reply, outcome)

        loop, era_cache = self.leases.pool.loop, self.leases.era_cache
        self._handshake = Handshake(self.dispatcher, loop, era_cache, sent, done, before=reply.send)
        self._handshake.begin_for_legacy()

    def _handshake_done(self, sent: Message, message: Message, reply: Reply, outcome: Outcome) -> None:
        if isinstance(outcome, Failed):
            # A client of both eras would take a code of the modern one for a modern server's.
            self._refused(message, reply, answer_from({**outcome.message, "id": message["id"]}))
            return
        self._handshake = None
        self._result = self._open(sent, outcome)
        waiting, self._waiting = self._waiting, []
        reply.finish(self._answer(message, self._result))
        for _, asked, waits in waiting:
            waits.finish(self._answer(asked, self._result))

    def _open(self, initialize: Message, outcome: Outcome) -> Message:
        """Return the result of `initialize`; a modern server's is made of its own account."""
        if isinstance(outcome, Initialized):
            return outcome.result
        discovered = outcome.discovered or {} if isinstance(outcome, Modern) else {}
        pool = self.leases.pool
        emulation = ModernForLegacy(self.dispatcher, pool.loop, discovered, input_seconds=pool.options.input_timeout)
        self.backend = emulation
        for client, own in self._clients.items():
            emulation.take_over(client, own)
        return initialize_result(initialize, discovered)

    def _refused(self, message: Message, reply: Reply, refusal: Message) -> None:
        reply.finish(refusal)
        self._handshake = None
        waiting, self._waiting = self._waiting, []
        if self.ending:
            for _, asked, waits in waiting:
                waits.finish({**refusal, "id": asked["id"]})
        elif waiting:
            # The server may accept the next one: it may ask for another revision, for example.
            self._waiting = waiting[1:]
            _, asked, waits = waiting[0]
            self._begin(asked, waits)
        elif self.exclusive:
            self._server.stop("it refused to initialize")

    def _answer(self, initialize: Message, result: Message) -> Message:
        """A session's answer, from the server's to the first: in the session's own revision where that is older."""
        version = result.get("protocolVersion")
        if isinstance(version, str):
            asked = jsonrpc.params_of(initialize).get("protocolVersion")
            result = {**result, "protocolVersion": self._versions.to_client(asked, version)}
        return jsonrpc.result(initialize["id"], result)


class CallLease(ServerLease):
    """A server that is kept running for modern calls. They wait here until its handshake is over."""

    def __init__(self, leases: Leases, key: Key, first: ModernCaller) -> None:
        self.key = key
        self._backend: CallBackend | None = None
        self._waiting: list[ModernCaller] = []
        self._tools = ToolCatalog()
        self._lookup: ToolLookup | None = None
        self._initialize = own_initialize(first.metadata, leases.era_cache.versions)
        self._is_to_start_again = False
        super().__init__(leases, key.user)

    def begin(self) -> None:
        """Begin the handshake."""
        self._make_handshake().begin_for_modern()

    def _make_handshake(self) -> Handshake:
        leases = self.leases
        return Handshake(self.dispatcher, leases.pool.loop, leases.era_cache, self._initialize, self._handshake_done)

    def serve(self, client: ModernCaller) -> None:
        """Answer a call, as soon as the handshake is over."""
        self.last_used = self.leases.pool.loop.clock()
        client.on_gone = lambda: self._leave(client)
        if self._backend is None or self._lookup is None:
            self._waiting.append(client)
        elif client.method == "tools/call":
            self._lookup.check(client)
        else:
            self._request(client)

    def _request(self, client: ModernCaller) -> None:
        if self._backend is not None:
            try:
                self._backend.request(client, client.message, client)
            except HttpError as error:
                client.refuse(error)

    def _leave(self, client: ModernCaller) -> None:
        if self._backend is None or self._lookup is None:
            self._waiting.remove(client)
        elif not self._lookup.leave(client):
            self._backend.leave(client)

    def _handshake_done(self, outcome: Outcome) -> None:
        if isinstance(outcome, Gone):
            self._is_to_start_again = True
            return
        waiting, self._waiting = self._waiting, []
        if isinstance(outcome, Failed):
            reason = outcome.message["error"].get("message")
            text = reason if isinstance(reason, str) else "the MCP server refused to initialize"
            for client in waiting:
                client.fail(jsonrpc.INTERNAL_ERROR, text)
            self.stop("it refused to initialize")
            return
        versions = self.leases.era_cache.versions
        if isinstance(outcome, Initialized):
            suspended_calls = self.leases.suspended_calls
            self._backend = LegacyForModern(
                self.dispatcher, outcome.result, suspended_calls, self._tools, versions=versions
            )
        else:
            self._backend = CallPassthrough(self.dispatcher, self._tools, versions=versions)
            self.leases.serve_whatever_is_declared(self)
        self._lookup = ToolLookup(self._backend, self._tools, self._request)
        for client in waiting:
            self.serve(client)

    @property
    def idle_since(self) -> float | None:
        """When it was last used; None while a call or a subscription needs it."""
        if self._waiting or not self.dispatcher.idle or not (self._backend is None or self._backend.idle):
            return None
        return self.last_used

    @property
    def seconds_in_use(self) -> float:
        """About how long a call still needs it; infinite with a subscription, whose end is unknown."""
        return CALL_SECONDS if self._backend is None or self._backend.idle else math.inf

    def evict(self) -> None:
        """End the server, so that another can start."""
        self.stop(EVICTED)

    def tick(self, now: float) -> None:
        """End a server that has been idle for too long."""
        end_if_idle(self, now, idle_timeout=self.leases.pool.options.idle_timeout)

    def stop(self, reason: str) -> None:
        """End the server; the next call gets another one."""
        self.leases.forget(self)
        self._server.stop(reason)

    def _ended(self, reason: str) -> None:
        if self._is_to_start_again:
            self._start_again()
            return
        self.leases.forget(self)
        waiting, self._waiting = self._waiting, []
        for client in waiting:
            client.fail(jsonrpc.INTERNAL_ERROR, f"the MCP server {reason}")
        if self._backend is not None:
            self._backend.fail(reason)

    def _start_again(self) -> None:
        """Start another process, and initialize it at once."""
        self._is_to_start_again = False
        try:
            self._server = self.leases.pool.start(self, self._ended)
        except HttpError as error:
            self.leases.forget(self)
            waiting, self._waiting = self._waiting, []
            for client in waiting:
                client.refuse(error)
        else:
            self._make_handshake().begin_again()

    def close(self) -> None:
        """End the subscriptions, including those that still wait for the handshake."""
        for client in [client for client in self._waiting if client.method == LISTEN]:
            self._waiting.remove(client)
            client.refuse(stopping())
        if self._backend is not None:
            self._backend.close()


class Leases:
    """All leases, by session, user or capabilities."""

    def __init__(self, pool: ServerPool, era_cache: EraCache, suspended_calls: SuspendedCalls) -> None:
        self.pool = pool
        self.era_cache = era_cache
        self.suspended_calls = suspended_calls
        self._sessions: dict[SessionLease, None] = {}
        self._calls: dict[CallLease, None] = {}
        self._by_key: dict[Key, ServerLease] = {}

    def of_session(self, user: str, initialize: Message) -> SessionLease:
        """Return the server that a new session belongs to, by the isolation that is asked for. Raises HttpError."""
        isolation = self.pool.options.isolation
        if isolation is Isolation.PER_SESSION:
            for abandoned in self._sessions:
                if abandoned.is_left_for(user, initialize):
                    return abandoned
            lease = SessionLease(self, user, exclusive=True)
        else:
            key = Key(user=user if isolation is Isolation.PER_USER else _EVERYONE, of_calls=False)
            known = self._by_key.get(key)
            if isinstance(known, SessionLease) and not known.ending:
                return known
            lease = self._by_key[key] = SessionLease(self, key.user, exclusive=False)
        self._sessions[lease] = None
        return lease

    def serve(self, client: ModernCaller) -> None:
        """Have a call answered by a server of its user. Raises HttpError when none has room or may start.

        Isolation between sessions is isolation between users here, as calls that stand alone are of no session; a
        shared server is one process for all that declare the same.
        """
        key = self._key_of(client)
        lease = self._by_key.get(key)
        if isinstance(lease, CallLease) and not lease.ending:
            lease.check_room()
            lease.serve(client)
        else:
            lease = self._by_key[key] = CallLease(self, key, client)
            self._calls[lease] = None
            lease.serve(client)
            lease.begin()

    def _key_of(self, client: ModernCaller) -> Key:
        user = _EVERYONE if self.pool.options.isolation is Isolation.SHARED else client.identity.user
        if self.era_cache.modern:
            return Key(user=user, of_calls=True)
        declared = json.dumps(capabilities_of(client.metadata), sort_keys=True)
        return Key(user=user, of_calls=True, capabilities=declared)

    def serve_whatever_is_declared(self, lease: CallLease) -> None:
        """Let a server that turns out to be modern serve its user, whatever capabilities the client declares.

        Where another one does so already, it gets no new calls, and ends when it is idle.
        """
        self._take_out(lease)
        lease.key = Key(user=lease.key.user, of_calls=True)
        self._by_key.setdefault(lease.key, lease)

    def forget(self, lease: ServerLease) -> None:
        """Forget a server that ends."""
        if isinstance(lease, SessionLease):
            self._sessions.pop(lease, None)
        elif isinstance(lease, CallLease):
            self._calls.pop(lease, None)
        self._take_out(lease)

    def _take_out(self, lease: ServerLease) -> None:
        for key in [key for key, known in self._by_key.items() if known is lease]:
            del self._by_key[key]

    def tick(self, now: float) -> None:
        """End idle servers and sessions, and calls whose client has not come back in time."""
        self.suspended_calls.tick(now)
        for lease in [*self._sessions, *self._calls]:
            lease.tick(now)

    def close(self) -> None:
        """End what would last: subscriptions, and calls that wait for their client."""
        self.suspended_calls.close()
        for lease in list(self._calls):
            lease.close()


def _asked_with(initialize: Message) -> Message:
    """The parts of an `initialize` that the server sees."""
    return {name: value for name, value in jsonrpc.params_of(initialize).items() if name != "_meta"}
