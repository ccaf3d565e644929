"""A server process: writes and reads its lines, notices its exit, and ends it. All on the loop's thread."""

from __future__ import annotations

import base64
import collections
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Protocol
from urllib.parse import quote, quote_plus

from stdio_bridge.protocol.framing import LineSplitter

from .event_loop import Loop
from .log_handler import Allowance, LimitedLog
from .metrics import Counter
from .pipes import Reader, Writer

log = logging.getLogger(__name__)
server_log = logging.getLogger("stdio_bridge.server")

_STDERR_LINE_BYTES = 8 * 1024
_KEPT_LINES = 10
_KEPT_LINE_CHARACTERS = 500
_LOGGED_LINES_PER_SECOND = 100
_LOGGED_NON_JSON_BYTES = 200
_END_GRACE_SECONDS = 0.2
# Shorter texts are hardly secrets, and occur in many other texts.
_MIN_SECRET_BYTES = 4
_REDACTED = b"[redacted]"
UNFIT_VALUE = "a variable of its environment is one that no process can have"


class SpawnError(Exception):
    """The server cannot be started; the text is one line that names the program."""


@dataclass(frozen=True, kw_only=True)
class Exit:
    """How a server ended, for people to read."""

    reason: str
    stderr: tuple[str, ...]
    stdout: tuple[str, ...] = ()

    def __str__(self) -> str:
        wrote = f"; it last wrote: {' | '.join(self.stderr)}" if self.stderr else ""
        non_json = f"; and on stdout: {' | '.join(self.stdout)}" if self.stdout else ""
        return f"{self.reason}{wrote}{non_json}"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of one server process. Bytes and seconds."""

    max_line_bytes: int
    max_unsent_bytes: int
    stop_seconds: float


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Counts the bytes that go through the pipes."""

    to_server: Counter
    from_server: Counter


class Child(Protocol):
    """A server that has been started: the bridge's ends of its pipes, and how to watch and end it."""

    stdin: IO[bytes]
    stdout: IO[bytes]
    stderr: IO[bytes]

    def watch(self, loop: Loop, ended: Callable[[str], None]) -> None:
        """Call `ended` once, with how it ended; its children end with it. Raises SpawnError if it cannot be watched."""

    def terminate(self) -> None:
        """Ask it to end, by SIGTERM."""

    def kill(self) -> None:
        """End it and its children, by SIGKILL."""


class _Stderr:
    """Passes the server's stderr on to the log; keeps the last lines."""

    def __init__(self, journal: LimitedLog, redact: Callable[[bytes], bytes]) -> None:
        self._journal = journal
        self._redact = redact
        self._lines = LineSplitter(_STDERR_LINE_BYTES)
        self.last: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)

    def feed(self, data: bytes) -> None:
        for line in self._lines.feed(data) if data else (self._lines.flush(),):
            self._log_skipped()
            if line:
                text = self._redact(line).decode("utf-8", "replace")
                self.last.append(text[:_KEPT_LINE_CHARACTERS])
                self._journal.log(logging.INFO, "%s", text)
        self._log_skipped()

    def _log_skipped(self) -> None:
        if self._lines.take_skipped():
            self._journal.log(logging.WARNING, "left out a line of more than %d bytes on stderr", _STDERR_LINE_BYTES)


