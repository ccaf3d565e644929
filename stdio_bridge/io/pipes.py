"""Pipes to and from a server process, for the event loop."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import IO

from .event_loop import Loop

# The size of a pipe. From 128 KiB on, malloc may ask the kernel for memory at each read (M_MMAP_THRESHOLD).
_READ_BYTES = 64 * 1024
_DRAIN_READS = 1024


class Pipe:
    """One end of a pipe, for the event loop."""

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


class Reader(Pipe):
    """Reads a pipe and passes its bytes to `take`; empty bytes mean its end."""

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
        """Read what is there now, within a bound: a descendant outside the process group may go on writing."""
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


class Writer(Pipe):
    """Writes to a pipe and never blocks. `on_closed` is called when the other end is closed."""

    def __init__(self, loop: Loop, stream: IO[bytes], on_closed: Callable[[], None]) -> None:
        super().__init__(loop, stream)
        self._on_closed = on_closed
        self._unsent = bytearray()
        self._ending = False

    @property
    def unsent(self) -> int:
        return len(self._unsent)

    def readable(self) -> bool:
        # There is never anything to read, but epoll reports the closing of the other end only for watched descriptors.
        return True

    def writable(self) -> bool:
        return bool(self._unsent)

    def handle_close(self) -> None:
        self.close()
        self._on_closed()

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
            # The reader is gone; handle_close() follows.
            self._unsent.clear()
            return len(data)
