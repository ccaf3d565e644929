"""The lock of a server's tools: the definitions that an operator has reviewed, and what differs from them. No I/O."""

from __future__ import annotations

import enum
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass

from . import strict_json, visible_json
from .jsonrpc import Message

VERSION = 1
# Not part of a definition: `execution` and `_meta` say how the protocol is spoken, and differ between its revisions.
_NOT_LOCKED = frozenset({"name", "execution", "_meta"})
_MAX_SHOWN_CHANGES = 100
_MAX_SHOWN_CHARACTERS = 400
# How much stands in front of the first character that differs, where a text is cut.
_CONTEXT_CHARACTERS = 80


class InvalidLockError(Exception):
    """A lock file is not one; the text says why."""


class Reason(enum.Enum):
    """Why a tool is hidden, or how a list differs from a lock."""

    NEW = "new"
    """The lock does not have it."""
    CHANGED = "changed"
    """Its definition is not the one in the lock."""
    DUPLICATE = "duplicate"
    """The lock has it, and the list has two of this name."""
    MISSING = "missing"
    """The lock has it, and the list does not: nothing is hidden."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One part of a definition that differs, by its path; None where it is absent. Both are JSON in one line."""

    path: str
    locked: str | None
    listed: str | None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A tool that differs from the lock."""

    tool: str
    reason: Reason
    changes: tuple[Change, ...] = ()


class ToolLock:
    """Definitions by the names of their tools."""

    def __init__(self, tools: Mapping[str, Message]) -> None:
        self._tools = tools

    def __contains__(self, name: object) -> bool:
        return name in self._tools

    def find_reason(self, name: str, tool: Message, *, is_repeated: bool) -> Reason | None:
        """Return why a tool of a list is hidden, None if it is not. `is_repeated`: the list has two of this name.

        The time it takes depends on the size of the lock, and not on what the server has listed.
        """
        locked = self._tools.get(name)
        if locked is None:
            return Reason.NEW
        if is_repeated:
            return Reason.DUPLICATE
        return None if _is_same(locked, definition_of(tool)) else Reason.CHANGED

    def compare(self, tools: Iterable[object]) -> list[Difference]:
        """Return what differs in a complete list, by name."""
        found: dict[str, Message] = {}
        twice: set[str] = set()
        for tool, name in _named(tools):
            if name in found:
                twice.add(name)
            found[name] = tool
        differences = [Difference(tool=name, reason=Reason.MISSING) for name in self._tools.keys() - found.keys()]
        for name, tool in found.items():
            reason = self.find_reason(name, tool, is_repeated=name in twice)
            if reason is not None:
                changes = _changes(self._tools[name], definition_of(tool)) if reason is Reason.CHANGED else ()
                differences.append(Difference(tool=name, reason=reason, changes=changes))
        return sorted(differences, key=lambda difference: difference.tool)


def definition_of(tool: Message) -> Message:
    """Return the part of a tool's definition that is locked. A member that is null counts as absent."""
    return {name: value for name, value in tool.items() if name not in _NOT_LOCKED and value is not None}


def parse_lock(text: bytes) -> ToolLock:
    """Read a lock file. Raises InvalidLockError."""
    try:
        document = strict_json.parse(text)
    except (ValueError, RecursionError) as error:
        raise InvalidLockError(f"is not valid JSON: {error}") from error
    return make_lock(document)


def make_lock(document: object) -> ToolLock:
    """Read what a lock file holds. Raises InvalidLockError."""
    if not isinstance(document, dict) or document.keys() != {"tools", "version"}:
        raise InvalidLockError("is not an object of tools and version, as mcp-gatewayctl tools lock writes it")
    if document["version"] != VERSION or isinstance(document["version"], bool):
        raise InvalidLockError(f"version: is {document['version']!r}, and only {VERSION} is known")
    tools = document["tools"]
    if not isinstance(tools, dict):
        raise InvalidLockError("tools: is not an object")
    for name, tool in tools.items():
        if not isinstance(tool, dict):
            raise InvalidLockError(f"tools: {name!r}: is not an object")
        if unlocked := sorted(_NOT_LOCKED & tool.keys()):
            raise InvalidLockError(f"tools: {name!r}: {unlocked[0]}: is no part of a locked definition")
    return ToolLock({name: definition_of(tool) for name, tool in tools.items()})