class ServerProcess:
    """One running server.

    `start` starts it; `name` is its name in the log. `on_line` gets each line of its stdout, `on_skipped` the beginning
    and the end of a line that is too long; `on_exit` is called once, after the last line. The log has its stderr,
    without the `secrets`, and within the `allowance` that all processes of the server share. Raises SpawnError.
    """

    def __init__(
        self,
        loop: Loop,
        start: Callable[[], Child],
        *,
        name: Callable[[], str],
        limits: Limits,
        traffic: Traffic,
        allowance: Allowance,
        on_line: Callable[[bytes], None],
        on_skipped: Callable[[bytes, bytes], None],
        on_exit: Callable[[Exit], None],
        secrets: Sequence[str] = (),
    ) -> None:
        # The longest first, as it may contain another one.
        self._secrets = sorted({form for secret in secrets for form in forms_of(secret)}, key=len, reverse=True)
        self._child = child = start()
        child.watch(loop, self._ended)
        self._loop = loop
        self._limits = limits
        self._traffic = traffic
        self._on_line = on_line
        self._on_skipped = on_skipped
        self._on_exit = on_exit
        self._lines = LineSplitter(limits.max_line_bytes)
        self._journal = LimitedLog(
            server_log, loop.clock, per_second=_LOGGED_LINES_PER_SECOND, allowance=allowance, source=name
        )
        self._stderr = _Stderr(self._journal, self._redact)
        self._writer = Writer(loop, child.stdin, lambda: self._stop_soon("it had closed its stdin"))
        self._stdout = Reader(loop, child.stdout, self._read_stdout)
        self._stderr_reader = Reader(loop, child.stderr, self._stderr.feed)
        self._last_non_json: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
        self._stopping: str | None = None

    @property
    def stopping(self) -> bool:
        """Whether it is being ended, for any reason."""
        return self._stopping is not None

    @property
    def unsent(self) -> int:
        """Bytes that the server has not read yet."""
        return self._writer.unsent

    def write(self, line: bytes) -> None:
        """Send one line. A server that leaves more unread than the limit of unsent bytes is ended."""
        self._traffic.to_server.add(len(line) + 1)
        self._writer.write(line + b"\n")
        if self._writer.unsent > self._limits.max_unsent_bytes:
            self.stop("it had left too much of its input unread")

    def log_non_json(self, problem: str, line: bytes) -> None:
        """Log that a line of its stdout was skipped. Unless it looks like a message, keep it to explain an exit."""
        line = self._redact(line)
        if line and not line.lstrip().startswith((b"{", b"[")):
            self._last_non_json.append(line[:_KEPT_LINE_CHARACTERS].decode("utf-8", "replace"))
        start = line[:_LOGGED_NON_JSON_BYTES].decode("utf-8", "replace")
        self._journal.log(logging.WARNING, "skipped a line on stdout: %s: %r", problem, start)

    def stop(self, reason: str) -> None:
        """End it: close its stdin, send SIGTERM a third of the time later, then SIGKILL. `on_exit` follows."""
        if self._stopping is not None:
            return
        self._stopping = reason
        self._writer.end()
        step = self._limits.stop_seconds / 3
        self._loop.call_later(step, self._child.terminate)
        self._loop.call_later(2 * step, self._child.kill)

    def kill(self, reason: str) -> None:
        """End it by SIGKILL. `on_exit` follows."""
        self.stop(reason)
        self._child.kill()

    def _redact(self, line: bytes) -> bytes:
        for secret in self._secrets:
            line = line.replace(secret, _REDACTED)
        return line

    def _read_stdout(self, data: bytes) -> None:
        self._traffic.from_server.add(len(data))
        for line in self._lines.feed(data):
            self._on_line(line)
        for beginning, end in self._lines.take_skipped():
            self.log_non_json(f"more than {self._limits.max_line_bytes} bytes", b"")
            self._on_skipped(beginning, end)
        if not data:
            if last := self._lines.flush():
                self._on_line(last)
            self._stop_soon("it had closed its stdout")

    def _stop_soon(self, reason: str) -> None:
        # A server without one of its pipes cannot go on. Usually it is exiting, and then its status tells more.
        self._loop.call_later(_END_GRACE_SECONDS, lambda: self.stop(reason))

    def _ended(self, reason: str) -> None:
        self._stdout.drain()
        self._stdout.close()
        self._stderr_reader.drain()
        self._stderr_reader.close()
        self._writer.close()
        if self._stopping is not None:
            reason = f"{reason}, after {self._stopping}"
        self._on_exit(Exit(reason=reason, stderr=tuple(self._stderr.last), stdout=tuple(self._last_non_json)))


def forms_of(secret: str) -> set[bytes]:
    """Return the forms in which programs write a secret: plain, in JSON, in URLs and in Base64. Empty if it is short.

    They do not match a part of the secret, nor Base64 of a longer text that contains it.
    """
    plain = secret.encode("utf-8", "surrogateescape")
    if len(plain) < _MIN_SECRET_BYTES:
        return set()
    texts = {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    # As Python, JavaScript and forms write it.
    texts |= {quote(plain, safe=safe) for safe in ("", "/", "!'()*")} | {quote_plus(plain)}
    coded = {base64.b64encode(plain).rstrip(b"="), base64.urlsafe_b64encode(plain).rstrip(b"=")}
    return {plain, *(text.encode("utf-8", "surrogateescape") for text in texts), *coded}


def describe_status(status: int) -> str:
    """Describe the result of os.waitstatus_to_exitcode, for people to read."""
    return f"exited with status {status}" if status >= 0 else f"was ended by signal {-status}"
