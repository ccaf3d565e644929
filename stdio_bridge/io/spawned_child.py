"""A server as a child process of the bridge."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence

from .child_process import UNFIT_VALUE, SpawnError, describe_status
from .event_loop import Loop
from .pipes import Pipe


class SpawnedChild:
    """A child process in a process group of its own, with `open_files` as its soft limit. Raises SpawnError."""

    def __init__(
        self, command: Sequence[str], *, environment: Mapping[str, str], directory: str | None, open_files: int
    ) -> None:
        self._program = command[0]
        try:
            self._process = process = subprocess.Popen(  # noqa: S603 - the operator's own command, without a shell
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
            raise SpawnError(f"{self._program}: cannot be started: {error.strerror}") from error
        except ValueError as error:
            raise SpawnError(f"{self._program}: cannot be started: {UNFIT_VALUE}") from error
        assert process.stdin is not None  # noqa: S101 - PIPE was asked for
        assert process.stdout is not None  # noqa: S101 - as above
        assert process.stderr is not None  # noqa: S101 - as above
        self.stdin, self.stdout, self.stderr = process.stdin, process.stdout, process.stderr
        self._watch: _ExitWatch | None = None
        _limit_open_files(process.pid, open_files)

    def watch(self, loop: Loop, ended: Callable[[str], None]) -> None:
        """Call `ended` once, with how it ended."""
        try:
            self._watch = _ExitWatch(loop, self._process.pid, lambda: ended(describe_status(self._reap())))
        except OSError as error:
            self._abandon()
            raise SpawnError(f"{self._program}: cannot be watched: {error.strerror}") from error

    def terminate(self) -> None:
        """Send SIGTERM to its process group."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to its process group."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        # Not yet reaped (the watch reaps), so the number still means this process and its group.
        if self._watch is not None and not self._watch.closed:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _reap(self) -> int:
        # Children that outlive the leader go with it. Before wait(), so that the group's number cannot be another's.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

    def _abandon(self) -> None:
        """End a process that has just been started and cannot be watched."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with self._process:  # closes its pipes and reaps it
            pass


class _ExitWatch(Pipe):
    """A process file descriptor, readable once the process has ended."""

    def __init__(self, loop: Loop, pid: int, ended: Callable[[], None]) -> None:
        super().__init__(loop, open(os.pidfd_open(pid), "rb", buffering=0))  # noqa: SIM115, PTH123 - kept open
        self._ended = ended

    def readable(self) -> bool:
        return True

    def handle_read_event(self) -> None:
        self.close()
        self._ended()


def _limit_open_files(pid: int, soft: int) -> None:
    # The bridge raises its own limit; a program that uses select() breaks on descriptors beyond the usual one.
    with contextlib.suppress(OSError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(soft, hard), hard))
