"""Patterns of pasted values: a subset of regular expressions, matched in bounded time whatever the value is.

They have literals, `.`, `[...]`, `\\d`, `\\w`, `\\` before punctuation, groups, `|`, and the quantifiers `?`, `*`, `+`
and `{m,n}`. A pattern describes the whole value; `^` at its beginning and `$` at its end change nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Final

MAX_PATTERN_CHARACTERS: Final = 500
MAX_VALUE_CHARACTERS: Final = 4096
_MAX_STEPS: Final = 64 * MAX_VALUE_CHARACTERS
"""What matching may cost; one step is a few operations on numbers of as many bits as a value has characters."""
_MAX_DEPTH: Final = 20
_COUNT = re.compile(r"\{(\d{1,4})(?:(,)(\d{1,4})?)?\}")
_CLASSES: Final = {"d": (("0", "9"),), "w": (("A", "Z"), ("a", "z"), ("0", "9"), ("_", "_"))}
_PUNCTUATION: Final = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
_SPECIAL: Final = frozenset("()[]{}*+?|^$\\.")

_Ranges = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Characters:
    ranges: _Ranges
    is_negated: bool = False

    def has(self, character: str) -> bool:
        return any(first <= character <= last for first, last in self.ranges) != self.is_negated


@dataclass(frozen=True)
class _Sequence:
    parts: tuple[_Node, ...]


@dataclass(frozen=True)
class _Alternatives:
    parts: tuple[_Node, ...]


@dataclass(frozen=True)
class _Repetition:
    part: _Node
    least: int
    most: int | None


_Node = _Characters | _Sequence | _Alternatives | _Repetition


class ValuePattern:
    """One pattern."""

    def __init__(self, text: str) -> None:
        """Raises ValueError with a sentence for the operator."""
        if len(text) > MAX_PATTERN_CHARACTERS:
            raise ValueError(f"must have at most {MAX_PATTERN_CHARACTERS} characters")
        body = text.removeprefix("^")
        if body in {"", "$"}:
            raise ValueError("is empty: leave it out to allow any value")
        self._node = _Parser(body).parse()
        if _steps(self._node) > _MAX_STEPS:
            raise ValueError("repeats too much: it has repetitions within repetitions")

    def matches(self, value: str) -> bool:
        """Whether the whole value is as the pattern says. Longer values than the longest do not match."""
        if len(value) > MAX_VALUE_CHARACTERS:
            return False

        @cache
        def find(characters: _Characters) -> int:
            return sum(1 << index for index, character in enumerate(value) if characters.has(character))

        def follow(node: _Node, places: int) -> int:
            """Return the places, as bits, at which what begins at one of these places can end."""
            match node:
                case _Characters():
                    return (places & find(node)) << 1
                case _Sequence(parts):
                    for part in parts:
                        places = follow(part, places)
                    return places
                case _Alternatives(parts):
                    ends = 0
                    for part in parts:
                        ends |= follow(part, places)
                    return ends
                case _Repetition(part, least, most):
                    for _ in range(least):
                        places = follow(part, places)
                    return repeat(part, places, most if most is None else most - least)

        def repeat(part: _Node, places: int, most: int | None) -> int:
            if most is None and isinstance(part, _Characters):
                # The sum carries each place to the end of its run of characters.
                run = find(part)
                return (((places & run) + run) ^ run) | places
            ends = new = places
            count = 0
            while new and (most is None or count < most):
                new = follow(part, new) & ~ends
                ends |= new
                count += 1
            return ends

        return bool(follow(self._node, 1) >> len(value) & 1)


def _steps(node: _Node) -> int:
    match node:
        case _Characters():
            return 1
        case _Sequence(parts) | _Alternatives(parts):
            return 1 + sum(map(_steps, parts))
        case _Repetition(part, least, most):
            if most is None:
                most = least + (1 if isinstance(part, _Characters) else MAX_VALUE_CHARACTERS)
            return 1 + most * _steps(part)


class _Parser:
    """Reads one pattern from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def parse(self) -> _Node:
        node = self._alternatives()
        if self._rest == "$":
            return node
        if self._rest:
            raise self._fault(") closes no group" if self._rest[0] == ")" else "$ is supported only at the end")
        return node

    @property
    def _rest(self) -> str:
        return self._text[self._at :]

    def _fault(self, what: str) -> ValueError:
        return ValueError(f"is no pattern: {what} (at character {self._at + 1})")

    def _take(self) -> str:
        if not self._rest:
            raise self._fault("it ends too early")
        self._at += 1
        return self._text[self._at - 1]

    def _alternatives(self) -> _Node:
        parts = [self._sequence()]
        while self._rest.startswith("|"):
            self._at += 1
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else _Alternatives(tuple(parts))

    def _sequence(self) -> _Node:
        parts: list[_Node] = []
        while self._rest and self._rest[0] not in "|)$":
            parts.append(self._quantified(self._atom()))
        return _Sequence(tuple(parts))

    def _atom(self) -> _Node:
        character = self._take()
        if character == "(":
            self._at += 2 if self._rest.startswith("?:") else 0
            if self._rest.startswith("?"):
                raise self._fault("of the groups that begin with (?, only (?:...) is supported")
            self._depth += 1
            if self._depth > _MAX_DEPTH:
                raise self._fault(f"its groups are more than {_MAX_DEPTH} deep")
            node = self._alternatives()
            if self._take() != ")":
                raise self._fault("a group is not closed")
            self._depth -= 1
            return node
        if character == "[":
            return self._class()
        if character == ".":
            return _Characters((), is_negated=True)
        if character == "\\":
            return _Characters(self._escaped())
        if character in _SPECIAL:
            self._at -= 1
            raise self._fault(f"{character} has no meaning here: to match it, write a backslash before it")
        return _Characters(((character, character),))

    def _escaped(self) -> _Ranges:
        character = self._take()
        if character in _CLASSES:
            return _CLASSES[character]
        if character not in _PUNCTUATION:
            raise self._fault(f"\\{character} is not supported")
        return ((character, character),)

    def _class(self) -> _Node:
        is_negated = self._rest.startswith("^")
        self._at += is_negated
        ranges: list[tuple[str, str]] = []
        while (first := self._take()) != "]":
            if first == "[":
                raise self._fault("write a backslash before [ in a class")
            found = self._escaped() if first == "\\" else ((first, first),)
            if self._rest.startswith("-") and not self._rest.startswith("-]") and len(found) == 1:
                self._at += 1
                last = self._take()
                ends = self._escaped() if last == "\\" else ((last, last),)
                if len(ends) > 1 or ends[0][0] < found[0][0]:
                    raise self._fault("a range ends before it begins")
                found = ((found[0][0], ends[0][1]),)
            ranges += found
        if not ranges:
            raise self._fault("a class is empty")
        return _Characters(tuple(ranges), is_negated=is_negated)

    def _quantified(self, part: _Node) -> _Node:
        simple: dict[str, tuple[int, int | None]] = {"?": (0, 1), "*": (0, None), "+": (1, None)}
        if self._rest[:1] in simple:
            least, most = simple[self._take()]
        elif self._rest.startswith("{"):
            count = _COUNT.match(self._text, self._at)
            if count is None:
                raise self._fault("{ must begin a number of repetitions, as in {36} or {20,}")
            self._at = count.end()
            least = int(count[1])
            most = least if count[2] is None else int(count[3]) if count[3] else None
            if most is not None and most < least:
                raise self._fault("a number of repetitions ends before it begins")
        else:
            return part
        if self._rest[:1] in {"?", "*", "+", "{"}:
            raise self._fault("one quantifier follows another")
        return _Repetition(part, least, most)
