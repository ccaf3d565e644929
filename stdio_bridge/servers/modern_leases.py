"""Servers that are kept warm for modern requests: whose they are, and when they end."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.connection import Link
from stdio_bridge.protocol.errors import Refusal, unavailable
from stdio_bridge.protocol.jsonrpc import Message
from stdio_bridge.protocol.mcp import LISTEN
from stdio_bridge.protocol.param_headers import check_mirrored
from stdio_bridge.protocol.request_metadata import Envelope
from stdio_bridge.protocol.to_legacy import capabilities_of
from stdio_bridge.protocol.tool_catalog import ToolCatalog, next_cursor
from stdio_bridge.usage import Isolation

from .backend import Dialect, ModernCaller
from .eviction import CALL_SECONDS
from .handshake import Failed, Gone, Initialized, Knowledge, Opened, Opening
from .legacy_for_modern import BridgedDialect
from .passthrough import NativeDialect
from .pool import EVICTED, Servers
from .suspended_calls import Parking

Key = tuple[str, str]
_EVERYONE = ""
_MAX_PAGES = 100
_RETRY_SECONDS = 5


class Host:
    """One warm server. Exchanges wait here until it can be spoken to."""

    def __init__(self, hosts: Hosts, key: Key, envelope: Envelope) -> None:
        """Start the server. Raises Refusal."""
        self._hosts = hosts
        self._key = key
        self._dialect: Dialect | None = None
        self._waiting: list[ModernCaller] = []
        self._listing: list[Callable[[], None]] = []
        self._tools = ToolCatalog()
        self._envelope = envelope
        self._server = hosts.servers.start(self, self._ended)
        self.last_used = hosts.servers.loop.clock()
        self._initialize_another = False

    @property
    def link(self) -> Link:
        """The conversation with the server."""
        return self._server.link

    @property
    def ending(self) -> bool:
        """Whether it takes nobody any more."""
        return self._server.ending

    def check_room(self) -> None:
        """Raise Refusal when the server can be given no more."""
        self._server.check_room()

    def begin(self) -> None:
        """Begin to speak with the server."""
        self._opening().begin()

    def _opening(self) -> Opening:
        hosts = self._hosts
        return Opening(self.link, hosts.servers.loop, hosts.knowledge, self._envelope, self._opened)

    def serve(self, exchange: ModernCaller) -> None:
        """Answer an exchange, as soon as the server can be spoken to."""
        self.last_used = self._hosts.servers.loop.clock()
        if self._dialect is None:
            self._waiting.append(exchange)
            exchange.on_gone = lambda: self._waiting.remove(exchange)
        elif exchange.method == "tools/call":
            self._call_tool(exchange, self._dialect)
        else:
            _request(self._dialect, exchange)

    def _opened(self, opened: Opened) -> None:
        if isinstance(opened, Gone):
            self._initialize_another = True
            return
        waiting, self._waiting = self._waiting, []
        if isinstance(opened, Failed):
            error = opened.message["error"]
            for exchange in waiting:
                exchange.finish(jsonrpc.error(exchange.id, jsonrpc.INTERNAL_ERROR, _reason(error)))
            self.stop("it refused to initialize")
            return
        clock, versions = self._hosts.servers.loop.clock, self._hosts.knowledge.versions
        if isinstance(opened, Initialized):
            parking = self._hosts.parking
            self._dialect = BridgedDialect(self.link, opened.result, parking, self._tools, clock, versions=versions)
        else:
            self._dialect = NativeDialect(self.link, self._tools, clock, versions=versions)
            self._key = self._hosts.move(self, self._key)
        for exchange in waiting:
            self.serve(exchange)

    def _call_tool(self, exchange: ModernCaller, dialect: Dialect) -> None:
        params = jsonrpc.params_of(exchange.message)
        if not params.get("arguments") and not exchange.parameter_headers:
            _request(dialect, exchange)
            return
        mirrored = self._tools.find(params.get("name"))
        if mirrored is None:
            self._list_tools(exchange, dialect)
            return
        try:
            check_mirrored(mirrored, params.get("arguments"), exchange.parameter_headers)
        except Refusal as refusal:
            exchange.refuse(refusal)
        else:
            _request(dialect, exchange)

    def _list_tools(self, exchange: ModernCaller, dialect: Dialect) -> None:
        """Ask for the tools' definitions; the exchange, and others like it, wait for them."""
        gone = False

        def leave() -> None:
            nonlocal gone
            gone = True

        def go_on() -> None:
            if not gone:
                self._call_tool(exchange, dialect)

        exchange.on_gone = leave
        self._listing.append(go_on)
        if len(self._listing) == 1:
            self._ask_for_tools(dialect, None)

    def _ask_for_tools(self, dialect: Dialect, cursor: str | None, pages: int = 1, known: int | None = None) -> None:
        changes = self._tools.changes if known is None else known

        def answered(answer: Message) -> None:
            if changes != self._tools.changes and pages < _MAX_PAGES:
                # The pages before this one have been forgotten.
                self._ask_for_tools(dialect, None, pages + 1)
                return
            result = answer.get("result")
            self._tools.learn(result)
            following = next_cursor(result) if isinstance(result, dict) else None
            if following is not None and pages < _MAX_PAGES:
                self._ask_for_tools(dialect, following, pages + 1, changes)
                return
            # A server that lists no tools has no annotated ones. Its own answer to the call says the rest.
            self._tools.complete = True
            listing, self._listing = self._listing, []
            for go_on in listing:
                go_on()

        dialect.list_tools({} if cursor is None else {"cursor": cursor}, answered)

    @property
    def user(self) -> str:
        """The user whom its process counts for."""
        return self._key[0]

    @property
    def idle_since(self) -> float | None:
        """When it was last used; None while a call or a subscription needs it."""
        if self._waiting or not self.link.idle or not (self._dialect is None or self._dialect.idle):
            return None
        return self.last_used

    @property
    def seconds_in_use(self) -> float:
        """About how long a call still needs it; nobody knows when a subscription ends."""
        return CALL_SECONDS if self._dialect is None or self._dialect.idle else math.inf

    def evict(self) -> None:
        """End, so that another server can start."""
        self.stop(EVICTED)

    def tick(self, now: float) -> None:
        """End a server that nobody uses."""
        if self.idle_since is None:
            self.last_used = now
        elif now - self.last_used > self._hosts.servers.options.idle_timeout:
            self.stop("it was idle")

    def stop(self, reason: str) -> None:
        """End the server; the next request gets another one."""
        self._hosts.forget(self._key, self)
        self._server.stop(reason)

    def _ended(self, reason: str) -> None:
        if self._initialize_another:
            self._start_another()
            return
        self._hosts.forget(self._key, self)
        waiting, self._waiting = self._waiting, []
        for exchange in waiting:
            exchange.fail(jsonrpc.INTERNAL_ERROR, f"the MCP server {reason}")
        if self._dialect is not None:
            self._dialect.fail(reason)

    def _start_another(self) -> None:
        """Start the server again, and ask nothing before it is initialized."""
        self._initialize_another = False
        try:
            self._server = self._hosts.servers.start(self, self._ended)
        except Refusal as refusal:
            self._hosts.forget(self._key, self)
            waiting, self._waiting = self._waiting, []
            for exchange in waiting:
                exchange.refuse(refusal)
        else:
            self._opening().initialize()

    def close(self) -> None:
        """End the subscriptions that it brings, or would bring once its server can be spoken to."""
        for exchange in [exchange for exchange in self._waiting if exchange.method == LISTEN]:
            self._waiting.remove(exchange)
            exchange.refuse(unavailable("the bridge is stopping", retry_seconds=_RETRY_SECONDS))
        if self._dialect is not None:
            self._dialect.close()


