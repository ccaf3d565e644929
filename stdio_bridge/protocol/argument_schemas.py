"""JSON Schemas that the arguments of a call must keep to. No I/O: no schema is ever fetched."""

from __future__ import annotations

import itertools
import json
from typing import Any, NoReturn

# In place of the value in what the library says of it.
_VALUE = "the value"
_MAX_FAULTS = 5
_MAX_FAULT_CHARACTERS = 300


class InvalidSchemaError(Exception):
    """Not a JSON Schema that can be checked without asking anyone; the text says why."""


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

    def find_fault(self, arguments: object) -> str | None:
        """Return what is wrong with the arguments, by the names of the members and without any value."""
        if not isinstance(arguments, dict):
            return "arguments: must be an object"
        try:
            # Half a surrogate pair has no form in UTF-8. Versions of the library up to 0.37 crash on it.
            json.dumps(arguments, ensure_ascii=False).encode()
            if self._validator.is_valid(arguments):
                return None
            faults = itertools.islice(self._validator.iter_errors(arguments), _MAX_FAULTS)
            return "; ".join(
                _shortened(f"{_path('arguments', fault.instance_path)}: {fault.message}") for fault in faults
            )
        except ValueError:  # too deep for the library, or no Unicode
            return "arguments: cannot be checked against the schema"


def _refuse(uri: str) -> NoReturn:
    raise ValueError(f"{uri} is not fetched: put the schema under $defs")


def _path(root: str, parts: list[str | int]) -> str:
    return root + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_FAULT_CHARACTERS else f"{text[:_MAX_FAULT_CHARACTERS]}…"
