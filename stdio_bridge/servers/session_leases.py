"""Who shares a server: a session has one of its own, or one with others, which was initialized once for them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from stdio_bridge.options import Isolation
from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.jsonrpc import Message
from stdio_bridge.protocol.recipients import declared_by
from stdio_bridge.servers.backend import Client, Reply

from .eviction import Occupant
from .handshake import EraCache
from .legacy_facade import LegacyFacade
from .pool import EVICTED, Servers

_INITIALIZED = "notifications/initialized"
_EVERYONE = ""


class SessionClient(Client, Occupant, Protocol):
    """What a home needs of a session."""

    def home_ended(self) -> None:
        """The server is gone, and with it the session."""


class Home:
    """One initialized server and the sessions that it serves.

    The first session's `initialize` is what the server sees. The others get the same answer, except that one who asks
    for an older revision that the bridge knows is given it: revisions only add.
    """

    def __init__(
        self, servers: Servers, era_cache: EraCache, user: str, ended: Callable[[Home], None], *, exclusive: bool
    ) -> None:
        self.exclusive = exclusive
        self.user = user
        self._versions = era_cache.versions
        self._servers = servers
        self._ended = ended
        self._clients: dict[SessionClient, None] = {}
        self._server = servers.start(self, self._server_ended)
        input_seconds = servers.options.input_timeout
        self.backend = LegacyFacade(self._server.dispatcher, servers.loop, era_cache, input_seconds=input_seconds)
        self.check_room = self._server.check_room
        self._empty_since = servers.loop.clock()
        self._result: Message | None = None
        self._asking = False
        self._asked_with: Message | None = None
        self._waiting: list[tuple[SessionClient, Message, Reply]] = []
        self._told_initialized = False

    @property
    def stopping(self) -> bool:
        """Whether it takes nobody any more."""
        return self._server.ending

    def waits_for(self, user: str, initialize: Message) -> bool:
        """Whether it is left over from a client that did not wait for its start, and is what this one would start."""
        abandoned = self.exclusive and not self._clients and not self.stopping
        return abandoned and self.user == user and self._asked_with == _asked_with(initialize)

    def join(self, client: SessionClient, *, user: str, initialize: Message) -> None:
        """Serve one more session."""
        self._clients[client] = None
        self.backend.join(client, user=user, capabilities=declared_by(initialize), initialize=initialize)

    def leave(self, client: SessionClient, reason: str) -> None:
        """Serve a session no longer; its calls fail. A server of its own ends with it, others when they are idle.

        One that is still starting goes on: its client, which did not wait for it, comes back for it.
        """
        if client not in self._clients:
            return
        del self._clients[client]
        self._waiting = [waiting for waiting in self._waiting if waiting[0] is not client]
        self.backend.leave(client)
        self._empty_since = self._servers.loop.clock()
        if self.exclusive and not (self._asking and self._server.running):
            self._server.stop(reason)

    @property
    def idle_since(self) -> float | None:
        """When the last of its sessions was used; None while one is in use."""
        used = [client.idle_since for client in self._clients]
        idle = [since for since in used if since is not None]
        return max(idle, default=self._empty_since) if len(idle) == len(used) else None

    @property
    def seconds_in_use(self) -> float:
        """About how long one of its sessions still needs it."""
        return max((client.seconds_in_use for client in self._clients), default=0.0)

    def evict(self) -> None:
        """End the server and its sessions, so that another can start."""
        for client in list(self._clients):
            client.evict()
        self._server.stop(EVICTED)

    def tick(self, now: float) -> None:
        """End a server that nobody uses."""
        if not self._clients and not self.stopping and now - self._empty_since > self._servers.options.idle_timeout:
            self._server.stop("it was idle")

    def _server_ended(self, reason: str) -> None:
        self._ended(self)
        self.backend.close(reason)
        clients, self._clients = self._clients, {}
        for client in clients:
            client.home_ended()

    def initialize(self, client: SessionClient, message: Message, reply: Reply) -> None:
        """Answer a session's `initialize`, with what the server says or has said to the first."""
        if self._result is not None:
            reply.finish(self.answer(message, self._result))
        elif self._asking:
            self._waiting.append((client, message, reply))
        else:
            self._ask(message, reply)

    def _ask(self, message: Message, reply: Reply) -> None:
        self._asking = True
        self._asked_with = _asked_with(message)
        params = jsonrpc.params_of(message)
        if isinstance(asked := params.get("protocolVersion"), str):
            params = {**params, "protocolVersion": self._versions.to_server(asked)}
        self.backend.request(self, {**message, "params": params}, _FirstReply(self, message, reply))

    def receive(self, message: Message) -> None:
        """Take what the server says before it is initialized, which is for nobody."""

    def answered(self, answer: Message) -> None:
        """The server has answered the first `initialize`."""
        self._asking = False
        waiting, self._waiting = self._waiting, []
        result = answer.get("result")
        if isinstance(result, dict):
            self._result = result
            for _, message, reply in waiting:
                reply.finish(self.answer(message, result))
        elif self.stopping:
            for _, message, reply in waiting:
                reply.finish({**answer, "id": message["id"]})
        elif waiting:
            # What one was refused for (a revision, say) need not be so for the next.
            self._waiting = waiting[1:]
            _, message, reply = waiting[0]
            self._ask(message, reply)
        elif self.exclusive:
            self._server.stop("it refused to initialize")

    def answer(self, initialize: Message, result: Message) -> Message:
        """A session's answer, from the server's to the first: in the session's own revision where that is older."""
        version = result.get("protocolVersion")
        if isinstance(version, str):
            asked = jsonrpc.params_of(initialize).get("protocolVersion")
            result = {**result, "protocolVersion": self._versions.to_client(asked, version)}
        return jsonrpc.result(initialize["id"], result)

    def notify(self, client: SessionClient, message: Message) -> None:
        """Pass a session's notification on; that it is initialized is told once."""
        if message["method"] == _INITIALIZED:
            if self._told_initialized:
                return
            self._told_initialized = True
        self.backend.notify(client, message)


