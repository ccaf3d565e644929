"""Writes records to a journal or a file, and never blocks: records that cannot be written yet wait, within a bound."""

from __future__ import annotations

import collections
import itertools
import logging
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from stdio_bridge.options import RecordsTarget
from stdio_bridge.protocol.errors import UsageError

from .event_loop import Loop
from .log_handler import LimitedLog
from .metrics import Counter

log = logging.getLogger(__name__)

_MAX_WAITING = 32 * 1024
_MAX_WAITING_BYTES = 16 << 20
_AT_ONCE = 128
_RETRY_SECONDS = 0.05
_LAST_SECONDS = 2.0
_LOGGED_FAILURES_PER_SECOND = 1


class Destination(Protocol):
    """Where lines go."""

    def write(self, data: bytes) -> int:
        """Write without waiting. Returns how many bytes are written. Raises OSError."""

    def wait(self, seconds: float) -> None:
        """Let each `write` block for at most so long from now on."""

    def close(self) -> None:
        """Release it."""


class Journal:
    """A stream of a journal, as sd_journal_stream_fd(3) opens one: each line is an entry.

    It takes many entries at once. After an error it is opened again.
    """

    def __init__(self, path: Path, *, identifier: str) -> None:
        """`path` is the journal's socket for standard output."""
        self._path = path
        # After the identifier: the unit, which only root may set; the priority; whether lines begin with a priority;
        # and three flags for forwarding.
        self._head = f"{identifier}\n\n6\n0\n0\n0\n0\n".encode("ascii")
        self._socket: socket.socket | None = None
        self._seconds = 0.0

    def write(self, data: bytes) -> int:
        """Write lines. Raises OSError."""
        if self._socket is None:
            self._socket = self._connect()
        try:
            return self._socket.send(data)
        except BlockingIOError:
            raise
        except OSError:
            self.close()
            raise

    def _connect(self) -> socket.socket:
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connected.settimeout(self._seconds)
            connected.connect(str(self._path))
            connected.send(self._head)  # the socket's buffer is empty, so it fits
        except OSError:
            connected.close()
            raise
        return connected

    def wait(self, seconds: float) -> None:
        """Let each `write` block for at most so long from now on."""
        self._seconds = seconds
        if self._socket is not None:
            self._socket.settimeout(seconds)

    def close(self) -> None:
        """Close the stream."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class File:
    """A file with a record on each line, which only its owner may read."""

    def __init__(self, path: Path) -> None:
        """Open it. Raises OSError."""
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, data: bytes) -> int:
        """Append lines. Raises OSError."""
        return os.write(self._descriptor, data)

    def wait(self, seconds: float) -> None:
        """Do nothing: writing to a file does not block."""

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)


def open_destination(target: RecordsTarget | None, *, identifier: str) -> Destination | None:
    """Open the destination of records, if there is one. Raises UsageError for a file that cannot be opened."""
    if target is None:
        return None
    if target.is_journal:
        return Journal(target.path, identifier=identifier)
    try:
        return File(target.path)
    except OSError as error:
        raise UsageError(f"--call-records {target.path}: cannot be opened: {error.strerror}") from error


class RecordWriter:
    """Writes records in order. Records beyond the bound of those that wait are lost, and counted."""

    def __init__(self, destination: Destination, loop: Loop, lost: Counter) -> None:
        self._destination = destination
        self._loop = loop
        self._lost = lost
        self._log = LimitedLog(log, loop.clock, per_second=_LOGGED_FAILURES_PER_SECOND)
        self._waiting: collections.deque[bytes] = collections.deque()
        self._bytes = 0
        self._is_retrying = False

    def write(self, lines: Iterable[bytes]) -> None:
        """Write lines, or append them to those that wait."""
        for line in lines:
            self._waiting.append(line)
            self._bytes += len(line)
        if not self._is_retrying:
            self._send()
        elif self._has_too_many():
            self._lose_while(self._has_too_many)

    def _has_too_many(self) -> bool:
        return len(self._waiting) > _MAX_WAITING or self._bytes > _MAX_WAITING_BYTES

    def _send(self) -> None:
        self._is_retrying = False
        try:
            while self._waiting:
                self._take(self._destination.write(b"".join(itertools.islice(self._waiting, _AT_ONCE))))
        except OSError as error:
            self._is_retrying = True
            self._loop.call_later(_RETRY_SECONDS, self._send)
            if not isinstance(error, BlockingIOError):
                self._log.log(logging.WARNING, "records of calls cannot be written, and wait: %s", error)

    def _take(self, written: int) -> None:
        """Remove what is written from what waits. The rest of a line is written next time."""
        self._bytes -= written
        while written:
            first = self._waiting.popleft()
            if len(first) > written:
                self._waiting.appendleft(first[written:])
                return
            written -= len(first)

    def _lose_while(self, condition: Callable[[], bool]) -> None:
        before = len(self._waiting)
        while condition():
            self._bytes -= len(self._waiting.pop())
        self._lost.add(before - len(self._waiting))
        self._log.log(logging.ERROR, "records of calls were lost")

    def close(self) -> None:
        """Write what waits, for a short time, and release the destination."""
        self._destination.wait(_LAST_SECONDS)
        self._send()
        if self._waiting:
            self._lose_while(lambda: bool(self._waiting))
        self._destination.close()
