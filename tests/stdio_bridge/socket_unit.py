"""A bridge with its socket, as systemd keeps them: `python socket_unit.py FD POINT HOLD_FD …` is the bridge's command.

The socket stays open for as long as the unit; a connection starts the bridge, however often it has exited.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from stdio_bridge import __main__ as bridge
from stdio_bridge.http.server import HttpServer
from stdio_bridge.io.systemd import Notifier
from tests.stdio_bridge.running import ALL_CAPABILITIES, ECHO, ROOT, rpc

WAIT_SECONDS = 60
HEADERS = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
NEVER = "never"


class SocketUnit:
    """Starts the bridge for each connection that no running bridge has accepted, until the block ends."""

    def __init__(
        self, *options: str, listener: socket.socket | None = None, hold: str = NEVER, command: tuple[str, ...] = ECHO
    ) -> None:
        """Each bridge stops at the point of its exit that `hold` names, until `release`."""
        self.listener = listener if listener is not None else socket.create_server(("127.0.0.1", 0))
        self._options = options
        self._hold = hold
        self._command = command
        self._held, self._holding = socket.socketpair()
        self._held.settimeout(WAIT_SECONDS)
        self._wake, self._woken = socket.socketpair()
        self._changed = threading.Condition()
        self._stopping = False
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self.statuses: list[int] = []
        self._manager = threading.Thread(target=self._manage)

    def __enter__(self) -> Self:
        self._manager.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopping = True
            if self._process is not None:
                self._process.terminate()
        self._held.close()
        self._wake.close()
        self._manager.join(WAIT_SECONDS)
        for each in (self._holding, self._woken, self.listener):
            each.close()
        assert not self._manager.is_alive()

    def _manage(self) -> None:
        waiting = select.poll()
        waiting.register(self.listener.fileno(), select.POLLIN)
        waiting.register(self._woken.fileno(), select.POLLIN)
        while True:
            waiting.poll()
            with self._changed:
                if self._stopping:
                    return
                process = self._process = self._start()
                self.starts += 1
                self._changed.notify_all()
            status = process.wait()
            with self._changed:
                self._process = None
                self.statuses.append(status)
                self._changed.notify_all()

    def _start(self) -> subprocess.Popen[bytes]:
        descriptors = (self.listener.fileno(), self._holding.fileno())
        arguments = [str(descriptors[0]), self._hold, str(descriptors[1]), "--no-identity", *self._options]
        return subprocess.Popen(
            [sys.executable, "-m", "tests.stdio_bridge.socket_unit", *arguments, "--", *self._command],
            cwd=ROOT,
            env={**os.environ, "LISTEN_FDS": "1"},
            pass_fds=descriptors,
            stderr=subprocess.DEVNULL,
        )

    def wait_for_exits(self, count: int) -> None:
        """Wait until the bridge has exited so often."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.statuses) >= count, WAIT_SECONDS), self.statuses

    def wait_until_held(self) -> None:
        """Wait until a bridge has come to the point of its exit where it is held."""
        assert self._held.recv(1) == b"h"

    def release(self) -> None:
        """Let the bridge that is held exit, and hold none any more."""
        self._held.close()

    def connect(self) -> http.client.HTTPConnection:
        """Connect; it waits in the socket until a bridge accepts it."""
        connection = http.client.HTTPConnection("localhost", timeout=WAIT_SECONDS)
        connection.sock = socket.socket(self.listener.family, socket.SOCK_STREAM)
        connection.sock.settimeout(WAIT_SECONDS)
        connection.sock.connect(self.listener.getsockname())
        return connection


def send_initialize(connection: http.client.HTTPConnection, **headers: str) -> None:
    """Send the first request of a session, without waiting for the answer."""
    params = {"protocolVersion": "2025-06-18", "capabilities": ALL_CAPABILITIES, "clientInfo": _CLIENT}
    connection.request("POST", "/mcp", json.dumps(rpc("initialize", params)), {**HEADERS, **headers})


_CLIENT = {"name": "t", "version": "1"}


def read_answer(connection: http.client.HTTPConnection) -> tuple[int, str | None, Any]:
    """Wait for the answer; return its status, its session and its body."""
    answer = connection.getresponse()
    content = answer.read()
    return answer.status, answer.headers["mcp-session-id"], content


def end_session(connection: http.client.HTTPConnection, session: str | None) -> None:
    """End a session on a connection, and close that."""
    assert session is not None
    connection.request("DELETE", "/mcp", headers={**HEADERS, "Mcp-Session-Id": session})
    assert read_answer(connection)[0] == 204
    connection.close()


def main() -> None:
    """Run the bridge on a descriptor, and hold it at a point of its exit."""
    listener, point, holding = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    os.dup2(listener, 3)
    os.environ["LISTEN_PID"] = str(os.getpid())
    holder = socket.socket(fileno=os.dup(holding))

    def hold(here: str) -> None:
        if here == point:
            with contextlib.suppress(OSError):
                holder.sendall(b"h")
                holder.recv(1)

    is_awaited: Any = HttpServer.is_awaited
    watched = property(lambda self: (is_awaited.fget(self), hold(WHEN_IT_LOOKS))[0])  # type: ignore[func-returns-value]
    setattr(HttpServer, "is_awaited", watched)  # noqa: B010 - mypy allows no other way
    for here, (owner, name, is_before) in POINTS.items():
        _hold_at(hold, here, owner, name, is_before=is_before)
    status = bridge.main(sys.argv[4:])
    hold("before the process ends")
    sys.exit(status)


def _hold_at(hold: Callable[[str], None], here: str, owner: type, name: str, *, is_before: bool) -> None:
    original = getattr(owner, name)

    def held(self: Any, *arguments: Any) -> Any:
        is_exit = name != "tell" or arguments == ("STOPPING=1",)
        if is_before and is_exit:
            hold(here)
        result = original(self, *arguments)
        if not is_before and is_exit:
            hold(here)
        return result

    setattr(owner, name, held)


WHEN_IT_LOOKS = "when it has looked whether a client is connected"
POINTS: dict[str, tuple[type, str, bool]] = {
    "before it stops accepting": (HttpServer, "stop_accepting", True),
    "after it has stopped accepting": (HttpServer, "stop_accepting", False),
    "after systemd was told": (Notifier, "tell", False),
    "after its connections were closed": (HttpServer, "close", False),
}
ALL_POINTS = (WHEN_IT_LOOKS, *POINTS, "before the process ends")


@contextlib.contextmanager
def unix_listener(path: Path) -> Iterator[socket.socket]:
    """A listening unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(128)
        yield listener


if __name__ == "__main__":
    main()
