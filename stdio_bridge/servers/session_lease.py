"""The lease of one legacy session, or of several that share a server process."""

from __future__ import annotations

from collections.abc import Callable

from stdio_bridge.http.identity import Identity
from stdio_bridge.protocol import jsonrpc, to_legacy
from stdio_bridge.protocol.calls import CallOutcome
from stdio_bridge.protocol.jsonrpc import Message

from .backend import InitializeReply, SessionBackend, SessionClient
from .handshake import Failed, Handshake, Initialized, Modern, Outcome
from .lease import LeaseParts, ServerLease
from .modern_for_legacy import ModernForLegacy
from .passthrough import SessionPassthrough

_INITIALIZED = "notifications/initialized"


class SessionLease(ServerLease):
    """A server of one session, or of several.

    The server gets the first session's `initialize`. The other sessions get the same answer; one that asks for an older
    revision that the bridge knows gets this revision, as a newer one only adds to it.
    """

    def __init__(
        self,
        parts: LeaseParts,
        user: str,
        identity: Identity,
        *,
        exclusive: bool,
        forget: Callable[[ServerLease], None],
    ) -> None:
        self._clients: dict[SessionClient, Message] = {}
        super().__init__(parts, user, identity, forget=forget)
        self.exclusive = exclusive
        # The server is treated as legacy until the handshake shows that it is modern.
        self.backend: SessionBackend = SessionPassthrough(self.dispatcher)
        self._versions = parts.era_cache.versions
        self._result: Message | None = None
        self._handshake: Handshake | None = None
        self._asked_with: Message | None = None
        self._waiting: list[tuple[SessionClient, Message, InitializeReply]] = []
        self._told_initialized = False

    def is_left_for(self, user: str, initialize: Message) -> bool:
        """Whether its client has left while it was starting, and this `initialize` is the same."""
        abandoned = self.exclusive and not self._clients and not self.ending
        return abandoned and self.user == user and self._asked_with == _asked_with(initialize)

    def join(self, client: SessionClient, *, user: str, initialize: Message) -> None:
        """Add a session."""
        self._clients[client] = initialize
        self.backend.join(client, user=user, initialize=initialize)

    def leave(self, client: SessionClient, reason: str) -> None:
        """Remove a session, whose calls fail. Its server ends as well; a shared server ends when it is idle.

        A server that is still starting continues, as its client may come back after its own time-out.
        """
        if client not in self._clients:
            return
        del self._clients[client]
        self._waiting = [waiting for waiting in self._waiting if waiting[0] is not client]
        self.backend.leave(client)
        self.last_used = self._parts.pool.loop.clock()
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
        """End a server that has been idle for too long, or whose user's credential is about to end."""
        if self._server.is_due(now) and not any(self.backend.has_calls_of(client) for client in self._clients):
            self.evict()
        if not self._clients and not self.ending and now - self.last_used > self._parts.pool.options.idle_timeout:
            self._server.stop("it was idle")

    def _ended(self, reason: str) -> None:
        self._forget(self)
        self.backend.fail(reason)
        clients, self._clients = self._clients, {}
        for client in clients:
            client.lease_ended()

    def notify(self, client: SessionClient, message: Message) -> None:
        """Pass a session's notification on. The server gets `notifications/initialized` only once."""
        if message["method"] == _INITIALIZED:
            if self._told_initialized:
                return
            self._told_initialized = True
        self.backend.notify(client, message)

    # The handshake

    def initialize(self, client: SessionClient, message: Message, reply: InitializeReply) -> None:
        """Answer a session's `initialize` with the server's answer to the first session's."""
        if self._result is not None:
            reply.finish(self._answer(message, self._result))
        elif self._handshake is not None:
            self._waiting.append((client, message, reply))
        else:
            self._begin(message, reply)

    def _begin(self, message: Message, reply: InitializeReply) -> None:
        self._asked_with = _asked_with(message)
        params = jsonrpc.params_of(message)
        if isinstance(asked := params.get("protocolVersion"), str):
            params = {**params, "protocolVersion": self._versions.to_server(asked)}
        sent = {**message, "params": params}

        def done(outcome: Outcome) -> None:
            self._handshake_done(sent, message, reply, outcome)

        loop, era_cache = self._parts.pool.loop, self._parts.era_cache
        self._handshake = Handshake(self.dispatcher, loop, era_cache, sent, done, before=reply.send)
        self._handshake.begin_for_legacy()

    def _handshake_done(self, sent: Message, message: Message, reply: InitializeReply, outcome: Outcome) -> None:
        if self._server.refusal is not None:
            reply.refuse(message["id"], self._server.refusal)
            waiting, self._waiting = self._waiting, []
            for _, asked, waits in waiting:
                waits.refuse(asked["id"], self._server.refusal)
            return
        if isinstance(outcome, Failed):
            # A dual-era client would take a modern error code for that of a modern server.
            self._refused(message, reply, to_legacy.answer({**outcome.message, "id": message["id"]}), outcome.outcome)
            return
        self._handshake = None
        self._result = self._open(sent, outcome)
        waiting, self._waiting = self._waiting, []
        reply.finish(self._answer(message, self._result))
        for _, asked, waits in waiting:
            waits.finish(self._answer(asked, self._result))

    def _open(self, initialize: Message, outcome: Outcome) -> Message:
        """Return the result of `initialize`; for a modern server, it is made from the result of `server/discover`."""
        if isinstance(outcome, Initialized):
            return outcome.result
        discovered = outcome.discovered or {} if isinstance(outcome, Modern) else {}
        pool = self._parts.pool
        emulation = ModernForLegacy(self.dispatcher, pool.loop, discovered, input_seconds=pool.options.input_timeout)
        self.backend = emulation
        for client, own in self._clients.items():
            emulation.take_over(client, own)
        return to_legacy.initialize_result(initialize, discovered)

    def _refused(self, message: Message, reply: InitializeReply, refusal: Message, outcome: CallOutcome | None) -> None:
        reply.finish(refusal, outcome)
        self._handshake = None
        waiting, self._waiting = self._waiting, []
        if self.ending:
            for _, asked, waits in waiting:
                waits.finish({**refusal, "id": asked["id"]}, outcome)
        elif waiting:
            # The server may accept the next session's request, which may ask for another revision, for example.
            self._waiting = waiting[1:]
            _, asked, waits = waiting[0]
            self._begin(asked, waits)
        elif self.exclusive:
            self._server.stop("it refused to initialize")

    def _answer(self, initialize: Message, result: Message) -> Message:
        """The answer to a session, made from the server's first answer, with the session's revision if it is older."""
        version = result.get("protocolVersion")
        if isinstance(version, str):
            asked = jsonrpc.params_of(initialize).get("protocolVersion")
            result = {**result, "protocolVersion": self._versions.to_client(asked, version)}
        return jsonrpc.result(initialize["id"], result)


def _asked_with(initialize: Message) -> Message:
    """The parts of an `initialize` that the server sees."""
    return {name: value for name, value in jsonrpc.params_of(initialize).items() if name != "_meta"}
