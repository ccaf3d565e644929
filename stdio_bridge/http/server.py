"""An HTTP server made of waitress, with responses that are written later.

waitress needs a worker thread for every open response. Here the loop's own thread passes each request to the
application, together with a `Response` that any code may complete later, so that an open response takes only a socket
and a few objects. Of waitress 3.0, the channel (channel.py), the task (exchange.py) and the parser (parser.py) are
subclassed; its buffers, server sockets and header writer are used as they are. tests/stdio_bridge/http/test_server.py
checks what this relies on.
"""

from __future__ import annotations

import logging
import math
import select
import socket
import time
from collections.abc import Callable
from typing import Any

import waitress.server

from stdio_bridge.io.event_loop import Loop

from .body_budget import BodyBudget
from .channel import Channel
from .exchange import Headers, Request, Response

log = logging.getLogger(__name__)

_MAINTENANCE_SECONDS = 30.0
_NO_ROOM_SECONDS = 0.5
_UNLIMITED = 1 << 40

Application = Callable[[Request, Response], None]
RenderError = Callable[[str, str], tuple[Headers, bytes]]


class _InlineDispatcher:
    """Takes the place of waitress' thread pool: requests are handled on the loop's thread, in order."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def add_task(self, channel: Channel) -> None:
        self._loop.call_soon(channel.service)


class HttpServer:
    """Serves an application on a socket that already listens or is bound.

    `render_error` makes headers and body for requests that never reach the application, from a status and a text.
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
            # Reading ahead is also how a disconnect is noticed while a request is being answered.
            channel_request_lookahead=1,
            connection_limit=_UNLIMITED,  # it would also count the pipes to servers, which the same loop watches
            max_request_body_size=max_body_bytes + 1,
            max_request_header_size=64 * 1024,
            inbuf_overflow=_UNLIMITED,  # a sandbox may have no place for temporary files
            outbuf_overflow=_UNLIMITED,
            outbuf_high_watermark=_UNLIMITED,  # waitress would block; write_soon drops the connection instead
            recv_bytes=65536,
            log_socket_errors=False,
            ident=None,
            clear_untrusted_proxy_headers=False,
        )
        self._server.channel_class = Channel
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
            # Most likely no descriptor is left. The connection stays in the queue, and trying again at once would keep
            # a core busy.
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
        """A function that wakes the loop, and that signal handlers may call."""
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

    @property
    def is_awaited(self) -> bool:
        """Whether a client is connected, or waits for its connection to be accepted."""
        if self.connections:
            return True
        waiting = select.poll()
        waiting.register(self._server.fileno, select.POLLIN)
        return bool(waiting.poll(0))

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
