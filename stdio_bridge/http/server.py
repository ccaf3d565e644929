"""waitress, with responses that are written later.

waitress ties a worker thread to every open response. Here a request is handed to the application on the loop's own
thread, together with a `Response` that anything may complete later, so a waiting response costs a socket and a few
objects. What is subclassed of waitress 3.0 is its channel and task, and its parser in parser.py: the buffers, the
server sockets and the header writer are used as they are. tests/stdio_bridge/http/test_server.py holds the assumptions.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import waitress.server
from waitress.channel import ClientDisconnected, HTTPChannel
from waitress.task import ErrorTask, Task

from stdio_bridge.io.event_loop import Loop

from .body_budget import SMALL_BYTES, BodyBudget
from .parser import HttpParser, normal_headers

log = logging.getLogger(__name__)

Headers = list[tuple[str, str]]

_MAINTENANCE_SECONDS = 30.0
_LINGER_SECONDS = 30.0
_NO_ROOM_SECONDS = 0.5
# Each time that a client's unread output has grown by two to the power of this, all clients' is added up.
_LOOK_EVERY_BITS = 16
_UNLIMITED = 1 << 40
# How long a streamed answer to a large request is held back: Go's reverse proxy cuts an answer off that begins before
# the proxy has found the end of the request (docs/contracts.md, "Why requests are read to their end").
_HOLD_SECONDS = 0.005
# How many rounds of maintenance a request may take to arrive: waitress' own time-out restarts with each byte.
_MAX_ROUNDS_FOR_A_REQUEST = 4


class Request:
    """One HTTP request, whole. Names of headers are in lower case; values of repeated ones are joined by commas."""

    __slots__ = ("_parsed", "headers", "method", "path")

    def __init__(self, parsed: Any) -> None:
        self._parsed = parsed
        self.method: str = parsed.command
        self.path: str = parsed.path
        self.headers: Mapping[str, str] = normal_headers(parsed.headers)

    def body(self) -> bytes:
        """Read the body, once: it is not kept while the request is answered. The server's limit bounds its size."""
        body: bytes = self._parsed.take_body()
        return body


class Response:
    """The answer to one request: either `reply` once, or `start` and then `write` until `finish`.

    Writing to a client that is gone does nothing; `on_disconnect` tells of it, once, unless the response was finished.
    """

    __slots__ = ("_task", "finished", "headers", "on_disconnect", "started")

    def __init__(self, task: _Task) -> None:
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
        # They are not needed any more, and a stream may be open for days.
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


Application = Callable[[Request, Response], None]
RenderError = Callable[[str, str], tuple[Headers, bytes]]


class _Task(Task):  # type: ignore[misc] # waitress is untyped
    """Writes one response's bytes: head and first body bytes together, in one packet."""

    complete = True  # status and headers are set before the first write

    def send(self, data: bytes) -> None:
        if not self.channel.connected:
            return
        head = b""
        if not self.wrote_header:  # type: ignore[has-type]  # waitress is untyped
            head = self.build_response_header()
            self.wrote_header = True
        if self.chunked_response and data:
            data = b"%X\r\n%b\r\n" % (len(data), data)
        self.channel.write_soon(head + data)

    def set_close_on_finish(self) -> None:
        # waitress closes a connection after each chunked response; HTTP/1.1 does not ask for that, and a client
        # whose calls are answered by event streams would connect again for each.
        if not self.chunked_response:
            super().set_close_on_finish()

    def finish(self) -> None:
        if self.chunked_response and self.channel.connected:
            self.channel.write_soon(b"0\r\n\r\n")


