"""An HTTP request that the bridge itself makes, on the event loop: it never blocks, and needs no thread."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from .event_loop import Loop

_MAX_ANSWER_BYTES = 1 << 20
_READ_BYTES = 64 * 1024
_END_OF_HEAD = b"\r\n\r\n"
# Python refuses to read thousands of digits.
_MAX_LENGTH_DIGITS = 9


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a server has answered. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class InvalidAnswerError(Exception):
    """An answer is not HTTP/1.1, or larger than a mebibyte."""


class Post:
    """A POST request. `done` is called once: with the answer, or with a text that says what went wrong."""

    accepting = False

    def __init__(
        self,
        loop: Loop,
        url: str,
        body: bytes,
        done: Callable[[Answer | str], None],
        *,
        seconds: float,
        connect_seconds: float,
    ) -> None:
        """Raises OSError if no socket can be made. `url` has an IP address, as resolving a name would block.

        `connect_seconds` bounds the time for connecting: a host that is switched off does not refuse connections.
        """
        parts = urlsplit(url)
        host = parts.hostname or ""
        head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {len(body)}\r\n"
        self._unsent = head.encode("ascii") + b"Content-Type: text/plain\r\nConnection: close\r\n\r\n" + body
        self._received = bytearray()
        self._loop = loop
        self._done = done
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        self._timer = loop.call_later(seconds, lambda: self._end(f"no answer within {seconds:.0f} s"))
        self._connecting = loop.call_later(connect_seconds, lambda: self._end("cannot be reached"))
        self._socket.setblocking(False)
        self._fd = self._socket.fileno()
        self._is_over = False
        try:
            self._socket.connect((host, parts.port or 80))
        except BlockingIOError:
            loop[self._fd] = self
        except OSError as error:
            reason = _describe(error)
            loop.call_soon(lambda: self._end(reason))
        else:
            loop[self._fd] = self

    def cancel(self) -> None:
        """Cancel it, so that `done` is not called. Does nothing if it is over."""
        if self._is_over:
            return
        self._is_over = True
        self._timer.cancel()
        self._connecting.cancel()
        if self._fd in self._loop:
            del self._loop[self._fd]
        self._socket.close()
        self._received.clear()

    def _end(self, result: Answer | str) -> None:
        if not self._is_over:
            self.cancel()
            self._done(result)

    # What the loop calls

    def readable(self) -> bool:
        """Always, as reading also tells that the other side has closed the connection."""
        return True

    def writable(self) -> bool:
        """Whether something is to be sent."""
        return bool(self._unsent)

    def handle_write_event(self) -> None:
        """Send as much as the socket takes."""
        if self._is_over:
            return
        self._connecting.cancel()
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError as error:
            self._end(_describe(error))

    def handle_read_event(self) -> None:
        """Read a part of the answer, which may be its last."""
        if self._is_over:
            return
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(_describe(error))
            return
        self._received += data
        try:
            answer = parse_answer(self._received, ended=not data)
        except InvalidAnswerError as error:
            self._end(str(error))
        else:
            if answer is not None:
                self._end(answer)

    def handle_close(self) -> None:
        """The other side has closed the connection: read to its end."""
        for _ in range(_MAX_ANSWER_BYTES // _READ_BYTES + 2):
            if self._is_over:
                return
            self.handle_read_event()
        self._end("the connection was closed")


def parse_answer(received: bytes | bytearray, *, ended: bool) -> Answer | None:
    """Return an answer once it is complete; `ended` says that no more follows. Raises InvalidAnswerError."""
    if len(received) > _MAX_ANSWER_BYTES:
        raise InvalidAnswerError("the answer is too large")
    head, separator, rest = bytes(received).partition(_END_OF_HEAD)
    if not separator:
        if ended:
            raise InvalidAnswerError("the connection was closed before the answer was complete")
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, status = first.partition(" ")
    if not version.startswith("HTTP/1.") or not status[:3].isdecimal():
        raise InvalidAnswerError("the answer is not HTTP")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = headers.get("content-length", "")
    # The auth service sends the length of its answers. Without a length, a truncated answer would go unnoticed.
    if not length.isdecimal() or "transfer-encoding" in headers:
        raise InvalidAnswerError("the answer does not say how long it is")
    if len(length) > _MAX_LENGTH_DIGITS:
        raise InvalidAnswerError("the answer is too large")
    if len(rest) < int(length):
        if ended:
            raise InvalidAnswerError("the connection was closed before the answer was complete")
        return None
    return Answer(status=int(status[:3]), headers=headers, body=rest[: int(length)])


def _describe(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else type(error).__name__
