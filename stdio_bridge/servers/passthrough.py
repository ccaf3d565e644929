"""Modern requests for a modern server: passed on as they are."""

from __future__ import annotations

from collections.abc import Callable

from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.calls import Purpose
from stdio_bridge.protocol.connection import Link
from stdio_bridge.protocol.jsonrpc import Message
from stdio_bridge.protocol.mcp import LISTEN, Versions
from stdio_bridge.protocol.tool_catalog import ToolCatalog

from .backend import ModernCaller
from .handshake import own_meta


class NativeDialect:
    """Speaks with a modern server. The link keeps apart what belongs to which request."""

    def __init__(self, link: Link, tools: ToolCatalog, clock: Callable[[], float], *, versions: Versions) -> None:
        self._link = link
        self._versions = versions
        self._tools = tools
        self._clock = clock
        self._watching_tools = False
        self._speakers: dict[str, _Speaker] = {}

    def request(self, exchange: ModernCaller) -> None:
        """Pass a request on; when its client leaves, the server is told."""
        speaker = self._speakers.setdefault(exchange.identity.user, _Speaker(self._link))
        speaker.exchanges.append(exchange)

        def gone() -> None:
            speaker.exchanges.remove(exchange)
            self._link.cancel(call, "the client disconnected")

        reply = _Reply(self._link, speaker, exchange, self._tools, self._versions)
        purpose = Purpose.STREAM if exchange.method == LISTEN else Purpose.CALL
        call = self._link.request(speaker, exchange.message, reply, self._clock(), purpose)
        exchange.on_gone = gone

    def list_tools(self, page: Message, answered: Callable[[Message], None]) -> None:
        """Ask for the tools on the bridge's own account, and forget what the catalog holds when they change."""
        if not self._watching_tools:
            self._watching_tools = True
            params = {"notifications": {"toolsListChanged": True}, "_meta": own_meta()}
            message = {"jsonrpc": "2.0", "id": 0, "method": LISTEN, "params": params}
            watch = _ToolsWatch(self._tools)
            self._link.request(watch, message, watch, self._clock(), Purpose.STREAM)
        self._link.ask("tools/list", {**page, "_meta": own_meta()}, answered, self._clock())

    @property
    def idle(self) -> bool:
        """The bridge's own subscription hears of changes only; the link counts the rest."""
        return not any(speaker.exchanges for speaker in self._speakers.values())

    def close(self) -> None:
        """End every subscription, as "Graceful Closure" has it."""
        for speaker in self._speakers.values():
            for exchange in [exchange for exchange in speaker.exchanges if exchange.method == LISTEN]:
                exchange.on_gone()
                exchange.end_subscription()

    def fail(self, reason: str) -> None:
        """The link has seen to it: here a subscription is a call, too."""


class _Speaker:
    """One user, as the link's client: takes what cannot be told to belong to one of several requests."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.exchanges: list[ModernCaller] = []

    def receive(self, message: Message) -> None:
        """Give a log message to the one request that asked for such; there may be no other than that."""
        if "id" in message:
            self._link.refuse(self, message, "2026-07-28 has no requests from the server")
            return
        wanting = [exchange for exchange in self.exchanges if exchange.wants(message)]
        if len(wanting) == 1:
            wanting[0].send(message)
        else:
            self._link.drop(message, f"it names no request, and {len(wanting)} requests want such")


class _Reply:
    """Brings a modern server's answer to an exchange."""

    def __init__(
        self, link: Link, speaker: _Speaker, exchange: ModernCaller, tools: ToolCatalog, versions: Versions
    ) -> None:
        self._link = link
        self._speaker = speaker
        self._exchange = exchange
        self._tools = tools
        self._versions = versions

    def send(self, message: Message) -> None:
        """Pass on what comes before the answer."""
        if "id" in message:
            self._speaker.receive(message)
        else:
            self._exchange.send(message)

    def finish(self, message: Message) -> None:
        """Pass the answer on."""
        self._speaker.exchanges.remove(self._exchange)
        result = message.get("result")
        if isinstance(result, dict) and self._exchange.method == "tools/list":
            self._tools.learn(result)
        elif isinstance(result, dict) and self._exchange.method == "server/discover":
            # What the bridge serves, natively or not, is what a client in front of it can use.
            message = jsonrpc.result(self._exchange.id, {**result, "supportedVersions": list(self._versions.offered)})
        self._exchange.finish(message)


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