def render_lock(tools: Iterable[object]) -> str:
    """Return the lock file of a complete list: the same text for the same tools, however the server has written them.

    Raises InvalidLockError for a list that has two tools of one name.
    """
    steps = render_lock_in_steps(tools)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return str(end.value)


def render_lock_in_steps(tools: Iterable[object]) -> Generator[None, None, str]:
    """Do as `render_lock`, a tool at each step: ten thousand take a second or more."""
    definitions: dict[str, Message] = {}
    for tool, name in _named(tools):
        if name in definitions:
            raise InvalidLockError(f"the server lists two tools of the name {visible_json.render_short(name)}")
        definitions[name] = definition_of(tool)
    members: list[str] = []
    for name in sorted(definitions):
        members.append(f"\n    {visible_json.render(name)}: {visible_json.render(definitions[name], depth=2)}")
        yield
    written = f"{{{','.join(members)}\n  }}" if members else "{}"
    return f'{{\n  "tools": {written},\n  "version": {VERSION}\n}}\n'


def _named(tools: Iterable[object]) -> Iterator[tuple[Message, str]]:
    """Yield each tool that has a name: clients cannot use others."""
    for tool in tools:
        name = tool.get("name") if isinstance(tool, dict) else None
        if isinstance(tool, dict) and isinstance(name, str):
            yield tool, name


def _is_same(one: object, other: object) -> bool:
    """Whether two values are the same JSON. Python takes true for 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return one == other


_ABSENT = object()


def _changes(locked: Message, listed: Message) -> tuple[Change, ...]:
    changes: list[Change] = []
    for path, one, other in _walk("", locked, listed):
        if len(changes) == _MAX_SHOWN_CHANGES:
            break
        start = _first_difference(one, other)
        changes.append(Change(path=path, locked=_shown(one, start), listed=_shown(other, start)))
    return tuple(changes)


def _walk(path: str, one: object, other: object) -> Iterator[tuple[str, object, object]]:
    """Yield the smallest parts that differ, with their paths."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted(one.keys() | other.keys()):
            is_plain = name.isascii() and name.isidentifier()
            shown = (name if is_plain else visible_json.render_short(name))[:_MAX_SHOWN_CHARACTERS]
            inner = f"{path}.{shown}" if path else shown
            yield from _walk(inner, one.get(name, _ABSENT), other.get(name, _ABSENT))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for position, (each, its) in enumerate(zip(one, other, strict=True)):
            yield from _walk(f"{path}[{position}]", each, its)
    elif one is _ABSENT or other is _ABSENT or not _is_same(one, other):
        yield path, one, other


def _first_difference(one: object, other: object) -> int:
    if not isinstance(one, str) or not isinstance(other, str):
        return 0
    pairs = enumerate(zip(one, other, strict=False))
    return next((position for position, (each, its) in pairs if each != its), min(len(one), len(other)))


def _shown(value: object, start: int) -> str | None:
    if value is _ABSENT:
        return None
    if isinstance(value, str):
        begin = max(0, start - _CONTEXT_CHARACTERS)
        end = begin + _MAX_SHOWN_CHARACTERS
        text = visible_json.render_short(value[begin:end])
        return ("…" if begin else "") + text + ("…" if len(value) > end else "")
    text = visible_json.render_short(value)
    return text if len(text) <= _MAX_SHOWN_CHARACTERS else text[:_MAX_SHOWN_CHARACTERS] + "…"
