"""The lease of calls that stand alone: a server process that modern calls of one user share."""

from __future__ import annotations

import math
from collections.abc import Callable

from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.calls import CallOutcome
from stdio_bridge.protocol.errors import HttpError, stopping
from stdio_bridge.protocol.mcp import LISTEN
from stdio_bridge.protocol.tool_catalog import ToolCatalog

from .backend import CallBackend, ModernCaller
from .eviction import CALL_SECONDS, end_if_idle
from .handshake import Failed, Gone, Handshake, Initialized, Outcome, own_initialize
from .lease import LeaseParts, ServerLease
from .legacy_for_modern import LegacyForModern
from .passthrough import CallPassthrough
from .pool import EVICTED
from .tool_lookup import ToolLookup


class CallLease(ServerLease):
    """A server that runs for modern calls. They wait here until its handshake is over."""

    def __init__(
        self,
        parts: LeaseParts,
        user: str,
        first: ModernCaller,
        *,
        found_modern: Callable[[CallLease], None],
        forget: Callable[[ServerLease], None],
    ) -> None:
        """`found_modern` is called once the handshake has found a modern server."""
        self._backend: CallBackend | None = None
        self._waiting: list[ModernCaller] = []
        self._tools = ToolCatalog()
        self._lookup: ToolLookup | None = None
        self._initialize = own_initialize(first.metadata, parts.era_cache.versions)
        self._is_to_start_again = False
        self._found_modern = found_modern
        self._is_stopped = False
        super().__init__(parts, user, first.identity, forget=forget)

    def begin(self) -> None:
        """Begin the handshake."""
        self._make_handshake().begin_for_modern()

    def _make_handshake(self) -> Handshake:
        parts = self._parts
        return Handshake(self.dispatcher, parts.pool.loop, parts.era_cache, self._initialize, self._handshake_done)

    def serve(self, client: ModernCaller) -> None:
        """Answer a call, once the handshake is over."""
        self.last_used = self._parts.pool.loop.clock()
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
        if isinstance(outcome, Gone) and self._server.refusal is None:
            self._is_to_start_again = not self._is_stopped
            return
        waiting, self._waiting = self._waiting, []
        if self._server.refusal is not None:
            for client in waiting:
                client.refuse(self._server.refusal)
            return
        if isinstance(outcome, Failed):
            reason = outcome.message["error"].get("message")
            text = reason if isinstance(reason, str) else "the MCP server refused to initialize"
            for client in waiting:
                client.fail(jsonrpc.INTERNAL_ERROR, text, outcome=outcome.outcome)
            self.stop("it refused to initialize")
            return
        versions = self._parts.era_cache.versions
        if isinstance(outcome, Initialized):
            suspended_calls = self._parts.suspended_calls
            self._backend = LegacyForModern(
                self.dispatcher, outcome.result, suspended_calls, self._tools, versions=versions
            )
        else:
            self._backend = CallPassthrough(self.dispatcher, self._tools, versions=versions)
            self._found_modern(self)
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
        """End a server that has been idle for too long, or whose user's credential is about to end."""
        if self._server.is_due(now) and not self._waiting and self.dispatcher.idle:
            self.stop("its user's credential is about to end")
        end_if_idle(self, now, idle_timeout=self._parts.pool.options.idle_timeout)

    def stop(self, reason: str) -> None:
        """End the server; the next call gets another one."""
        self._is_stopped = True
        self._forget(self)
        self._server.stop(reason)

    def _ended(self, reason: str) -> None:
        if self._is_to_start_again:
            self._start_again()
            return
        self._forget(self)
        waiting, self._waiting = self._waiting, []
        for client in waiting:
            client.fail(jsonrpc.INTERNAL_ERROR, f"the MCP server {reason}", outcome=CallOutcome.SERVER_EXIT)
        if self._backend is not None:
            self._backend.fail(reason)

    def _start_again(self) -> None:
        """Start another process, and initialize it at once."""
        self._is_to_start_again = False
        pool = self._parts.pool
        newest = self._waiting[-1].identity if self._waiting else None
        if newest is None and pool.credentials is not None:
            self._forget(self)  # no client waits, so there is no identity to ask with
            return
        try:
            self._server = pool.start(self, self._ended, newest)
        except HttpError as error:
            self._forget(self)
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
