"""What systemd does with a socket of `Accept=yes`: `python socket_activation.py PATH COMMAND…` is a unit's template.

For each connection the command gets it as descriptor 3. When the command ends, everything that it left running is
killed, and only then is the connection closed for good. A unit is a process that adopts the orphans below it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from stdio_bridge.io import server_init

SERVER_INIT = (sys.executable, "-I", "-S", server_init.__file__)
ROOT = Path(__file__).parents[2]
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


@contextlib.contextmanager
def server_socket(path: Path, *command: str, launcher: tuple[str, ...] = ()) -> Iterator[Path]:
    """Serve a socket; each connection starts the server's command in a unit. The launcher gives up privileges."""
    arguments = (*launcher, sys.executable, "-m", "tests.stdio_bridge.socket_activation", str(path), *command)
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE) as manager:
        try:
            assert manager.stdout is not None
            assert manager.stdout.readline() == b"listening\n"
            yield path
        finally:
            manager.terminate()


def main(path: str, *command: str) -> None:
    """Serve the socket until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for units
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen()
        sys.stdout.write("listening\n")
        sys.stdout.flush()
        while True:
            connection, _ = listener.accept()
            with connection:
                if os.fork() == 0:
                    listener.close()
                    _run_unit(connection, command)


def _run_unit(connection: socket.socket, command: tuple[str, ...]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if not (leader := os.fork()):
        with contextlib.suppress(OSError):
            _run_leader(connection, command)
        os._exit(203)  # EXIT_EXEC, as systemd says it
    with contextlib.suppress(ChildProcessError):
        while os.wait()[0] != leader:
            pass
        while True:
            for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(child), signal.SIGKILL)
            os.wait()
    os._exit(0)


def _run_leader(connection: socket.socket, command: tuple[str, ...]) -> None:
    with open(os.devnull, "r+b") as nowhere:  # noqa: PTH123 - a device
        for fd in (0, 1):
            os.dup2(nowhere.fileno(), fd)
    os.dup2(connection.fileno(), 3)
    os.closerange(4, 100)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # IgnoreSIGPIPE=
    listening = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "connection"}
    os.execve(SERVER_INIT[0], [*SERVER_INIT, *command], {**os.environ, **listening, "INVOCATION_ID": "1"})


if __name__ == "__main__":
    main(*sys.argv[1:])
