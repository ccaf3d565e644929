"""The server's process: started, spoken to in lines, watched, and surely ended. All on the loop's thread."""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from stdio_bridge.protocol.framing import LineSplitter

from .event_loop import Loop
from .log_handler import Allowance, LimitedLog
from .metrics import Counter

log = logging.getLogger(__name__)
server_log = logging.getLogger("stdio_bridge.server")

_READ_BYTES = 256 * 1024
_STDERR_LINE_BYTES = 8 * 1024
_KEPT_LINES = 10
_KEPT_LINE_CHARACTERS = 500
_LOGGED_LINES_PER_SECOND = 100
_LOGGED_NON_JSON_BYTES = 200
_END_GRACE_SECONDS = 0.2
_DRAIN_READS = 256


class SpawnError(Exception):
    """The server cannot be started; the text is one line that names the program."""


@dataclass(frozen=True, kw_only=True)
class Exit:
    """How a server ended, for people."""

    reason: str
    stderr: tuple[str, ...]
    stdout: tuple[str, ...] = ()

    def __str__(self) -> str:
        wrote = f"; it last wrote: {' | '.join(self.stderr)}" if self.stderr else ""
        said = f"; and on stdout: {' | '.join(self.stdout)}" if self.stdout else ""
        return f"{self.reason}{wrote}{said}"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of one server process. Bytes, seconds, and the soft limit on open files if it is not the bridge's own."""

    max_line_bytes: int
    max_unsent_bytes: int
    stop_seconds: float
    open_files: int | None = None


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Counts the bytes that go through the pipes."""

    to_server: Counter
    from_server: Counter


class _Pipe:
    """One end of a pipe, as the loop sees it."""

    accepting = False

    def __init__(self, loop: Loop, stream: IO[bytes]) -> None:
        self._loop = loop
        self._stream = stream
        self.fd = stream.fileno()
        self.closed = False
        os.set_blocking(self.fd, False)
        loop[self.fd] = self

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None: ...

    def handle_write_event(self) -> None: ...

    def handle_close(self) -> None:
        self.close()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            del self._loop[self.fd]
            self._stream.close()


class _Reader(_Pipe):
    """Reads a pipe into a function until its end, which is given as empty bytes."""

    def __init__(self, loop: Loop, stream: IO[bytes], take: Callable[[bytes], None]) -> None:
        super().__init__(loop, stream)
        self._take = take

    def readable(self) -> bool:
        return True

    def handle_read_event(self) -> None:
        self._read_once()

    def handle_close(self) -> None:
        # A hang-up may come with more to read than one read takes.
        self.drain()
        self.close()

    def drain(self) -> None:
        """Read what is there now, within bounds: a descendant may have escaped the group and go on writing."""
        for _ in range(_DRAIN_READS):
            if not self._read_once():
                return

    def _read_once(self) -> bool:
        if self.closed:
            return False
        try:
            data = os.read(self.fd, _READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.close()
        self._take(data)
        return bool(data)


class _Writer(_Pipe):
    """Writes to a pipe without ever waiting. `unread` is called when nobody reads it any more."""

    def __init__(self, loop: Loop, stream: IO[bytes], unread: Callable[[], None]) -> None:
        super().__init__(loop, stream)
        self._unread = unread
        self._unsent = bytearray()
        self._ending = False

    @property
    def unsent(self) -> int:
        return len(self._unsent)

    def readable(self) -> bool:
        # There is never anything to read; but what is watched for that is told of when the other end is closed.
        return True

    def writable(self) -> bool:
        return bool(self._unsent)

    def handle_close(self) -> None:
        self.close()
        self._unread()

    def write(self, data: bytes) -> None:
        if self.closed or self._ending:
            return
        if self._unsent:
            self._unsent += data
            return
        self._unsent += data[self._write_some(data) :]
        if self._unsent:
            self._loop.touch(self.fd)

    def end(self) -> None:
        """Close once all is written."""
        self._ending = True
        if not self._unsent:
            self.close()

    def handle_write_event(self) -> None:
        del self._unsent[: self._write_some(self._unsent)]
        if self._ending and not self._unsent:
            self.close()

    def _write_some(self, data: bytes | bytearray) -> int:
        try:
            return os.write(self.fd, data)
        except BlockingIOError:
            return 0
        except OSError:
            # The reader is gone, which has an event of its own.
            self._unsent.clear()
            return len(data)


class _ExitWatch(_Pipe):
    """A process file descriptor, readable once the process has ended."""

    def __init__(self, loop: Loop, pid: int, ended: Callable[[], None]) -> None:
        super().__init__(loop, open(os.pidfd_open(pid), "rb", buffering=0))  # noqa: SIM115, PTH123 - kept open
        self._ended = ended

    def readable(self) -> bool:
        return True

    def handle_read_event(self) -> None:
        self.close()
        self._ended()


class _Stderr:
    """Passes the server's stderr on to the log; keeps the last lines."""

    def __init__(self, journal: LimitedLog) -> None:
        self._journal = journal
        self._lines = LineSplitter(_STDERR_LINE_BYTES)
        self.last: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)

    def feed(self, data: bytes) -> None:
        for line in self._lines.feed(data) if data else (self._lines.flush(),):
            self._tell_of_skipped()
            if line:
                text = line.decode("utf-8", "replace")
                self.last.append(text[:_KEPT_LINE_CHARACTERS])
                self._journal.log(logging.INFO, "%s", text)
        self._tell_of_skipped()

    def _tell_of_skipped(self) -> None:
        if self._lines.take_skipped():
            self._journal.log(logging.WARNING, "left out a line of more than %d bytes on stderr", _STDERR_LINE_BYTES)


