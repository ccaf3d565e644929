"""Backends for a server of the same era as its clients: messages are passed on as they are."""

from __future__ import annotations

from collections.abc import Callable

from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.calls import Call, CallOutcome, Purpose
from stdio_bridge.protocol.jsonrpc import Message
from stdio_bridge.protocol.mcp import LISTEN, Versions
from stdio_bridge.protocol.recipients import declared_by
from stdio_bridge.protocol.tool_catalog import ToolCatalog

from .backend import ModernCaller, Reply, SessionClient
from .dispatcher import Dispatcher
from .handshake import own_meta


class SessionPassthrough:
    """Legacy sessions at a legacy server."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def join(self, client: SessionClient, *, user: str, initialize: Message) -> None:
        """Add a client, so that it gets messages that name no call. `initialize` is the client's request."""
        self._dispatcher.join(client, user=user, capabilities=declared_by(initialize))

    def request(self, client: SessionClient, message: Message, reply: Reply) -> None:
        """Pass a request on."""
        self._dispatcher.request(client, message, reply)

    def leave(self, client: SessionClient) -> None:
        """Remove a client, and cancel its calls."""
        self._dispatcher.leave(client)

    def notify(self, client: SessionClient, message: Message) -> None:
        """Pass a client's notification on."""
        self._dispatcher.notify(client, message)

    def respond(self, client: SessionClient, message: Message) -> None:
        """Pass a client's answer on."""
        self._dispatcher.respond(client, message)

    def unheard(self, client: SessionClient, request: Message, reason: str) -> None:
        """Refuse a request of the server that did not reach the client."""
        self._dispatcher.refuse(client, request, reason)

    def lose(self, client: SessionClient, reply: Reply) -> None:
        """Do nothing: the call continues."""

    def has_calls_of(self, client: SessionClient) -> bool:
        """Whether a call of this client is in flight."""
        return self._dispatcher.has_calls_of(client)

    def waits_for(self, client: SessionClient) -> bool:
        """Whether a request of the server to this client is unanswered."""
        return self._dispatcher.waits_for(client)

    def fail(self, reason: str) -> None:
        """Do nothing: the connection fails all calls."""


class CallPassthrough:
    """Modern calls at a modern server."""

    def __init__(self, dispatcher: Dispatcher, tools: ToolCatalog, *, versions: Versions) -> None:
        self._dispatcher = dispatcher
        self._versions = versions
        self._tools = tools
        self._watching_tools = False
        self._users: dict[str, _User] = {}
        self._calls: dict[ModernCaller, tuple[_User, Call]] = {}

    def request(self, client: ModernCaller, message: Message, reply: Reply) -> None:
        """Pass a request on."""
        user = self._users.setdefault(client.identity.user, _User(self._dispatcher))
        user.callers.append(client)
        purpose = Purpose.STREAM if client.method == LISTEN else Purpose.CALL
        call = self._dispatcher.request(user, message, _Answer(self, user, client, reply), purpose)
        self._calls[client] = user, call

    def leave(self, client: ModernCaller) -> None:
        """Cancel the call of a client that has left."""
        user, call = self._calls.pop(client)
        user.callers.remove(client)
        self._dispatcher.cancel(call, "the client disconnected")

    def answered(self, client: ModernCaller, message: Message) -> Message:
        """Forget a call that is over. Returns the answer for its client."""
        user, _ = self._calls.pop(client)
        user.callers.remove(client)
        result = message.get("result")
        if isinstance(result, dict) and client.method == "tools/list":
            self._tools.learn(result)
        elif isinstance(result, dict) and client.method == "server/discover":
            # A client can use every revision that the bridge offers, whether or not the server speaks it.
            return jsonrpc.result(client.id, {**result, "supportedVersions": list(self._versions.offered)})
        return message

    def list_tools(self, page: Message, answered: Callable[[Message], None]) -> None:
        """List the tools for the bridge itself, and clear the catalog when they change."""
        if not self._watching_tools:
            self._watching_tools = True
            params = {"notifications": {"toolsListChanged": True}, "_meta": own_meta()}
            message = {"jsonrpc": "2.0", "id": 0, "method": LISTEN, "params": params}
            watch = _ToolsWatch(self._tools)
            self._dispatcher.request(watch, message, watch, Purpose.STREAM)
        self._dispatcher.ask("tools/list", {**page, "_meta": own_meta()}, answered)

    @property
    def idle(self) -> bool:
        """Whether no client has a call or a subscription."""
        return not self._calls

    def close(self) -> None:
        """End every subscription, as "Graceful Closure" has it."""
        for client in [client for client in self._calls if client.method == LISTEN]:
            self.leave(client)
            client.end_subscription()

    def fail(self, reason: str) -> None:
        """Do nothing: a subscription is a call here, and the connection fails all calls."""


class _User:
    """One user, who is the connection's client: gets the messages that may be about any of the user's calls."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.callers: list[ModernCaller] = []

    def receive(self, message: Message) -> None:
        """Give a log message to the call that asked for log messages, if there is only one."""
        if "id" in message:
            self._dispatcher.refuse(self, message, "servers send no requests in 2026-07-28")
            return
        wanting = [client for client in self.callers if client.wants(message)]
        if len(wanting) == 1:
            wanting[0].send(message)
        else:
            self._dispatcher.drop(message, f"it names no request, and {len(wanting)} requests could be meant")


class _Answer:
    """Passes a modern server's answer on to a call."""

    def __init__(self, backend: CallPassthrough, user: _User, client: ModernCaller, reply: Reply) -> None:
        self._backend = backend
        self._user = user
        self._client = client
        self._reply = reply

    def send(self, message: Message) -> None:
        """Pass on a message before the answer."""
        if "id" in message:
            self._user.receive(message)
        else:
            self._reply.send(message)

    def finish(self, message: Message, outcome: CallOutcome | None = None) -> None:
        """Pass the answer on."""
        self._reply.finish(self._backend.answered(self._client, message), outcome)


class _ToolsWatch:
    """The bridge's own subscription to changes of the tools."""

    def __init__(self, tools: ToolCatalog) -> None:
        self._tools = tools

    def receive(self, message: Message) -> None:
        """Ignore messages that name no subscription."""

    def send(self, message: Message) -> None:
        """Forget the tools when they have changed."""
        if message["method"] == "notifications/tools/list_changed":
            self._tools.forget()

    def finish(self, message: Message, outcome: CallOutcome | None = None) -> None:
        """Ignore that the server does not support this subscription."""
