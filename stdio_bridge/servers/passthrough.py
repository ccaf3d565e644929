"""Modern requests for a modern server: passed on as they are."""

from __future__ import annotations

from collections.abc import Callable

from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.calls import Purpose
from stdio_bridge.protocol.jsonrpc import Message
from stdio_bridge.protocol.mcp import LISTEN, Versions
from stdio_bridge.protocol.tool_catalog import ToolCatalog

from .backend import ModernCaller
from .dispatcher import Dispatcher
from .handshake import own_meta


class Passthrough:
    """Speaks with a modern server. The dispatcher keeps apart what belongs to which request."""

    def __init__(self, dispatcher: Dispatcher, tools: ToolCatalog, *, versions: Versions) -> None:
        self._dispatcher = dispatcher
        self._versions = versions
        self._tools = tools
        self._watching_tools = False
        self._user_clients: dict[str, _UserClient] = {}

    def request(self, modern_call: ModernCaller) -> None:
        """Pass a request on; when its client leaves, the server is told."""
        user_client = self._user_clients.setdefault(modern_call.identity.user, _UserClient(self._dispatcher))
        user_client.modern_calls.append(modern_call)
        reply = _Reply(self._dispatcher, user_client, modern_call, self._tools, self._versions)
        purpose = Purpose.STREAM if modern_call.method == LISTEN else Purpose.CALL
        call = self._dispatcher.request(user_client, modern_call.message, reply, purpose)

        def gone() -> None:
            user_client.modern_calls.remove(modern_call)
            self._dispatcher.cancel(call, "the client disconnected")

        modern_call.on_gone = gone

    def list_tools(self, page: Message, answered: Callable[[Message], None]) -> None:
        """Ask for the tools on the bridge's own account, and forget what the catalog holds when they change."""
        if not self._watching_tools:
            self._watching_tools = True
            params = {"notifications": {"toolsListChanged": True}, "_meta": own_meta()}
            message = {"jsonrpc": "2.0", "id": 0, "method": LISTEN, "params": params}
            watch = _ToolsWatch(self._tools)
            self._dispatcher.request(watch, message, watch, Purpose.STREAM)
        self._dispatcher.ask("tools/list", {**page, "_meta": own_meta()}, answered)

    @property
    def idle(self) -> bool:
        """The bridge's own subscription hears of changes only; the dispatcher counts the rest."""
        return not any(user_client.modern_calls for user_client in self._user_clients.values())

    def close(self) -> None:
        """End every subscription, as "Graceful Closure" has it."""
        for user_client in self._user_clients.values():
            for modern_call in [
                modern_call for modern_call in user_client.modern_calls if modern_call.method == LISTEN
            ]:
                modern_call.on_gone()
                modern_call.end_subscription()

    def fail(self, reason: str) -> None:
        """The dispatcher has seen to it: here a subscription is a call, too."""


class _UserClient:
    """One user, as the connection's client: takes what cannot be told to belong to one of several requests."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.modern_calls: list[ModernCaller] = []

    def receive(self, message: Message) -> None:
        """Give a log message to the one request that asked for such; there may be no other than that."""
        if "id" in message:
            self._dispatcher.refuse(self, message, "2026-07-28 has no requests from the server")
            return
        wanting = [modern_call for modern_call in self.modern_calls if modern_call.wants(message)]
        if len(wanting) == 1:
            wanting[0].send(message)
        else:
            self._dispatcher.drop(message, f"it names no request, and {len(wanting)} requests want such")


class _Reply:
    """Brings a modern server's answer to a call."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        user_client: _UserClient,
        modern_call: ModernCaller,
        tools: ToolCatalog,
        versions: Versions,
    ) -> None:
        self._dispatcher = dispatcher
        self._user_client = user_client
        self._modern_call = modern_call
        self._tools = tools
        self._versions = versions

    def send(self, message: Message) -> None:
        """Pass on what comes before the answer."""
        if "id" in message:
            self._user_client.receive(message)
        else:
            self._modern_call.send(message)

    def finish(self, message: Message) -> None:
        """Pass the answer on."""
        self._user_client.modern_calls.remove(self._modern_call)
        result = message.get("result")
        if isinstance(result, dict) and self._modern_call.method == "tools/list":
            self._tools.learn(result)
        elif isinstance(result, dict) and self._modern_call.method == "server/discover":
            # What the bridge serves, natively or not, is what a client in front of it can use.
            message = jsonrpc.result(
                self._modern_call.id, {**result, "supportedVersions": list(self._versions.offered)}
            )
        self._modern_call.finish(message)


class _ToolsWatch:
    """The bridge's own subscription to changes of the tools."""

    def __init__(self, tools: ToolCatalog) -> None:
        self._tools = tools

    def receive(self, message: Message) -> None:
        """Nothing that names no subscription is for this one."""

    def send(self, message: Message) -> None:
        """Forget the tools when they have changed."""
        if message["method"] == "notifications/tools/list_changed":
            self._tools.forget()

    def finish(self, message: Message) -> None:
        """The server keeps no such subscription."""
