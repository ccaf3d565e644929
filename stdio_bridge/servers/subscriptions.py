"""`subscriptions/listen` for a legacy server, which sends changes to every client."""

from __future__ import annotations

from collections import Counter

from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.calls import CallOutcome
from stdio_bridge.protocol.jsonrpc import Message
from stdio_bridge.protocol.mcp import SUBSCRIPTION_ID
from stdio_bridge.protocol.recipients import MAX_URI_BYTES, size_of
from stdio_bridge.protocol.subscription_filter import concerns, honoured
from stdio_bridge.protocol.tool_catalog import ToolCatalog

from .backend import ModernCaller
from .dispatcher import Dispatcher


class Subscriptions:
    """The open subscriptions of one server. For all of them, it is one client of the connection."""

    def __init__(self, dispatcher: Dispatcher, capabilities: Message, tools: ToolCatalog) -> None:
        self._dispatcher = dispatcher
        self._capabilities = capabilities
        self._tools = tools
        self._open: dict[ModernCaller, Message] = {}
        self._watched: Counter[str] = Counter()
        dispatcher.join(self)

    def __len__(self) -> int:
        return len(self._open)

    def open(self, client: ModernCaller) -> None:
        """Begin a subscription. Its first message is the acknowledgement."""
        wanted = jsonrpc.params_of(client.message).get("notifications")
        if not isinstance(wanted, dict):
            client.fail(jsonrpc.INVALID_PARAMS, "params.notifications must be an object")
            return
        kept = honoured(wanted, self._capabilities)
        if sum(map(size_of, kept.get("resourceSubscriptions", ()))) > MAX_URI_BYTES:
            client.fail(jsonrpc.INVALID_PARAMS, "params.notifications.resourceSubscriptions are too many")
            return
        self._open[client] = kept
        for uri in kept.get("resourceSubscriptions", ()):
            self._watched[uri] += 1
            if self._watched[uri] == 1:
                self._tell("resources/subscribe", uri)
        self._send(client, jsonrpc.notification("notifications/subscriptions/acknowledged", {"notifications": kept}))

    def leave(self, client: ModernCaller) -> None:
        """The client has left: it hears of nothing more."""
        kept = self._open.pop(client, {})
        for uri in kept.get("resourceSubscriptions", ()):
            self._watched[uri] -= 1
            if not self._watched[uri]:
                del self._watched[uri]
                self._tell("resources/unsubscribe", uri)

    def close(self) -> None:
        """End them all."""
        for client in list(self._open):
            self.leave(client)
            client.end_subscription()

    def fail(self, text: str) -> None:
        """End them all with an error, so that their clients subscribe again."""
        opened, self._open = self._open, {}
        for client in opened:
            client.fail(jsonrpc.INTERNAL_ERROR, text, outcome=CallOutcome.SERVER_EXIT)

    def _tell(self, method: str, uri: str) -> None:
        self._dispatcher.ask(method, {"uri": uri}, lambda _: None)

    def receive(self, message: Message) -> None:
        """Deliver a change; refuse a request that belongs to no call."""
        if "id" in message:
            self._dispatcher.refuse(self, message, "there is no call whose client could be asked")
            return
        if message["method"] == "notifications/tools/list_changed":
            self._tools.forget()
        for client, kept in list(self._open.items()):
            if concerns(message, kept):
                self._send(client, message)

    def _send(self, client: ModernCaller, message: Message) -> None:
        client.send(jsonrpc.with_meta(message, **{SUBSCRIPTION_ID: client.id}))
