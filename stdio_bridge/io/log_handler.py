"""Log lines on stderr that never block the loop: lines that cannot be written are dropped and counted."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import stat
from collections.abc import Callable

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
# About how many bytes a journal entry takes besides its text.
_ENTRY_BYTES = 200


class LineFormatter(logging.Formatter):
    """Makes one line of a message, whatever characters servers and clients have put into it.

    For a journal, NUL would end the entry, and the next text could begin with a priority of its own.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; those of a trace follow it, indented."""
        first = _escape(f"{record.levelname} {record.getMessage()}")
        if not record.exc_info:
            return first
        trace = self.formatException(record.exc_info).split("\n")
        return "\n".join([first, *(f"  {_escape(line)}" for line in trace)])


def _escape(text: str) -> str:
    """Escape the characters that end a line or an entry, move the cursor, or change the direction of text."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class StderrHandler(logging.Handler):
    """Writes each record as one line to a file descriptor. Where that is a pipe or a socket, it never blocks."""

    def __init__(self, fd: int = 2) -> None:
        super().__init__()
        self.setFormatter(LineFormatter())
        self._output = _open(fd)
        self._rest = b""
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or drop it."""
        line = self.format(record).encode("utf-8", "replace") + b"\n"
        if self._dropped:
            line = b"WARNING %d log lines were dropped: nobody read them\n" % self._dropped + line
        data = self._rest + line
        try:
            written = self._output.write(data)
        except BlockingIOError:
            self._dropped += 1
        except OSError:
            # stderr is closed: there is no place to report it.
            self._rest = b""
        else:
            # The rest of a line is written before the next line.
            end = data.find(b"\n", max(written - 1, 0)) + 1
            self._rest = data[written:end]
            self._dropped = data.count(b"\n", end)

    def close(self) -> None:
        """Close its own descriptor."""
        self._output.close()
        super().close()


class Allowance:
    """How many bytes may be written to the journal: `at_once`, and `per_second` more each second.

    Each line also counts for the bytes of its entry. Without this bound, a server could displace the entries of other
    programs from the journal.
    """

    def __init__(self, clock: Callable[[], float], *, per_second: int, at_once: int) -> None:
        self._clock = clock
        self._per_second = per_second
        self._at_once = at_once
        self._left = float(at_once)
        self._since = clock()

    def take(self, text: str) -> bool:
        """Whether there is room for one more line."""
        now = self._clock()
        self._left = min(self._at_once, self._left + (now - self._since) * self._per_second)
        self._since = now
        size = len(text.encode("utf-8", "replace")) + _ENTRY_BYTES
        if size > self._left:
            return False
        self._left -= size
        return True


class LimitedLog:
    """Logs at most `per_second` lines a second, and how many it left out. For events that clients or servers cause."""

    def __init__(
        self,
        logger: logging.Logger,
        clock: Callable[[], float],
        *,
        per_second: int,
        allowance: Allowance | None = None,
        source: Callable[[], str] | None = None,
    ) -> None:
        """`allowance` also bounds the bytes, and several logs may share it. Each line begins with `source`."""
        self._logger = logger
        self._clock = clock
        self._per_second = per_second
        self._allowance = allowance
        self._source = source
        self._second = 0
        self._logged = 0
        self._dropped = 0

    def log(self, level: int, text: str, *values: object) -> None:
        """Log a line, or leave it out."""
        if self._source is not None:
            text, values = f"%s: {text}", (self._source(), *values)
        second = int(self._clock())
        if second != self._second:
            if self._dropped:
                source = "" if self._source is None else f"{self._source()}: "
                self._logger.warning("%s%d more lines were not logged", source, self._dropped)
            self._second, self._logged, self._dropped = second, 0, 0
        if self._logged < self._per_second and self._may_write(text % values if values else text):
            self._logged += 1
            self._logger.log(level, text, *values)
        else:
            self._dropped += 1

    def _may_write(self, text: str) -> bool:
        return self._allowance is None or self._allowance.take(text)


class _File:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, data: bytes) -> int:
        return os.write(self._fd, data)

    def close(self) -> None:
        os.close(self._fd)


class _Socket:
    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)

    def write(self, data: bytes) -> int:
        return self._socket.send(data, socket.MSG_DONTWAIT)

    def close(self) -> None:
        self._socket.close()


def _open(fd: int) -> _File | _Socket:
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        return _Socket(os.dup(fd))
    if stat.S_ISFIFO(mode):
        # Opened a second time: whether writing waits belongs to the open file, which others may share.
        with contextlib.suppress(OSError):
            return _File(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    return _File(os.dup(fd))