class _RefusalTask(ErrorTask):  # type: ignore[misc] # waitress is untyped
    """Answers what the parser refuses (too large, malformed) in the application's form."""

    def __init__(self, channel: _Channel, parsed: Any) -> None:
        super().__init__(channel, parsed)
        # What could not be parsed has no version; RFC 9110 §2.5: a response is of the server's own.
        self.version = "1.1"

    def execute(self) -> None:
        refused = self.request.error
        self.status = f"{refused.code} {refused.reason}"
        headers, body = self.channel.server.render_error(self.status, f"{refused.reason}: {refused.body}")
        self.response_headers.extend(headers)
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):  # type: ignore[misc] # waitress is untyped
    """One connection."""

    error_task_class = _RefusalTask
    parser_class = HttpParser
    response: Response | None = None
    request: Any
    requests: list[Any]
    _unfinished: Any = None
    _rounds = 0
    _held = False
    _lock = threading.Condition()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # One thread does everything; locks of its own would cost each idle connection a kilobyte.
        self.requests_lock = self.outbuf_lock = self._lock

    def service(self) -> None:
        """Hand the first waiting request to the application."""
        if not self.requests or not self.connected:
            return
        parsed = self.requests[0]
        if parsed.error:
            super().service()
            self._linger()
            return
        if parsed.content_length > SMALL_BYTES:
            self._hold()
        task = _Task(self, parsed)
        task.start()
        self.response = response = Response(task)
        try:
            self.server.application(Request(parsed), response)
        except Exception:
            log.exception("%s %s failed", parsed.command, parsed.path)
            self._fail(response)

    def _hold(self) -> None:
        """Send nothing for a moment. Not needed for a chunked request: its end reaches the proxy first."""
        self._held = True
        self._map.call_later(_HOLD_SECONDS, self.release)

    def release(self) -> None:
        """Send what there is to send."""
        self._held = False
        self._map.touch(self._fileno)

    def writable(self) -> bool:
        """Whether there is something to send, or to close."""
        return not self._held and bool(super().writable())

    def _linger(self) -> None:
        """Close the connection of a refused request, but leave its client time to read the reason.

        Closing with input unread resets the connection, and the refusal is lost with it (RFC 9112 §9.6): a client
        whose body is too large has most of it still to send.
        """
        self._map.touch(self._fileno)
        if self.socket is None or self.total_outbufs_len:
            return
        self.close_when_flushed = False
        self.received = self._discard
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
        self._map.call_later(_LINGER_SECONDS, self.handle_close)

    def _discard(self, data: bytes) -> None:
        """Ignore what a refused client still sends."""

    def _fail(self, response: Response) -> None:
        if response.started:
            self.drop()
            return
        status = "500 Internal Server Error"
        response.reply(status, *self.server.render_error(status, "internal error"))

    def finish_response(self, task: _Task) -> None:
        """Go on to the connection's next request, or close it."""
        self.response = None
        task.finish()
        if task.close_on_finish:
            self.close_when_flushed = True
            for request in self.requests:
                request.close()
            self.requests = []
        elif self.requests:
            self.requests.pop(0).close()
            if self.requests and self.connected:
                self.server.add_task(self)
        self.last_activity = time.time()
        self._map.touch(self._fileno)

    def write_soon(self, data: bytes) -> int:
        """Send what the socket takes and keep the rest, up to the limit: past it the client is dropped."""
        if not self.connected:
            raise ClientDisconnected
        size = len(data)
        if not self.total_outbufs_len and not self._held:
            try:
                data = data[self.send(data, do_close=False) :]
            except OSError:
                self.drop()
                return 0
            if not data:
                return size
        elif self.total_outbufs_len > self.server.max_unsent_bytes:
            log.warning("dropped a client that left %d bytes unread", self.total_outbufs_len)
            self.drop()
            return 0
        self.outbufs[-1].append(data)
        unread = self.total_outbufs_len
        self.total_outbufs_len += len(data)
        self._map.touch(self._fileno)
        if self.total_outbufs_len >> _LOOK_EVERY_BITS > unread >> _LOOK_EVERY_BITS:
            self.server.drop_slowest()
        return size

    def drop_if_slow(self) -> None:
        """Drop a client that takes minutes to send one request; others would have to wait for its connection."""
        waiting = self.request is not None and not self.requests
        self._rounds = self._rounds + 1 if waiting and self.request is self._unfinished else 0
        self._unfinished = self.request
        if self._rounds >= _MAX_ROUNDS_FOR_A_REQUEST:
            self.drop()

    def drop(self) -> None:
        """Close the connection before the loop waits again."""
        self.connected = False
        self._map.call_soon(self.handle_close)

    def handle_close(self) -> None:
        if self.socket is None:
            return
        response, self.response = self.response, None
        server_fd = self.server.fileno
        super().handle_close()
        for request in self.requests:
            request.close()
        if self.request is not None:
            self.request.close()
            self.request = None
        self.requests = []
        self._map.touch(server_fd)  # it may accept again
        if response is not None:
            response.disconnected()


