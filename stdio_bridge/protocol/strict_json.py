"""JSON of files that an operator writes: no name twice in one object, and no number that JSON does not have. No I/O."""

from __future__ import annotations

import json
from typing import NoReturn


def parse(text: bytes | str) -> object:
    """Return the value. Raises ValueError."""
    value: object = json.loads(text, object_pairs_hook=_refuse_duplicates, parse_constant=_refuse_constant)
    return value


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    document = dict(pairs)
    if len(document) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} occurs twice in one object")
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