class _FirstReply:
    """Takes the answer to the first `initialize` for its home, and passes it on."""

    def __init__(self, home: Home, message: Message, reply: Reply) -> None:
        self._home = home
        self._message = message
        self._reply = reply

    def send(self, message: Message) -> None:
        self._reply.send(message)

    def finish(self, message: Message) -> None:
        result = message.get("result")
        told = self._home.answer(self._message, result) if isinstance(result, dict) else message
        self._reply.finish(told)
        self._home.answered(message)


class Homes:
    """Finds the server that a new session belongs to, by the isolation that is asked for."""

    def __init__(self, servers: Servers, era_cache: EraCache) -> None:
        self._servers = servers
        self._era_cache = era_cache
        self._isolation = servers.options.isolation
        self._homes: dict[Home, None] = {}
        self._by_user: dict[str, Home] = {}

    def home_for(self, user: str, initialize: Message) -> Home:
        """Return a user's home, a new one if need be. Raises HttpError."""
        if self._isolation is Isolation.PER_SESSION:
            for abandoned in self._homes:
                if abandoned.waits_for(user, initialize):
                    return abandoned
            home = Home(self._servers, self._era_cache, user, self._forget, exclusive=True)
        else:
            key = user if self._isolation is Isolation.PER_USER else _EVERYONE
            known = self._by_user.get(key)
            if known is not None and not known.stopping:
                return known
            home = self._by_user[key] = Home(self._servers, self._era_cache, key, self._forget, exclusive=False)
        self._homes[home] = None
        return home

    def tick(self, now: float) -> None:
        """End the servers that nobody uses."""
        for home in list(self._homes):
            home.tick(now)

    def _forget(self, home: Home) -> None:
        self._homes.pop(home, None)
        for key in [key for key, known in self._by_user.items() if known is home]:
            del self._by_user[key]


def _asked_with(initialize: Message) -> Message:
    """What a server has learnt from an `initialize`."""
    return {name: value for name, value in jsonrpc.params_of(initialize).items() if name != "_meta"}
