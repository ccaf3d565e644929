"""Checks the headers of a modern client's `tools/call` against the tool's definition, for which it asks the server."""

from __future__ import annotations

from collections.abc import Callable

from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.errors import HttpError
from stdio_bridge.protocol.jsonrpc import Message
from stdio_bridge.protocol.param_headers import check_mirrored
from stdio_bridge.protocol.tool_catalog import ToolCatalog, next_cursor

from .backend import CallBackend, ModernCaller

_MAX_PAGES = 100


class ToolLookup:
    """The calls to one server that wait for the definitions of its tools."""

    def __init__(self, backend: CallBackend, tools: ToolCatalog, go_on: Callable[[ModernCaller], None]) -> None:
        """`go_on` gets each call whose headers agree with its arguments."""
        self._backend = backend
        self._tools = tools
        self._go_on = go_on
        self._waiting: list[ModernCaller] = []
        self._is_asking = False

    def check(self, client: ModernCaller) -> None:
        """Pass a call on, refuse it, or let it wait."""
        params = jsonrpc.params_of(client.message)
        if not params.get("arguments") and not client.parameter_headers:
            self._go_on(client)
            return
        mirrored = self._tools.find(params.get("name"))
        if mirrored is None:
            self._waiting.append(client)
            if not self._is_asking:
                self._is_asking = True
                self._ask(None)
            return
        try:
            check_mirrored(mirrored, params.get("arguments"), client.parameter_headers)
        except HttpError as error:
            client.refuse(error)
        else:
            self._go_on(client)

    def leave(self, client: ModernCaller) -> bool:
        """Remove the call of a client that has left. Returns whether it waited here."""
        if client not in self._waiting:
            return False
        self._waiting.remove(client)
        return True

    def _ask(self, cursor: str | None, pages: int = 1, known: int | None = None) -> None:
        changes = self._tools.changes if known is None else known

        def answered(answer: Message) -> None:
            if changes != self._tools.changes and pages < _MAX_PAGES:
                # The tools have changed, and the catalog has forgotten the earlier pages.
                self._ask(None, pages + 1)
                return
            result = answer.get("result")
            self._tools.learn(result)
            following = next_cursor(result) if isinstance(result, dict) else None
            if following is not None and pages < _MAX_PAGES:
                self._ask(following, pages + 1, changes)
                return
            # An error counts as an empty list: the server's own answer to the call says what is wrong.
            self._tools.complete = True
            self._is_asking = False
            waiting, self._waiting = self._waiting, []
            for client in waiting:
                self.check(client)

        self._backend.list_tools({} if cursor is None else {"cursor": cursor}, answered)
