"""Gunicorn's worker, with refusals in the form of our endpoints, and with an immediate end at a reload."""

from __future__ import annotations

import json
import select
from http import HTTPStatus
from typing import Any
from weakref import WeakSet

from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers import gasgi

from auth_service.app.verify.endpoint import PATH_PREFIX

from .responses import json_rpc_error

MAX_HEAD_BYTES = 2 * 1024 * 1024
"""Request line and headers together. Traefik passes on up to a mebibyte and adds to it, so that our limits answer."""
MAX_LINE_BYTES = MAX_HEAD_BYTES // 2 + 64 * 1024
"""The request line, or one header."""
MAX_HEADER_FIELDS = 10_000

_TEXTS = {
    400: "the request is malformed: send it as HTTP/1.1 has it (RFC 9112)",
    414: f"the request line is longer than {MAX_LINE_BYTES} bytes: send less in the URL",
    431: "the headers are too many or too large: send less in them",
    500: "an unexpected error: the operator finds the reason in the log",
    501: "this transfer coding is not supported: send the body with its length, or in chunks",
}
_NOT_ASCII = "the URL has characters that are not ASCII: percent-encode them as UTF-8"


class Protocol(ASGIProtocol):  # type: ignore[misc]  # Gunicorn ships no types
    """A connection. Gunicorn's own refuses in plain text that quotes the request, and has no limit of all headers."""

    def __init__(self, worker: Any) -> None:
        super().__init__(worker)
        self._head_bytes = 0
        # About the request line.
        self._has_line, self._is_ascii = False, True
        self._early_data: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        """Note the connection, and begin."""
        self.worker.connections.add(self)
        super().connection_made(transport)

    def hang_up_if_idle(self) -> None:
        """Close a connection that waits for another request, unless a part of that has arrived."""
        # The timer runs exactly while Gunicorn waits for another request.
        if self._keepalive_handle is None or self._early_data:
            return
        if not _has_data(self.transport.get_extra_info("socket").fileno()):
            self._keepalive_timeout()

    def data_received(self, data: bytes) -> None:
        """Pass data on, unless the head of the request is too large.

        A client that has its answer may send its next request before Gunicorn's parser is ready for it. Gunicorn keeps
        only 64 KiB of such a request, and closes the connection without an answer if there is more.
        """
        is_early = self._body_receiver is not None and self._body_receiver._complete
        if is_early or self._early_data:  # uvloop may read more before it calls `_take_early_data`
            self._early_data.append(data)
            if is_early:
                self._pause_reading()
            return
        if self._current_request is None:
            self._head_bytes += len(data)
            if not self._has_line:
                line, end, _ = data.partition(b"\n")
                self._is_ascii = self._is_ascii and line.isascii()
                self._has_line = bool(end)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._send_error_response(431, "")
                self._close_transport()
                return
        super().data_received(data)

    def _resume_reading(self) -> None:
        super()._resume_reading()
        if self._early_data:
            # Gunicorn makes its parser ready after this call.
            self.worker.loop.call_soon(self._take_early_data)

    def _take_early_data(self) -> None:
        early, self._early_data = self._early_data, []
        for data in early:
            if not self._closed:
                self.data_received(data)

    def _on_headers_complete(self) -> Any:
        self._head_bytes = 0
        result = super()._on_headers_complete()
        self._has_line, self._is_ascii = False, True
        return result

    def _send_error_response(self, status: int, message: str, extra_headers: Any = ()) -> None:
        text = _TEXTS.get(status, _TEXTS[400])
        if status == 400 and not self._is_ascii:
            text = _NOT_ASCII
        path = getattr(self._callback_parser, "path", None)
        if isinstance(path, bytes) and path.startswith(PATH_PREFIX.encode()):
            body = json_rpc_error(status, text)
        else:
            error = "server_error" if status == 500 else "invalid_request"
            body = json.dumps({"error": error, "error_description": text}).encode()
        headers = {
            "Content-Type": "application/json",
            "Content-Length": len(body),
            "Cache-Control": "no-store",
            "Access-Control-Allow-Origin": "*",
            "Connection": "close",
            **dict(extra_headers),
        }
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        self._safe_write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)


class Worker(gasgi.ASGIWorker):  # type: ignore[misc]  # Gunicorn ships no types
    """A worker with our connections, for which Gunicorn has no setting.

    After a reload, Gunicorn's own worker would take connections for up to a second more, and answer one more request on
    each open one, by settings that are no longer in force.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connections: WeakSet[Protocol] = WeakSet()

    def handle_exit_signal(self) -> None:
        """Take no more connections, and close those without a request."""
        super().handle_exit_signal()
        for server in self.servers:
            server.close()
        for connection in list(self.connections):
            connection.hang_up_if_idle()
        self.app.leave()

    def init_process(self) -> None:
        """Serve until the worker is to end."""
        use_own_connections()
        super().init_process()


def _has_data(connection: int) -> bool:
    """Whether the connection has unread data, or its end."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def use_own_connections() -> None:
    """Make Gunicorn's worker use our class of connections."""
    # Gunicorn writes whether its parser in C is there into the class that asks first, and reads it from its own.
    ASGIProtocol._check_h1c_protocol_available()
    gasgi.ASGIProtocol = Protocol
