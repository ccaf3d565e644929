"""Servers that are kept warm for modern requests: whose they are, and when they end."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

from stdio_bridge.options import Isolation
from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.errors import HttpError, unavailable
from stdio_bridge.protocol.jsonrpc import Message
from stdio_bridge.protocol.mcp import LISTEN
from stdio_bridge.protocol.param_headers import check_mirrored
from stdio_bridge.protocol.request_metadata import RequestMetadata
from stdio_bridge.protocol.to_legacy import capabilities_of
from stdio_bridge.protocol.tool_catalog import ToolCatalog, next_cursor

from .backend import Backend, ModernCaller
from .dispatcher import Dispatcher
from .eviction import CALL_SECONDS
from .handshake import EraCache, Failed, Gone, Handshake, Initialized, Opened
from .legacy_for_modern import LegacyForModern
from .passthrough import Passthrough
from .pool import EVICTED, Servers
from .suspended_calls import SuspendedCalls

Key = tuple[str, str]
_EVERYONE = ""
_MAX_PAGES = 100
_RETRY_SECONDS = 5


class Host:
    """One warm server. Calls wait here until it can be spoken to."""

    def __init__(self, hosts: Hosts, key: Key, metadata: RequestMetadata) -> None:
        """Start the server. Raises HttpError."""
        self._hosts = hosts
        self._key = key
        self._backend: Backend | None = None
        self._waiting: list[ModernCaller] = []
        self._listing: list[Callable[[], None]] = []
        self._tools = ToolCatalog()
        self._metadata = metadata
        self._server = hosts.servers.start(self, self._ended)
        self.last_used = hosts.servers.loop.clock()
        self._initialize_another = False

    @property
    def dispatcher(self) -> Dispatcher:
        """The conversation with the server."""
        return self._server.dispatcher

    @property
    def ending(self) -> bool:
        """Whether it takes nobody any more."""
        return self._server.ending

    def check_room(self) -> None:
        """Raise HttpError when the server can be given no more."""
        self._server.check_room()

    def begin(self) -> None:
        """Begin to speak with the server."""
        self._handshake().begin()

    def _handshake(self) -> Handshake:
        hosts = self._hosts
        return Handshake(self.dispatcher, hosts.servers.loop, hosts.era_cache, self._metadata, self._opened)

    def serve(self, modern_call: ModernCaller) -> None:
        """Answer a call, as soon as the server can be spoken to."""
        self.last_used = self._hosts.servers.loop.clock()
        if self._backend is None:
            self._waiting.append(modern_call)
            modern_call.on_gone = lambda: self._waiting.remove(modern_call)
        elif modern_call.method == "tools/call":
            self._call_tool(modern_call, self._backend)
        else:
            _request(self._backend, modern_call)

    def _opened(self, opened: Opened) -> None:
        if isinstance(opened, Gone):
            self._initialize_another = True
            return
        waiting, self._waiting = self._waiting, []
        if isinstance(opened, Failed):
            error = opened.message["error"]
            for modern_call in waiting:
                modern_call.finish(jsonrpc.error(modern_call.id, jsonrpc.INTERNAL_ERROR, _reason(error)))
            self.stop("it refused to initialize")
            return
        versions = self._hosts.era_cache.versions
        if isinstance(opened, Initialized):
            suspended_calls = self._hosts.suspended_calls
            self._backend = LegacyForModern(
                self.dispatcher, opened.result, suspended_calls, self._tools, versions=versions
            )
        else:
            self._backend = Passthrough(self.dispatcher, self._tools, versions=versions)
            self._key = self._hosts.move(self, self._key)
        for modern_call in waiting:
            self.serve(modern_call)

    def _call_tool(self, modern_call: ModernCaller, backend: Backend) -> None:
        params = jsonrpc.params_of(modern_call.message)
        if not params.get("arguments") and not modern_call.parameter_headers:
            _request(backend, modern_call)
            return
        mirrored = self._tools.find(params.get("name"))
        if mirrored is None:
            self._list_tools(modern_call, backend)
            return
        try:
            check_mirrored(mirrored, params.get("arguments"), modern_call.parameter_headers)
        except HttpError as error:
            modern_call.refuse(error)
        else:
            _request(backend, modern_call)

    def _list_tools(self, modern_call: ModernCaller, backend: Backend) -> None:
        """Ask for the tools' definitions; the call, and others like it, wait for them."""
        gone = False

        def leave() -> None:
            nonlocal gone
            gone = True

        def go_on() -> None:
            if not gone:
                self._call_tool(modern_call, backend)

        modern_call.on_gone = leave
        self._listing.append(go_on)
        if len(self._listing) == 1:
            self._ask_for_tools(backend, None)

    def _ask_for_tools(self, backend: Backend, cursor: str | None, pages: int = 1, known: int | None = None) -> None:
        changes = self._tools.changes if known is None else known

        def answered(answer: Message) -> None:
            if changes != self._tools.changes and pages < _MAX_PAGES:
                # The pages before this one have been forgotten.
                self._ask_for_tools(backend, None, pages + 1)
                return
            result = answer.get("result")
            self._tools.learn(result)
            following = next_cursor(result) if isinstance(result, dict) else None
            if following is not None and pages < _MAX_PAGES:
                self._ask_for_tools(backend, following, pages + 1, changes)
                return
            # A server that lists no tools has no annotated ones. Its own answer to the call says the rest.
            self._tools.complete = True
            listing, self._listing = self._listing, []
            for go_on in listing:
                go_on()

        backend.list_tools({} if cursor is None else {"cursor": cursor}, answered)

    @property
    def user(self) -> str:
        """The user whom its process counts for."""
        return self._key[0]

    @property
    def idle_since(self) -> float | None:
        """When it was last used; None while a call or a subscription needs it."""
        if self._waiting or not self.dispatcher.idle or not (self._backend is None or self._backend.idle):
            return None
        return self.last_used

    @property
    def seconds_in_use(self) -> float:
        """About how long a call still needs it; nobody knows when a subscription ends."""
        return CALL_SECONDS if self._backend is None or self._backend.idle else math.inf

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
        for modern_call in waiting:
            modern_call.fail(jsonrpc.INTERNAL_ERROR, f"the MCP server {reason}")
        if self._backend is not None:
            self._backend.fail(reason)

    def _start_another(self) -> None:
        """Start the server again, and ask nothing before it is initialized."""
        self._initialize_another = False
        try:
            self._server = self._hosts.servers.start(self, self._ended)
        except HttpError as error:
            self._hosts.forget(self._key, self)
            waiting, self._waiting = self._waiting, []
            for modern_call in waiting:
                modern_call.refuse(error)
        else:
            self._handshake().initialize()

    def close(self) -> None:
        """End the subscriptions that it brings, or would bring once its server can be spoken to."""
        for modern_call in [modern_call for modern_call in self._waiting if modern_call.method == LISTEN]:
            self._waiting.remove(modern_call)
            modern_call.refuse(unavailable("the bridge is stopping", retry_seconds=_RETRY_SECONDS))
        if self._backend is not None:
            self._backend.close()