class Hosts:
    """The warm servers of one bridge: one for each user and, if it is a legacy one, for each set of capabilities.

    A legacy server learns once what its client can do and asks for no more; a client that declares something else is
    better served by another process than by errors. Isolation between sessions is isolation between users here, as
    requests that stand alone are of no session; a shared server is one process for all that declare the same.
    """

    def __init__(self, servers: Servers, knowledge: Knowledge, parking: Parking) -> None:
        self.servers = servers
        self.knowledge = knowledge
        self.parking = parking
        self._hosts: dict[Host, None] = {}
        self._by_key: dict[Key, Host] = {}

    def serve(self, exchange: ModernCaller) -> None:
        """Have an exchange answered by a server of its user. Raises Refusal when none has room or may start."""
        key = self._key_of(exchange)
        host = self._by_key.get(key)
        if host is None or host.ending:
            host = self._by_key[key] = Host(self, key, exchange.envelope)
            self._hosts[host] = None
            host.serve(exchange)
            host.begin()
        else:
            host.check_room()
            host.serve(exchange)

    def _key_of(self, exchange: ModernCaller) -> Key:
        shared = self.servers.options.isolation is Isolation.SHARED
        user = _EVERYONE if shared else exchange.identity.user
        if self.knowledge.modern:
            return user, ""
        return user, json.dumps(capabilities_of(exchange.envelope), sort_keys=True)

    def move(self, host: Host, key: Key) -> Key:
        """Let a host that turns out to be a modern server's serve its user whatever the client declares.

        Where another one does so already, it gets no new requests, and ends when it is idle.
        """
        self._take_out(key, host)
        self._by_key.setdefault((key[0], ""), host)
        return key[0], ""

    def forget(self, key: Key, host: Host) -> None:
        """Know nothing more of a host that ends."""
        self._hosts.pop(host, None)
        self._take_out(key, host)

    def _take_out(self, key: Key, host: Host) -> None:
        if self._by_key.get(key) is host:
            del self._by_key[key]

    def tick(self, now: float) -> None:
        """End what nobody uses, and give up what nobody came back for."""
        self.parking.tick(now)
        for host in list(self._hosts):
            host.tick(now)

    def close(self) -> None:
        """Leave nothing open that would last: subscriptions, and calls that wait for their client."""
        self.parking.close()
        for host in list(self._hosts):
            host.close()


def _request(dialect: Dialect, exchange: ModernCaller) -> None:
    try:
        dialect.request(exchange)
    except Refusal as refusal:
        exchange.refuse(refusal)


def _reason(error: Message) -> str:
    message = error.get("message")
    return message if isinstance(message, str) else "the MCP server refused to initialize"
