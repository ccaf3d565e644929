"""The option that names a lock file: its value is what the file holds."""

from __future__ import annotations

from pathlib import Path

from stdio_bridge.protocol.tool_lock import InvalidLockError, ToolLock, parse_lock

from .kinds import InvalidValueError, text


def _read(name: str) -> ToolLock:
    try:
        return parse_lock(Path(name).read_bytes())
    except OSError as error:
        raise InvalidValueError(f"{name}: cannot be read: {error.strerror}") from error
    except InvalidLockError as error:
        raise InvalidValueError(f"{name}: {error}") from error


LOCK_FILE = text("FILE", _read)
