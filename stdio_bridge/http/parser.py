"""waitress' parser with a cache of parsed heads, as clients send the same head again and again, except for the length.

It also refuses requests that, by their head, are too large or ambiguous.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from waitress.buffers import OverflowableBuffer
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.receiver import ChunkedReceiver, FixedStreamReceiver
from waitress.utilities import Error

from .body_budget import SMALL_BYTES

_REMEMBERED = 128
_LONGEST = 4096
# The line as clients write it, without a continuation. Every other form of a length stays in the head, and waitress
# decides about it.
_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]{1,9})(?=\r\n[^ \t]|\Z)", re.IGNORECASE)
# What waitress parses from a head, besides the headers and the length.
_PARSED = (
    "first_line", "command", "request_uri", "version", "proxy_scheme", "proxy_netloc", "path", "query", "fragment",
    "url_scheme", "connection_close",
)  # fmt: skip


@functools.lru_cache(256)
def _normal_name(name: str) -> str:
    return name.replace("_", "-").lower()


def normal_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers with names in lower case, such as `mcp-method`, from waitress' form, such as `MCP_METHOD`.

    The parser drops headers whose names contain an underscore, so none can stand in for another header.
    """
    return {_normal_name(name): value for name, value in headers.items()}


class Busy(Error):  # type: ignore[misc] # waitress is untyped
    """Too many large requests are being read or answered now."""

    code = 503
    reason = "Service Unavailable"


class HttpParser(HTTPRequestParser):  # type: ignore[misc] # waitress is untyped
    """Parses a head the first time, and reuses the result for the same bytes.

    It remembers a head only if waitress has accepted it, and if one Content-Length line alone gives the length of the
    body; it leaves that line out. So waitress itself decides about a second such line, or chunks, each time.
    """

    _known: dict[bytes, tuple[dict[str, Any], dict[str, str]]] = {}  # noqa: RUF012 - shared by all connections
    error: Error | None
    expect_continue: bool
    _owner: Hashable = None
    _room = 0

    def parse_header(self, header_plus: bytes) -> None:
        """Take a whole head. Raises ParsingError."""
        found = _LENGTH.search(header_plus)
        if found is None or len(header_plus) > _LONGEST:
            self._parse_unknown(header_plus)
            return
        head = header_plus[: found.start()] + header_plus[found.end() :]
        known = self._known.get(head)
        if known is None:
            self._parse_unknown(header_plus)
            if not (self.chunked or self.expect_continue):
                self._remember(head)
            return
        parsed, headers = known
        self.__dict__.update(parsed)
        digits = found[1].decode("ascii")
        self.headers = {**headers, "CONTENT_LENGTH": digits}
        self.content_length = int(digits)
        if self.content_length:
            self.body_rcv = FixedStreamReceiver(self.content_length, OverflowableBuffer(self.adj.inbuf_overflow))
            if self.content_length > SMALL_BYTES:
                self._take_room_for_all()

    def _parse_unknown(self, header_plus: bytes) -> None:
        super().parse_header(header_plus)
        # "ought to be handled as an error": a proxy in front may have used the other header (RFC 9112 §6.3). waitress
        # removes Transfer-Encoding where it understands it, which is not the case in HTTP/1.0.
        if "TRANSFER_ENCODING" in self.headers or (self.chunked and "CONTENT_LENGTH" in self.headers):
            raise ParsingError("Transfer-Encoding must stand alone, and in HTTP/1.1")
        if self.chunked:
            self.body_rcv = _CountedChunks(self.body_rcv.getbuf(), self._take_room)
        elif self.content_length > SMALL_BYTES:
            self._take_room_for_all()

    def _take_room_for_all(self) -> None:
        if self.content_length >= self.adj.max_request_body_size:
            # waitress refuses the request. It must not ask for the body before.
            self.expect_continue = False
        elif not self._take_room(self.content_length):
            self.error = _busy()
            self.content_length = 0
            self.body_rcv = None
            self.expect_continue = False

    def _take_room(self, size: int) -> bool:
        """Reserve room for a body of that size, until the request is answered."""
        body_budget = self.adj.body_budget
        if not self._room:
            self._owner = body_budget.owner_of(normal_headers(self.headers))
        if not body_budget.take(self._owner, size - self._room):
            return False
        self._room = size
        return True

    def take_body(self) -> bytes:
        """Return the body, and release it."""
        body: bytes = self.get_body_stream().read()
        super().close()
        self.body_rcv = None
        return body

    def close(self) -> None:
        """Release what the request holds: it is answered, or never will be."""
        super().close()
        if self._room:
            self.adj.body_budget.give_back(self._owner, self._room)
            self._room = 0

    def _remember(self, head: bytes) -> None:
        if len(self._known) >= _REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[head] = {name: getattr(self, name) for name in _PARSED}, dict(self.headers)


class _CountedChunks(ChunkedReceiver):  # type: ignore[misc] # waitress is untyped
    """Reads chunks as long as there is room for all of them together."""

    error: Error | None

    def __init__(self, buffer: Any, take_room: Callable[[int], bool]) -> None:
        super().__init__(buffer)
        self._take_room = take_room

    def received(self, data: bytes) -> int:
        """Take bytes off the connection. Returns how many were the body's."""
        consumed: int = super().received(data)
        size = len(self)
        if size > SMALL_BYTES and not self.error and not self._take_room(size):
            self.error = _busy()
        return consumed


def _busy() -> Busy:
    """Return the error for a body that there is no room for."""
    return Busy("too many large requests are being answered")
