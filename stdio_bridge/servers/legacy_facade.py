"""A server as legacy sessions know it: its own answers, or a legacy server made up in front of a modern one."""

from __future__ import annotations

from stdio_bridge.io.event_loop import Loop
from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.jsonrpc import Message
from stdio_bridge.protocol.to_modern import answer_from, initialize_result

from .backend import Client, Reply
from .dispatcher import Dispatcher
from .handshake import EraCache, ServerEra, is_modern_discovery, own_meta
from .modern_for_legacy import EmulatedSession


class LegacyFacade:
    """Has the methods of a dispatcher that sessions use.

    Whether the server can be initialized is seen when the first session tries to: one that refuses and answers
    `server/discover` is modern only, which is remembered for all that follow.
    """

    def __init__(self, dispatcher: Dispatcher, loop: Loop, era_cache: EraCache, *, input_seconds: float) -> None:
        self._dispatcher = dispatcher
        self._loop = loop
        self._era_cache = era_cache
        self._input_seconds = input_seconds
        self._discovered: Message | None = None
        self._clients: dict[Client, Message] = {}
        self._emulated: dict[Client, EmulatedSession] = {}

    def join(self, client: Client, *, user: str, capabilities: frozenset[str] | None, initialize: Message) -> None:
        """Let this client get what the server says to no one in particular. `initialize` is its own."""
        self._clients[client] = initialize
        self._dispatcher.join(client, user=user, capabilities=capabilities)
        if self._discovered is not None:
            self._session_of(client).subscribe()

    def leave(self, client: Client) -> None:
        """Forget a client: its calls are cancelled."""
        self._clients.pop(client, None)
        session = self._emulated.pop(client, None)
        if session is not None:
            session.end()
        self._dispatcher.leave(client)

    def has_calls_of(self, client: Client) -> bool:
        """Whether a call of this client is in flight."""
        session = self._emulated.get(client)
        return self._dispatcher.has_calls_of(client) or (session is not None and session.is_asking)

    def waits_for(self, client: Client) -> bool:
        """Whether the server has asked this client something, and waits for its answer."""
        session = self._emulated.get(client)
        return self._dispatcher.waits_for(client) or (session is not None and session.is_asking)

    def request(self, client: Client, message: Message, reply: Reply) -> None:
        """Pass a client's request on, or answer it."""
        if message["method"] == "initialize":
            self._begin(client, message, reply)
        elif self._discovered is not None:
            self._session_of(client).request(message, reply)
        else:
            self._dispatcher.request(client, message, reply)

    def notify(self, client: Client, message: Message) -> None:
        """Pass a client's notification on."""
        if self._discovered is not None:
            self._session_of(client).notify(message)
        else:
            self._dispatcher.notify(client, message)

    def respond(self, client: Client, message: Message) -> None:
        """Pass a client's answer on."""
        if self._discovered is not None:
            self._session_of(client).respond(message)
        else:
            self._dispatcher.respond(client, message)

    def unheard(self, client: Client, request: Message, reason: str) -> None:
        """Answer a request that did not reach the client, or end what needs the answer."""
        if self._discovered is None:
            self._dispatcher.refuse(client, request, reason)
        elif (session := self._emulated.get(client)) is not None:
            session.unheard(request["id"], reason)

    def lose(self, client: Client, reply: Reply) -> None:
        """Note that nobody hears that reply any more."""
        session = self._emulated.get(client)
        if session is not None:
            session.lose(reply)

    def close(self, reason: str) -> None:
        """The server is gone. The connection fails the calls in flight, and this those that wait for their client."""
        for session in list(self._emulated.values()):
            session.fail(f"the MCP server {reason}")

    def _session_of(self, client: Client) -> EmulatedSession:
        session = self._emulated.get(client)
        if session is None:
            session = self._emulated[client] = EmulatedSession(
                client,
                self._dispatcher,
                self._loop,
                initialize=self._clients[client],
                discovered=self._discovered or {},
                input_seconds=self._input_seconds,
            )
        return session

    def _begin(self, client: Client, message: Message, reply: Reply) -> None:
        if self._discovered is not None:
            reply.finish(jsonrpc.result(message["id"], initialize_result(message, self._discovered)))
        elif self._era_cache.era is ServerEra.MODERN:
            self._discover(message, reply, None)
        else:
            self._dispatcher.request(client, message, _Attempt(self, message, reply))

    def refused(self, message: Message, reply: Reply, refusal: Message) -> None:
        """The server does not let itself be initialized: it may be a modern one."""
        if self._era_cache.era is ServerEra.LEGACY:
            reply.finish(answer_from(refusal))
        else:
            self._discover(message, reply, refusal)

    def _discover(self, message: Message, reply: Reply, refusal: Message | None) -> None:
        def answered(answer: Message) -> None:
            result = answer.get("result")
            if isinstance(result, dict) and is_modern_discovery(answer):
                self._era_cache.era = ServerEra.MODERN
                self._discovered = result
                for client in list(self._clients):
                    self._session_of(client).subscribe()
                reply.finish(jsonrpc.result(message["id"], initialize_result(message, result)))
            else:
                if "error" not in answer:
                    text = "the MCP server serves no version of MCP that the bridge knows"
                    answer = jsonrpc.error(None, jsonrpc.INTERNAL_ERROR, text)
                # A client of both eras would take a code of the modern one for a modern server's.
                reply.finish(answer_from(refusal or {**answer, "id": message["id"]}))

        self._dispatcher.ask("server/discover", {"_meta": own_meta()}, answered)


class _Attempt:
    """The answer to an `initialize` that a server may refuse because of its era."""

    def __init__(self, facade: LegacyFacade, message: Message, reply: Reply) -> None:
        self._facade = facade
        self._message = message
        self._reply = reply

    def send(self, message: Message) -> None:
        """Pass on what comes before the answer."""
        self._reply.send(message)

    def finish(self, message: Message) -> None:
        """Pass on a success; after an error the facade goes on."""
        if "error" in message:
            self._facade.refused(self._message, self._reply, message)
        else:
            self._reply.finish(message)
