"""waitress' parser, remembering what heads mean: a client sends the same one again and again, but for its length."""

from __future__ import annotations

import re
from typing import Any

from waitress.buffers import OverflowableBuffer
from waitress.parser import HTTPRequestParser
from waitress.receiver import FixedStreamReceiver

_REMEMBERED = 128
_LONGEST = 4096
# One line as clients write it, without a continuation. Anything else about lengths stays in the head, for waitress to
# judge.
_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]{1,9})(?=\r\n[^ \t]|\Z)", re.IGNORECASE)
# What waitress learns from a head, next to its headers and the length.
_LEARNT = (
    "first_line", "command", "request_uri", "version", "proxy_scheme", "proxy_netloc", "path", "query", "fragment",
    "url_scheme", "connection_close",
)  # fmt: skip


class Parser(HTTPRequestParser):  # type: ignore[misc] # waitress is untyped
    """Parses a head the first time, and repeats what came of it when the same bytes come again.

    Only a head that waitress has accepted is remembered, without its one Content-Length line, and only where that line
    alone says how long the body is. So a second such line, or chunks, are judged by waitress each time.
    """

    _known: dict[bytes, tuple[dict[str, Any], dict[str, str]]] = {}  # noqa: RUF012 - shared by all connections

    def parse_header(self, header_plus: bytes) -> None:
        """Take a whole head. Raises ParsingError."""
        found = _LENGTH.search(header_plus)
        if found is None or len(header_plus) > _LONGEST:
            super().parse_header(header_plus)
            return
        head = header_plus[: found.start()] + header_plus[found.end() :]
        known = self._known.get(head)
        if known is None:
            super().parse_header(header_plus)
            if not (self.chunked or self.expect_continue):
                self._remember(head)
            return
        learnt, headers = known
        self.__dict__.update(learnt)
        digits = found[1].decode("ascii")
        self.headers = {**headers, "CONTENT_LENGTH": digits}
        self.content_length = int(digits)
        if self.content_length:
            self.body_rcv = FixedStreamReceiver(self.content_length, OverflowableBuffer(self.adj.inbuf_overflow))

    def _remember(self, head: bytes) -> None:
        if len(self._known) >= _REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[head] = {name: getattr(self, name) for name in _LEARNT}, dict(self.headers)
