"""JSON Schemas for the arguments of a call. No I/O: no schema is ever fetched.

The check runs on the bridge's only thread. So it refuses arguments that would take long to check, and does not describe
errors that would take long to collect.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Any, NoReturn

# What the library's messages say in place of the value.
_VALUE = "the value"
_MAX_FAULTS = 5
_MAX_FAULT_CHARACTERS = 300

# The library compares integers of more than 64 bits one by one, and those beyond a float's 53 bits in groups that a
# float cannot tell apart.
_MAX_INTEGER = 2**63
_MAX_EXACT_INTEGER = 2**53
_MAX_LARGE_INTEGERS = 200

# The library collects all errors, with their contexts, before it yields the first one. Below these keywords their
# number is a power of the depth of the arguments, or the square of their size.
_NOT_EXPLAINED = frozenset({
    "anyOf", "contains", "dependencies", "dependentSchemas", "if", "not", "oneOf", "propertyNames", "unevaluatedItems",
    "unevaluatedProperties",
})  # fmt: skip
_MAX_EXPLAINED_CHARACTERS = 4096
_MAX_EXPLAINED_DEPTH = 4

# Schemas that refer to themselves by several of these check the same arguments once for each way that leads to them:
# versions of the library before it remembered what it has checked take a power of the depth.
_REFERENCES = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})
_BRANCHES = _NOT_EXPLAINED | {"allOf"}
_MAX_BRANCHING_DEPTH = 12

# Keywords whose members are names of the schema's author, not keywords.
_OF_NAMED_SCHEMAS = frozenset({
    "$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties",
})  # fmt: skip
# Keywords whose values are no schemas.
_OF_VALUES = frozenset({"const", "default", "dependentRequired", "enum", "examples", "required"})


class InvalidSchemaError(Exception):
    """Not a JSON Schema, or one that refers to another document; the text says why."""


class ArgumentSchema:
    """One schema: of draft 2020-12 unless its `$schema` names an older one."""

    def __init__(self, schema: object) -> None:
        """Raises InvalidSchemaError."""
        import jsonschema_rs  # noqa: PLC0415 - 10 MB that a bridge without schemas has no use for

        if not isinstance(schema, dict | bool):
            raise InvalidSchemaError("a JSON Schema is an object, true or false")
        try:
            self._validator: Any = jsonschema_rs.validator_for(
                schema,
                validate_formats=True,
                ignore_unknown_formats=False,
                retriever=_refuse,
                mask=_VALUE,
                # Without look-around and back-references: these patterns take a time that grows with the text alone.
                pattern_options=jsonschema_rs.RegexOptions(),
            )
        except ValueError as error:
            place, text = getattr(error, "instance_path", []), getattr(error, "message", str(error))
            raise InvalidSchemaError(f"{_path('schema', place)}: {text}") from error
        used = _keywords_of(schema)
        self._is_explained = not used & _NOT_EXPLAINED
        self._compares_items = "uniqueItems" in used
        self._divides = "multipleOf" in used
        self._max_depth = _MAX_BRANCHING_DEPTH if used & _REFERENCES and used & _BRANCHES else None

    def find_fault(self, arguments: object, *, explain: bool = True) -> str | None:
        """Return what is wrong with the arguments, None if nothing is. The text contains no value of theirs.

        With `explain`, it names the members, if schema and arguments are small and simple enough.
        """
        if not isinstance(arguments, dict):
            return "arguments: must be an object"
        size = _measure(arguments)
        excess = self._find_excess(size)
        if excess is not None:
            return f"arguments: {excess}"
        try:
            # UTF-8 cannot encode half a surrogate pair, on which versions of the library up to 0.37 crash.
            text = json.dumps(arguments, ensure_ascii=False)
            text.encode()
            if self._validator.is_valid(arguments):
                return None
            is_small = len(text) <= _MAX_EXPLAINED_CHARACTERS and size.depth <= _MAX_EXPLAINED_DEPTH
            if not (explain and is_small and self._is_explained):
                return "arguments: the schema of the rule for this call does not allow them"
            faults = itertools.islice(self._validator.iter_errors(arguments), _MAX_FAULTS)
            return "; ".join(
                _shortened(f"{_path('arguments', fault.instance_path)}: {fault.message}") for fault in faults
            )
        except ValueError:  # too deep for the library, or no Unicode
            return "arguments: cannot be checked against the schema"

    def _find_excess(self, size: _Size) -> str | None:
        """Return why the check would take long, None if it would not."""
        if size.has_huge_integer or (self._divides and size.has_huge_float):
            return "a number does not fit into 64 bits"
        if self._compares_items and size.large_integers > _MAX_LARGE_INTEGERS:
            return f"more than {_MAX_LARGE_INTEGERS} integers do not fit into 53 bits"
        if self._max_depth is not None and size.depth > self._max_depth:
            return f"arrays and objects are nested more than {self._max_depth} deep"
        return None


@dataclass(frozen=True, kw_only=True)
class _Size:
    depth: int
    large_integers: int
    has_huge_integer: bool
    has_huge_float: bool


def _measure(arguments: object) -> _Size:
    """Measure arguments, level by level."""
    depth = large_integers = 0
    has_huge_integer = has_huge_float = False
    level: list[object] = [arguments]
    while level:
        below: list[object] = []
        is_deeper = False
        for value in level:
            if isinstance(value, dict):
                is_deeper = True
                below.extend(value.values())
            elif isinstance(value, list):
                is_deeper = True
                below.extend(value)
            elif isinstance(value, int):
                large_integers += abs(value) > _MAX_EXACT_INTEGER
                has_huge_integer |= not -_MAX_INTEGER <= value < _MAX_INTEGER
            elif isinstance(value, float):
                has_huge_float |= abs(value) >= _MAX_INTEGER
        depth += is_deeper
        level = below
    return _Size(
        depth=depth,
        large_integers=large_integers,
        has_huge_integer=has_huge_integer,
        has_huge_float=has_huge_float,
    )


def _keywords_of(schema: object) -> set[str]:
    """Return the keywords that a schema and those in it have."""
    found: set[str] = set()
    schemas = [schema]
    while schemas:
        schema = schemas.pop()
        if isinstance(schema, list):
            schemas.extend(schema)
        elif isinstance(schema, dict):
            found |= schema.keys()
            for keyword, value in schema.items():
                if keyword in _OF_NAMED_SCHEMAS and isinstance(value, dict):
                    schemas.extend(value.values())
                elif keyword not in _OF_VALUES:
                    schemas.append(value)
    return found


def _refuse(uri: str) -> NoReturn:
    raise ValueError(f"{uri} is not fetched: put the schema under $defs")


def _path(root: str, parts: list[str | int]) -> str:
    return root + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_FAULT_CHARACTERS else f"{text[:_MAX_FAULT_CHARACTERS]}…"
