"""A way to Redis on which a test can make replies late, withhold them, or cut them in half."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

CHUNK = 65536


class Stage(Enum):
    """Where a command stops on its way."""

    BEFORE = "before Redis has seen it"
    AFTER = "after Redis has done it, with no reply"
    HALFWAY = "in the middle of Redis' reply"
    CUT = "after Redis has done it, with the connection cut"


@dataclass
class Stop:
    """Holds the first command that contains `marker`. `reached` is set once it is held."""

    marker: bytes
    stage: Stage
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)


class RedisProxy:
    """Listens on a unix socket and passes everything on to Redis, but for what a test asks of it."""

    def __init__(self, path: Path, redis: Path) -> None:
        self.url = f"unix://{path}"
        self.delay = 0.0
        """Seconds by which every reply is late."""
        self._redis = redis
        self._stop: Stop | None = None
        self._closing = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def hold(self, marker: bytes, stage: Stage) -> Stop:
        """Hold the next command that contains `marker`."""
        self._stop = Stop(marker, stage)
        return self._stop

    def close(self) -> None:
        """Cut every connection, and listen no more."""
        self._closing.set()
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            redis = socket.socket(socket.AF_UNIX)
            try:
                redis.connect(str(self._redis))
            except OSError:
                client.close()
                redis.close()
                continue
            held: list[Stop] = []
            self._open += [client, redis]
            for target, arguments in ((self._commands, (client, redis, held)), (self._replies, (redis, client, held))):
                self._threads.append(threading.Thread(target=target, args=arguments, daemon=True))
                self._threads[-1].start()

    def _commands(self, client: socket.socket, redis: socket.socket, held: list[Stop]) -> None:
        for chunk in _chunks(client):
            stop = self._stop
            if stop is not None and stop.marker in chunk:
                self._stop = None
                if stop.stage is Stage.BEFORE:
                    stop.reached.set()
                    self._wait(stop)
                else:
                    held.append(stop)
            with contextlib.suppress(OSError):
                redis.sendall(chunk)
        _hang_up(redis)

    def _replies(self, redis: socket.socket, client: socket.socket, held: list[Stop]) -> None:
        for chunk in _chunks(redis):
            self._closing.wait(self.delay)
            rest = chunk
            if held:
                stop = held.pop()
                if stop.stage is Stage.HALFWAY:
                    half = len(chunk) // 2
                    with contextlib.suppress(OSError):
                        client.sendall(chunk[:half])
                    rest = chunk[half:]
                stop.reached.set()
                if stop.stage is Stage.CUT:
                    break
                self._wait(stop)
            with contextlib.suppress(OSError):
                client.sendall(rest)
        _hang_up(client)

    def _wait(self, stop: Stop) -> None:
        while not self._closing.is_set() and not stop.released.wait(0.02):
            pass


def _chunks(source: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(OSError):
        while chunk := source.recv(CHUNK):
            yield chunk


def _hang_up(other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        other.shutdown(socket.SHUT_RDWR)
