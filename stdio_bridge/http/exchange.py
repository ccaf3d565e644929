"""One HTTP request and its response, which may be completed later."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from waitress.task import Task
from waitress.utilities import build_http_date

from .body_budget import SMALL_BYTES
from .parser import normal_headers

Headers = list[tuple[str, str]]


class Request:
    """A complete HTTP request. Header names are in lower case; values of repeated headers are joined by commas."""

    __slots__ = ("_parsed", "headers", "method", "path")

    def __init__(self, parsed: Any) -> None:
        self._parsed = parsed
        self.method: str = parsed.command
        self.path: str = parsed.path
        self.headers: Mapping[str, str] = normal_headers(parsed.headers)

    def body(self) -> bytes:
        """Return the body. It can be read once, as it is not kept. The server's limit bounds its size."""
        body: bytes = self._parsed.take_body()
        return body


class Response:
    """The response to one request: call either `reply` once, or `start`, `write` and at last `finish`.

    Writing to a client that is gone does nothing. `on_disconnect` is called once when the client leaves before the end.
    """

    __slots__ = ("_task", "finished", "headers", "on_disconnect", "started")

    def __init__(self, task: ResponseTask) -> None:
        self._task = task
        # Sent with every answer.
        self.headers: Headers = []
        self.started = False
        self.finished = False
        self.on_disconnect: Callable[[], None] | None = None

    def reply(self, status: str, headers: Headers, body: bytes = b"") -> None:
        """Send a whole response. Does nothing when the client is gone."""
        if self.finished:
            return
        task = self._task
        self.started = self.finished = True
        task.status = status
        task.response_headers = headers + self.headers
        task.content_length = len(body)
        if len(body) <= SMALL_BYTES:
            task.channel.release()
        task.send(b"" if task.request.command == "HEAD" else body)
        task.channel.finish_response(task)

    def start(self, headers: Headers, data: bytes) -> None:
        """Begin a 200 response of unknown length with these bytes."""
        if self.finished:
            return
        self.started = True
        self._task.response_headers = headers + self.headers
        self._task.send(data)
        # Free the memory: nothing needs these headers now, and a stream may be open for days.
        self._task.request.headers = {}

    def write(self, data: bytes) -> None:
        """Send more. A client that leaves too much unread is dropped."""
        if not self.finished:
            self._task.send(data)

    def finish(self) -> None:
        """End the response begun by `start`."""
        if not self.finished:
            self.finished = True
            self._task.channel.finish_response(self._task)

    def disconnected(self) -> None:
        """Note that the client is gone; called by the channel."""
        if not self.finished:
            self.finished = True
            if self.on_disconnect is not None:
                self.on_disconnect()


class ResponseTask(Task):  # type: ignore[misc] # waitress is untyped
    """Writes one response's bytes: head and first body bytes together, in one packet."""

    complete = True  # status and headers are set before the first write

    def send(self, data: bytes) -> None:
        if not self.channel.connected:
            return
        head = b""
        if not self.wrote_header:  # type: ignore[has-type]  # waitress is untyped
            self.response_headers.append(("Date", _http_date(int(self.start_time))))
            head = self.build_response_header()
            self.wrote_header = True
        if self.chunked_response and data:
            data = b"%X\r\n%b\r\n" % (len(data), data)
        self.channel.write_soon(head + data)

    def set_close_on_finish(self) -> None:
        # waitress closes a connection after each chunked response. HTTP/1.1 does not require that, and a client whose
        # calls are answered by event streams would have to connect again for each call.
        if not self.chunked_response:
            super().set_close_on_finish()

    def finish(self) -> None:
        if self.chunked_response and self.channel.connected:
            self.channel.write_soon(b"0\r\n\r\n")


@functools.lru_cache(maxsize=1)
def _http_date(second: int) -> str:
    """Return a time as HTTP writes it. It is the same for every response of one second."""
    date: str = build_http_date(second)
    return date
