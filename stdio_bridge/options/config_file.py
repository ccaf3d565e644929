"""The configuration file: a JSON object whose members have the options' names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from stdio_bridge.protocol import strict_json
from stdio_bridge.protocol.errors import UsageError

from .definitions import Option, options_by_name
from .kinds import InvalidValueError


def read_config(path: Path) -> Mapping[str, object]:
    """Read the values in a file, by the name of the option. Raises UsageError that names the file and the member."""
    try:
        document = strict_json.parse(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path}: is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise UsageError(f"{path}: is not a JSON object")
    known = options_by_name()
    values: dict[str, object] = {}
    for name, value in document.items():
        if name not in known:
            raise UsageError(f"{path}: {name}: no option has this name{_hint(name, known)}")
        try:
            values[name] = known[name].definition.kind.from_json(value)
        except InvalidValueError as error:
            raise UsageError(f"{path}: {name}: {error}") from error
    return values


def make_schema() -> dict[str, object]:
    """Return the JSON Schema of the file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration file of mcp-stdio-bridge",
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _property(option) for name, option in options_by_name().items()},
    }


def print_schema() -> None:
    """Print the JSON Schema of the file."""
    print(json.dumps(make_schema(), indent=2))  # noqa: T201 - the command's own output


def _property(option: Option) -> dict[str, object]:
    described = {**option.definition.kind.schema, "description": option.definition.text}
    return described if option.default is None else {**described, "default": option.default}


def _hint(name: str, known: Iterable[str]) -> str:
    import difflib  # noqa: PLC0415 - only needed for a mistyped name

    written = re.sub(r"(?<=[a-z])(?=[A-Z])|_", "-", name).lower()
    nearest = difflib.get_close_matches(written, known, n=1)
    return f": did you mean {nearest[0]}?" if nearest else " (see --help)"
