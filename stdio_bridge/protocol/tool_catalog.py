"""The parameters of each tool that headers must repeat, as far as the server has listed its tools. No I/O."""

from __future__ import annotations

import hashlib

from .jsonrpc import Message
from .param_headers import Mirrored, find_mirrored

# Tools beyond these bounds are treated as tools without such parameters.
_MAX_TOOLS = 10_000
_MAX_SIZE = 4 << 20
# The memory that a name takes besides its characters.
_SIZE_OF_NAME = 64


class ToolCatalog:
    """What the answers to `tools/list` have said, until the server reports that its tools have changed."""

    def __init__(self) -> None:
        # By digests of their names, as a server's names may be of any length.
        self._tools: dict[bytes, tuple[Mirrored, ...]] = {}
        self._size = 0
        self.complete = False
        self.changes = 0

    def learn(self, result: object) -> None:
        """Read a page of tools."""
        tools = result.get("tools") if isinstance(result, dict) else None
        for tool in tools if isinstance(tools, list) else ():
            name = tool.get("name") if isinstance(tool, dict) else None
            if isinstance(name, str):
                self._keep(_digest(name), find_mirrored(tool.get("inputSchema")))

    def _keep(self, digest: bytes, mirrored: tuple[Mirrored, ...]) -> None:
        size = self._size - _size_of(self._tools.get(digest, ())) + _size_of(mirrored)
        if size <= _MAX_SIZE and (digest in self._tools or len(self._tools) < _MAX_TOOLS):
            self._tools[digest] = mirrored
            self._size = size

    def forget(self) -> None:
        """Forget all tools, as they have changed."""
        self.changes += 1
        self._tools.clear()
        self._size = 0
        self.complete = False

    def find(self, name: object) -> tuple[Mirrored, ...] | None:
        """Return the parameters of a tool; None if the bridge must ask for its definition first."""
        found = self._tools.get(_digest(name)) if isinstance(name, str) else None
        return () if found is None and self.complete else found


def _digest(name: str) -> bytes:
    # It may hold half of a surrogate pair.
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()


def _size_of(mirrored: tuple[Mirrored, ...]) -> int:
    return sum(_SIZE_OF_NAME + len(name) for each in mirrored for name in (each.name, *each.path))


def next_cursor(result: Message) -> str | None:
    """Return the cursor of the next page, None on the last one."""
    cursor = result.get("nextCursor")
    return cursor if isinstance(cursor, str) else None