class ServerProcess:
    """One running server.

    `on_line` gets each line of its stdout, `on_skipped` the beginning and the end of one that is too long; `on_exit` is
    called once, after the last line. What it logs is bounded by the allowance of all of the server's processes.
    Raises SpawnError when it cannot be started.
    """

    def __init__(
        self,
        loop: Loop,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        directory: str | None,
        limits: Limits,
        traffic: Traffic,
        allowance: Allowance,
        on_line: Callable[[bytes], None],
        on_skipped: Callable[[bytes, bytes], None],
        on_exit: Callable[[Exit], None],
    ) -> None:
        try:
            process = subprocess.Popen(  # noqa: S603 - the operator's own command, without a shell
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=dict(environment),
                cwd=directory,
                start_new_session=True,  # a process group of its own, to be ended with all its children
            )
        except OSError as error:
            raise SpawnError(f"{command[0]}: cannot be started: {error.strerror}") from error
        assert process.stdin is not None  # noqa: S101 - PIPE was asked for
        assert process.stdout is not None  # noqa: S101 - as above
        assert process.stderr is not None  # noqa: S101 - as above
        self.pid = process.pid
        if limits.open_files is not None:
            _limit_open_files(self.pid, limits.open_files)
        try:
            self._watch = _ExitWatch(loop, process.pid, self._ended)
        except OSError as error:
            _abandon(process)
            raise SpawnError(f"{command[0]}: cannot be watched: {error.strerror}") from error
        self._process = process
        self._loop = loop
        self._limits = limits
        self._traffic = traffic
        self._on_line = on_line
        self._on_skipped = on_skipped
        self._on_exit = on_exit
        self._lines = LineSplitter(limits.max_line_bytes)
        self._journal = LimitedLog(server_log, loop.clock, per_second=_LOGGED_LINES_PER_SECOND, allowance=allowance)
        self._stderr = _Stderr(self._journal)
        self._writer = _Writer(loop, process.stdin, lambda: self._stop_soon("it had closed its stdin"))
        self._stdout = _Reader(loop, process.stdout, self._read_stdout)
        self._stderr_reader = _Reader(loop, process.stderr, self._stderr.feed)
        self._last_non_json: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
        self._stopping: str | None = None

    @property
    def stopping(self) -> bool:
        """Whether it is being ended, for whatever reason."""
        return self._stopping is not None

    @property
    def unsent(self) -> int:
        """Bytes that the server has not read yet."""
        return self._writer.unsent

    def write(self, line: bytes) -> None:
        """Send one line. A server that reads nothing while the bound of unsent bytes is passed is ended."""
        self._traffic.to_server.add(len(line) + 1)
        self._writer.write(line + b"\n")
        if self._writer.unsent > self._limits.max_unsent_bytes:
            self.stop("it had left too much of its input unread")

    def log_non_json(self, problem: str, line: bytes) -> None:
        """Log that a line of its stdout was skipped, and keep it for people if it is no message gone wrong."""
        if line and not line.lstrip().startswith((b"{", b"[")):
            self._last_non_json.append(line[:_KEPT_LINE_CHARACTERS].decode("utf-8", "replace"))
        start = line[:_LOGGED_NON_JSON_BYTES].decode("utf-8", "replace")
        self._journal.log(logging.WARNING, "skipped a line on stdout: %s: %r", problem, start)

    def stop(self, reason: str) -> None:
        """End it: stdin closed, then SIGTERM, then SIGKILL, a third of the time apart. `on_exit` follows."""
        if self._stopping is not None:
            return
        self._stopping = reason
        self._writer.end()
        step = self._limits.stop_seconds / 3
        self._loop.call_later(step, lambda: self._signal(signal.SIGTERM))
        self._loop.call_later(2 * step, lambda: self._signal(signal.SIGKILL))

    def _signal(self, number: signal.Signals) -> None:
        # Not yet reaped (the watch reaps), so the number still means this process and its group.
        if not self._watch.closed:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

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
        # A server that hears or says nothing more is of no use. It usually is ending: then its status says more.
        self._loop.call_later(_END_GRACE_SECONDS, lambda: self.stop(reason))

    def _ended(self) -> None:
        # Children that outlive the leader go with it. Before wait(), so that the group's number cannot be another's.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        status = self._process.wait()
        self._stdout.drain()
        self._stdout.close()
        self._stderr_reader.drain()
        self._stderr_reader.close()
        self._writer.close()
        reason = f"exited with status {status}" if status >= 0 else f"was ended by signal {-status}"
        if self._stopping is not None:
            reason = f"{reason}, after {self._stopping}"
        self._on_exit(Exit(reason=reason, stderr=tuple(self._stderr.last), stdout=tuple(self._last_non_json)))


def _abandon(process: subprocess.Popen[bytes]) -> None:
    """End a process that has just been started, and of which nobody would hear when it ends."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with process:  # closes its pipes and reaps it
        pass


def _limit_open_files(pid: int, soft: int) -> None:
    # The bridge raises its own limit; a program that uses select() breaks on descriptors beyond the usual one.
    with contextlib.suppress(OSError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(soft, hard), hard))