class Hosts:
    """The warm servers of one bridge: one for each user and, if it is a legacy one, for each set of capabilities.

    A legacy server learns once what its client can do and asks for no more; a client that declares something else is
    better served by another process than by errors. Isolation between sessions is isolation between users here, as
    requests that stand alone are of no session; a shared server is one process for all that declare the same.
    """

    def __init__(self, servers: Servers, era_cache: EraCache, suspended_calls: SuspendedCalls) -> None:
        self.servers = servers
        self.era_cache = era_cache
        self.suspended_calls = suspended_calls
        self._hosts: dict[Host, None] = {}
        self._by_key: dict[Key, Host] = {}

    def serve(self, modern_call: ModernCaller) -> None:
        """Have a call answered by a server of its user. Raises HttpError when none has room or may start."""
        key = self._key_of(modern_call)
        host = self._by_key.get(key)
        if host is None or host.ending:
            host = self._by_key[key] = Host(self, key, modern_call.metadata)
            self._hosts[host] = None
            host.serve(modern_call)
            host.begin()
        else:
            host.check_room()
            host.serve(modern_call)

    def _key_of(self, modern_call: ModernCaller) -> Key:
        shared = self.servers.options.isolation is Isolation.SHARED
        user = _EVERYONE if shared else modern_call.identity.user
        if self.era_cache.modern:
            return user, ""
        return user, json.dumps(capabilities_of(modern_call.metadata), sort_keys=True)

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
        self.suspended_calls.tick(now)
        for host in list(self._hosts):
            host.tick(now)

    def close(self) -> None:
        """Leave nothing open that would last: subscriptions, and calls that wait for their client."""
        self.suspended_calls.close()
        for host in list(self._hosts):
            host.close()


def _request(backend: Backend, modern_call: ModernCaller) -> None:
    try:
        backend.request(modern_call)
    except HttpError as error:
        modern_call.refuse(error)


def _reason(error: Message) -> str:
    message = error.get("message")
    return message if isinstance(message, str) else "the MCP server refused to initialize"
