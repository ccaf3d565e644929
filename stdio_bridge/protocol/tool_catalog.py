"""Which parameters of which tools are mirrored in headers, as far as a server has told. No I/O."""

from __future__ import annotations

from .jsonrpc import Message
from .param_headers import Mirrored, find_mirrored

_MAX_TOOLS = 10_000


class ToolCatalog:
    """What answers to `tools/list` have shown, until the server says that its tools have changed."""

    def __init__(self) -> None:
        self._tools: dict[str, tuple[Mirrored, ...]] = {}
        self.complete = False
        self.changes = 0

    def learn(self, result: object) -> None:
        """Read a page of tools."""
        tools = result.get("tools") if isinstance(result, dict) else None
        for tool in tools if isinstance(tools, list) else ():
            name = tool.get("name") if isinstance(tool, dict) else None
            if isinstance(name, str) and len(self._tools) < _MAX_TOOLS:
                self._tools[name] = find_mirrored(tool.get("inputSchema"))

    def forget(self) -> None:
        """The tools have changed."""
        self.changes += 1
        self._tools.clear()
        self.complete = False

    def find(self, name: object) -> tuple[Mirrored, ...] | None:
        """Return a tool's mirrored parameters; None where its definition has to be asked for first."""
        found = self._tools.get(name) if isinstance(name, str) else None
        return () if found is None and self.complete else found


def next_cursor(result: Message) -> str | None:
    """Return where the list goes on."""
    cursor = result.get("nextCursor")
    return cursor if isinstance(cursor, str) else None
