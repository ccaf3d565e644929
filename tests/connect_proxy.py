"""An HTTP proxy on loopback that opens tunnels (CONNECT), to one place whatever address or name it is given.

`python -m tests.connect_proxy PORT HOST:PORT` runs one until its end.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Iterator

GRANTED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class ConnectProxy:
    """Answers each CONNECT with `answer`; where that grants it, a tunnel to `port` on loopback follows."""

    def __init__(self, port: int, *, host: str = "127.0.0.1", listen: int = 0) -> None:
        self.answer = GRANTED
        self.heads: list[bytes] = []
        self._target = host, port
        self._listener = socket.create_server(("127.0.0.1", listen))
        self._sockets: list[socket.socket] = []
        self._is_closed = False
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        """What the settings name it by."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def targets(self) -> list[str]:
        """What it was asked to connect to, in order."""
        return [head.split(b" ", 2)[1].decode() for head in self.heads]

    def close(self) -> None:
        """End every connection and thread."""
        with self._lock:
            self._is_closed = True
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(60)
        for each in (self._listener, *self._sockets):
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self._keep(client):
                return
            self._start(self._serve, client)

    def _keep(self, made: socket.socket) -> bool:
        """Let `close` end this connection, or end it if that has begun."""
        with self._lock:
            if not self._is_closed:
                self._sockets.append(made)
                return True
        made.close()
        return False

    def _start(self, target: object, *arguments: socket.socket) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                if not (data := client.recv(4096)):
                    return
                head += data
            self.heads.append(head)
            client.sendall(self.answer)
            if not self.answer.startswith(b"HTTP/1.1 2"):
                client.shutdown(socket.SHUT_RDWR) if self.answer else client.recv(1)
                return
            there = socket.create_connection(self._target)
            if self._keep(there):
                self._start(_copy, there, client)
                _copy(client, there)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def connect_proxy(port: int) -> Iterator[ConnectProxy]:
    """Run a proxy and end it."""
    proxy = ConnectProxy(port)
    try:
        yield proxy
    finally:
        proxy.close()


def main(listen: str, target: str) -> None:
    """Run a proxy until the process ends; says so once it does."""
    host, _, port = target.rpartition(":")
    ConnectProxy(int(port), host=host, listen=int(listen))
    sys.stdout.write("serving\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
