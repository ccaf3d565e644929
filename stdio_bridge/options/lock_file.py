"""The option that names a lock file: its value is the contents of that file, or of the configuration file itself."""

from __future__ import annotations

from pathlib import Path

from stdio_bridge.protocol.tool_lock import VERSION, InvalidLockError, ToolLock, make_lock, parse_lock

from .kinds import InvalidValueError, Kind

_SCHEMA = {
    "type": ["string", "object"],
    "additionalProperties": False,
    "required": ["tools", "version"],
    "properties": {
        "tools": {"type": "object", "additionalProperties": {"type": "object"}},
        "version": {"const": VERSION},
    },
}


def _read(name: str) -> ToolLock:
    try:
        return parse_lock(Path(name).read_bytes())
    except OSError as error:
        raise InvalidValueError(f"{name}: cannot be read: {error.strerror}") from error
    except InvalidLockError as error:
        raise InvalidValueError(f"{name}: {error}") from error


def _from_json(value: object) -> ToolLock:
    if isinstance(value, str):
        return _read(value)
    try:
        return make_lock(value)
    except InvalidLockError as error:
        raise InvalidValueError(str(error)) from error


LOCK_FILE = Kind(metavar="FILE", from_text=_read, from_json=_from_json, schema=_SCHEMA)
