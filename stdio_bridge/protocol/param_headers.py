"""`Mcp-Param-*`: headers that repeat those parameters of a tool that its schema marks for this. No I/O.

2026-07-28, "Custom Headers from Tool Parameters".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .request_metadata import find_header_text, mismatch

_PREFIX = "mcp-param-"
_ANNOTATION = "x-mcp-header"
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_DECIMAL = re.compile(r"-?[0-9]{1,40}(\.0+)?")
_TYPES = frozenset({"string", "integer", "boolean"})
# Keywords whose values are schemas, or hold some: an annotation below one of them makes the tool's definition invalid.
_MAPS_OF_SCHEMAS = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
_SCHEMAS = frozenset(
    {
        "items", "contains", "unevaluatedItems", "additionalProperties", "propertyNames", "unevaluatedProperties",
        "not", "if", "then", "else", "contentSchema", "allOf", "anyOf", "oneOf", "prefixItems",
    }
)  # fmt: skip
_MAX_SCHEMAS = 10_000


@dataclass(frozen=True, kw_only=True)
class Mirrored:
    """A parameter that must be repeated in a header."""

    path: tuple[str, ...]
    name: str

    @property
    def header(self) -> str:
        """The header's name in lower case."""
        return f"{_PREFIX}{self.name.lower()}"


def parameter_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that repeat parameters."""
    return {name: value for name, value in headers.items() if name.startswith(_PREFIX)}


def find_mirrored(input_schema: object) -> tuple[Mirrored, ...]:
    """Return the annotated parameters; none if one annotation is invalid, as clients then drop the tool.

    Parameters whose header name has an underscore are left out: the HTTP parser drops such headers, so that none can
    stand in for another.
    """
    found: dict[str, Mirrored] = {}
    for path, schema in _positions(input_schema):
        if _ANNOTATION not in schema:
            continue
        name, kind = schema[_ANNOTATION], schema.get("type")
        if not path or not isinstance(name, str) or not isinstance(kind, str):
            return ()
        if not _TOKEN.fullmatch(name) or kind not in _TYPES or name.lower() in found:
            return ()
        found[name.lower()] = Mirrored(path=path, name=name)
    return tuple(mirrored for mirrored in found.values() if "_" not in mirrored.name)


def _positions(root: object) -> Iterator[tuple[tuple[str, ...] | None, dict[str, Any]]]:
    """Yield each schema in a schema, with its path if only `properties` lead to it, else None. Follows no `$ref`."""
    waiting: list[tuple[tuple[str, ...] | None, object]] = [((), root)]
    for _ in range(_MAX_SCHEMAS):
        if not waiting:
            return
        path, value = waiting.pop()
        if isinstance(value, list):
            waiting.extend((None, item) for item in value)
        if not isinstance(value, dict):
            continue
        yield path, value
        for keyword, inner in value.items():
            if keyword in _MAPS_OF_SCHEMAS and isinstance(inner, dict):
                plain = keyword == "properties" and path is not None
                waiting.extend(((*(path or ()), name) if plain else None, schema) for name, schema in inner.items())
            elif keyword in _SCHEMAS:
                waiting.append((None, inner))


def check_mirrored(parameters: tuple[Mirrored, ...], arguments: object, headers: Mapping[str, str]) -> None:
    """Compare headers, with names in lower case, with the arguments. Raises HttpError, 400 -32020."""
    for parameter in parameters:
        value = _value_at(arguments, parameter.path)
        header = headers.get(parameter.header)
        if header is None and not isinstance(value, str | int | float):
            continue
        if not _equal(value, find_header_text(header)):
            raise mismatch(f"Mcp-Param-{parameter.name}", f"params.arguments.{'.'.join(parameter.path)}")


def _value_at(arguments: object, path: tuple[str, ...]) -> object:
    value = arguments
    for name in path:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _equal(value: object, text: str | None) -> bool:
    if text is None or value is None:
        return False
    if isinstance(value, bool):
        return text == ("true" if value else "false")
    if isinstance(value, str):
        return text == value
    # "Servers SHOULD compare the header value and the body value numerically."
    if isinstance(value, int | float) and _DECIMAL.fullmatch(text):
        return int(text.partition(".")[0]) == value
    return False
