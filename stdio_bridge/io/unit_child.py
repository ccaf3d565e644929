"""A server in a systemd unit of its own, which a connection to the socket of its template starts."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from . import server_init
from .child_process import UNFIT_VALUE, SpawnError, describe_status
from .event_loop import Loop

# The server has another user than the bridge; programs open /dev/stdin, /dev/stdout and /dev/stderr by their names.
_PIPE_MODE = 0o666
_LIMITS_MET = {
    server_init.OUT_OF_MEMORY: "its unit ran out of the memory that it may have",
    server_init.TOO_MANY_TASKS: "its unit had as many tasks as it may have",
}


class UnitChild:
    """A server behind a socket with `Accept=yes`. Its first process, `server_init`, does what the bridge asks for.

    The bridge controls the unit through the connection only: when it closes the connection, the unit ends.
    `environment` is added to the unit's. `user` is the digest of the user that the process is for; in a unit with files
    for each user it sees the files of this user, and none if there is no user. Raises SpawnError.
    """

    def __init__(self, path: Path, *, environment: Mapping[str, str], user: str) -> None:
        with contextlib.ExitStack() as undo:
            try:
                self._connection = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                # If too many connections wait, connecting fails at once.
                self._connection.setblocking(False)
                self._connection.connect(str(path))
                (its_stdin, stdin), (stdout, its_stdout), (stderr, its_stderr) = (_make_pipe(undo) for _ in range(3))
                server_ends = (its_stdin, its_stdout, its_stderr)
                for end in server_ends:
                    os.fchmod(end.fileno(), _PIPE_MODE)
                socket.send_fds(
                    self._connection, [server_init.pack(environment, user)], [end.fileno() for end in server_ends]
                )
            except OSError as error:
                raise SpawnError(f"{path}: no unit of the server can be started: {error.strerror}") from error
            except ValueError as error:
                raise SpawnError(f"{path}: no unit of the server can be started: {UNFIT_VALUE}") from error
            undo.pop_all()
        for end in server_ends:
            end.close()
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr

    def watch(self, loop: Loop, ended: Callable[[str], None]) -> None:
        """Call `ended` once, with how it ended."""
        self._watch = _Watch(loop, self._connection, ended)

    def terminate(self) -> None:
        """Let SIGTERM be sent to its process group."""
        self._watch.order(server_init.TERMINATE)

    def kill(self) -> None:
        """Let SIGKILL be sent to all its processes."""
        self._watch.order(server_init.KILL)


class _Watch:
    """Waits for the report of how the server has ended."""

    accepting = False

    def __init__(self, loop: Loop, connection: socket.socket, ended: Callable[[str], None]) -> None:
        self._loop = loop
        self._connection = connection
        self._fd = connection.fileno()
        self._ended = ended
        loop[self._fd] = self

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        try:
            report = self._connection.recv(server_init.MAX_REPORT_BYTES)
        except BlockingIOError:
            return
        except OSError:
            report = b""
        del self._loop[self._fd]
        self._connection.close()
        self._ended(_describe(report.decode("utf-8", "replace")))

    def handle_write_event(self) -> None: ...

    def handle_close(self) -> None:
        # A hang-up comes together with the report, or in place of it.
        if self._fd in self._loop:
            self.handle_read_event()

    def order(self, order: bytes) -> None:
        """Send an order for a server that has not ended."""
        with contextlib.suppress(OSError):  # it is ending by itself
            self._connection.send(order)


def _describe(report: str) -> str:
    if report.startswith(server_init.FAILED):
        return f"cannot be started: {report.removeprefix(server_init.FAILED)}"
    if not report.startswith(server_init.EXITED):
        return "was ended with its unit: see the unit's entries in the system's journal"
    status, *limits = report.removeprefix(server_init.EXITED).split()
    return ": ".join([describe_status(int(status)), *(_LIMITS_MET[limit] for limit in limits)])


def _make_pipe(undo: contextlib.ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    reader, writer = os.pipe()
    return undo.enter_context(os.fdopen(reader, "rb", 0)), undo.enter_context(os.fdopen(writer, "wb", 0))
