"""One HTTP connection: its requests in order, the output that its client has not read, and when it is dropped."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from typing import Any

from waitress.channel import ClientDisconnected, HTTPChannel
from waitress.task import ErrorTask

from .body_budget import SMALL_BYTES
from .exchange import Request, Response, ResponseTask
from .parser import HttpParser

log = logging.getLogger(__name__)

_LINGER_SECONDS = 30.0
# When the unread output of one client passes a multiple of 2 to the power of this, the output of all is checked.
_LOOK_EVERY_BITS = 16
# How long a streamed answer to a large request is delayed: Go's reverse proxy truncates an answer that begins before
# the proxy has read the end of the request (docs/contracts.md, "Why requests are read to their end").
_HOLD_SECONDS = 0.005
# How many rounds of maintenance a request may take to arrive: waitress' own time-out restarts with each byte.
_MAX_ROUNDS_FOR_A_REQUEST = 4


class _RefusalTask(ErrorTask):  # type: ignore[misc] # waitress is untyped
    """Answers requests that the parser refuses (too large, malformed), in the application's form."""

    def __init__(self, channel: Channel, parsed: Any) -> None:
        super().__init__(channel, parsed)
        # A request that cannot be parsed has no version. RFC 9110 §2.5: a response has the server's own version.
        self.version = "1.1"

    def execute(self) -> None:
        refused = self.request.error
        self.status = f"{refused.code} {refused.reason}"
        headers, body = self.channel.server.render_error(self.status, f"{refused.reason}: {refused.body}")
        self.response_headers.extend(headers)
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class Channel(HTTPChannel):  # type: ignore[misc] # waitress is untyped
    """One HTTP connection."""

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
        # There is one thread only; locks of its own would take a kilobyte for each idle connection.
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
        task = ResponseTask(self, parsed)
        task.start()
        self.response = response = Response(task)
        try:
            self.server.application(Request(parsed), response)
        except Exception:
            log.exception("%s %s failed", parsed.command, parsed.path)
            self._fail(response)

    def _hold(self) -> None:
        """Send nothing for a moment. A chunked request does not need this: the proxy has read its end before."""
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
        """Close the connection of a refused request, after its client has had time to read the refusal.

        Closing it with unread input would reset it, and the client would lose the refusal (RFC 9112 §9.6): a client
        with too large a body is still sending most of it.
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

    def finish_response(self, task: ResponseTask) -> None:
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
        """Send what the socket takes, and keep the rest. A client with more unread output than the limit is dropped."""
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
        """Drop a client that takes minutes to send one request, as other clients may need its connection."""
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
        self._map.touch(server_fd)  # the server may accept again
        if response is not None:
            response.disconnected()