class _InlineDispatcher:
    """Takes the place of waitress' thread pool: requests are handled on the loop's thread, in order."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def add_task(self, channel: _Channel) -> None:
        self._loop.call_soon(channel.service)


class HttpServer:
    """Serves an application on sockets that already listen or are bound.

    `render_error` makes the headers and the body of what never reaches the application, from a status and a text.
    """

    def __init__(
        self,
        application: Application,
        loop: Loop,
        listener: socket.socket,
        *,
        max_body_bytes: int,
        max_unsent_bytes: int,
        max_unsent_bytes_in_all: int,
        body_budget: BodyBudget,
        max_connections: int,
        render_error: RenderError,
    ) -> None:
        self._loop = loop
        self._server = waitress.server.create_server(
            application,
            map=loop,
            _dispatcher=_InlineDispatcher(loop),
            sockets=[listener],
            backlog=4096,
            # An early look at the next request is also how a disconnect is noticed while one is being answered.
            channel_request_lookahead=1,
            connection_limit=_UNLIMITED,  # it would count whatever the loop watches, the pipes to servers as well
            max_request_body_size=max_body_bytes + 1,
            max_request_header_size=64 * 1024,
            inbuf_overflow=_UNLIMITED,  # a sandbox may have no place for temporary files
            outbuf_overflow=_UNLIMITED,
            outbuf_high_watermark=_UNLIMITED,  # waitress would wait there; write_soon drops instead
            recv_bytes=65536,
            log_socket_errors=False,
            ident=None,
            clear_untrusted_proxy_headers=False,
        )
        self._server.channel_class = _Channel
        self._server.adj.body_budget = body_budget
        self._server.max_unsent_bytes = max_unsent_bytes
        self._server.drop_slowest = self._drop_slowest
        self._server.render_error = render_error
        self._max_unsent_bytes_in_all = max_unsent_bytes_in_all
        self._server.fileno = self._server._fileno
        self._server.next_channel_cleanup = math.inf
        self._max_connections = max_connections
        self._server.readable = self._accepts
        self._accept_one = self._server.accept
        self._server.accept = self._accept
        self._closed = False
        self._stopped_accepting = False
        self._maintain()

    def _maintain(self) -> None:
        if self._closed:
            return
        self._server.maintenance(time.time())
        for fd, channel in list(self._server.active_channels.items()):
            channel.drop_if_slow()
            self._loop.touch(fd)
        self._loop.call_later(_MAINTENANCE_SECONDS, self._maintain)

    def _drop_slowest(self) -> None:
        """Drop the clients with the most unread output, until the total is within its limit."""
        slow = sorted(
            (channel for channel in self._server.active_channels.values() if channel.connected),
            key=lambda channel: channel.total_outbufs_len,
        )
        unread = sum(channel.total_outbufs_len for channel in slow)
        while unread > self._max_unsent_bytes_in_all:
            slowest = slow.pop()
            unread -= slowest.total_outbufs_len
            log.warning("dropped the client that left the most unread, %d bytes", slowest.total_outbufs_len)
            slowest.drop()

    def _accepts(self) -> bool:
        return self._server.accepting and self.connections < self._max_connections

    def _accept(self) -> Any:
        try:
            return self._accept_one()
        except OSError as error:
            # No descriptor is left, most likely. The connection goes on waiting, and asking for it again at once would
            # take a whole core.
            log.warning("no connection can be accepted: %s", error.strerror)
            self._set_accepting(accepting=False)
            self._loop.call_later(_NO_ROOM_SECONDS, lambda: self._set_accepting(accepting=not self._stopped_accepting))
            return None

    def _set_accepting(self, *, accepting: bool) -> None:
        if not self._closed:
            self._server.accepting = accepting
            self._loop.touch(self._server.fileno)

    @property
    def wake(self) -> Callable[[], None]:
        """Make the loop take a turn; callable from signal handlers."""
        pull: Callable[[], None] = self._server.pull_trigger
        return pull

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._server.active_channels)

    @property
    def flushed(self) -> bool:
        """Whether all output has been sent to its clients."""
        return not any(channel.total_outbufs_len for channel in self._server.active_channels.values())

    def stop_accepting(self) -> None:
        """Leave new connections to the next process that listens."""
        self._stopped_accepting = True
        self._set_accepting(accepting=False)

    def close(self) -> None:
        """Drop every connection and the listening socket."""
        self._closed = True
        for channel in list(self._server.active_channels.values()):
            channel.handle_close()
        self._server.close()
