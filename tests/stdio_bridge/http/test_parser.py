"""A head that is remembered means what waitress says it means, whatever is in it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waitress.adjustments import Adjustments
from waitress.parser import HTTPRequestParser, ParsingError

from stdio_bridge.http.parser import HttpParser

LINES = st.sampled_from(
    [
        b"Host: a", b"Host: b", b"Accept: x", b"X-Gateway-Identity: one", b"X-Gateway-Identity: two",
        b"X_Gateway_Identity: forged", b"Connection: close", b"Connection: keep-alive", b"Expect: 100-continue",
        b"Content-Length: 4", b"Content-Length: 5", b"content-length: 0", b"Content-Length: 04", b"Content-Length:4",
        b"Content-Length : 4", b"Content-Length: +4", b"Content-Length: 4, 4", b"Content-Length: 4 ", b" folded",
        b"Content-Length: 9999999999", b"Content_Length: 7", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip",
        b"X: \r\tContent-Length: 3", b"X: a\nContent-Length: 3", b": none", b"bad\x00: x",
    ]
)  # fmt: skip
FIRST = st.sampled_from([b"POST /mcp HTTP/1.1", b"POST /mcp?a=b HTTP/1.0", b"GET http://a/mcp HTTP/1.1", b"nonsense"])
BODY = b"4\r\nbody\r\n0\r\n\r\n"


class Reference(HTTPRequestParser):  # type: ignore[misc] # waitress is untyped
    """waitress' parser, stricter about what has two meanings, and about asking for what it refuses."""

    def parse_header(self, header_plus: bytes) -> None:
        super().parse_header(header_plus)
        if "TRANSFER_ENCODING" in self.headers or (self.chunked and "CONTENT_LENGTH" in self.headers):
            raise ParsingError("Transfer-Encoding must stand alone, and in HTTP/1.1")
        if self.content_length >= self.adj.max_request_body_size:
            self.expect_continue = False


def understood(parser: Any, head: bytes) -> dict[str, object]:
    """Return all that came of a request, body included."""
    data = head + BODY
    while data and not parser.completed:
        data = data[parser.received(data) :]
    meaning = {name: value for name, value in vars(parser).items() if name not in {"adj", "body_rcv", "error"}}
    meaning |= {"rest": data, "body": parser.get_body_stream().read(), "error": parser.error and str(parser.error.body)}
    meaning |= {
        name: getattr(parser, name)
        for name in ("chunked", "content_length", "connection_close", "completed", "expect_continue")
    }
    return meaning


@given(FIRST, st.lists(LINES, max_size=5), st.lists(LINES, max_size=5))
@settings(max_examples=400, deadline=None)
def test_a_head_means_the_same_the_first_time_and_every_other_time(
    first: bytes, lines: list[bytes], others: list[bytes]
) -> None:
    adjustments = Adjustments(max_request_body_size=1000)
    # The other one goes before, as what it leaves behind must not matter.
    for one in (others, lines, lines):
        head = b"\r\n".join([first, *one, b"", b""])
        assert understood(HttpParser(adjustments), head) == understood(Reference(adjustments), head)


def test_the_same_head_with_another_length_has_a_body_of_that_length() -> None:
    adjustments = Adjustments()
    for length in (4, 2, 0, 4):
        head = b"POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nAccept: x\r\n\r\n" % length
        meaning = understood(HttpParser(adjustments), head)
        assert meaning["body"] == BODY[:length]
        assert meaning["headers"] == {"HOST": "a", "ACCEPT": "x", "CONTENT_LENGTH": str(length)}


@pytest.mark.parametrize("fold", [b" 0", b"\t0", b" "])
def test_a_length_that_goes_on_in_the_next_line_is_not_one_that_ends_there(fold: bytes) -> None:
    adjustments = Adjustments()
    first, length = b"POST /mcp HTTP/1.1\r\nX: a", b"Content-Length: 4"
    # Without their lengths, the two are the same.
    for lines in ([first, fold, length], [first, length, fold]):
        head = b"\r\n".join([*lines, b"", b""])
        assert understood(HttpParser(adjustments), head) == understood(Reference(adjustments), head)


def test_no_more_is_remembered_than_a_bound() -> None:
    adjustments = Adjustments()
    for number in range(300):
        HttpParser(adjustments).received(b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n" % number)
    assert len(HttpParser._known) <= 128
    HttpParser(adjustments).received(b"POST / HTTP/1.1\r\nX: " + b"x" * 5000 + b"\r\nContent-Length: 1\r\n\r\n")
    assert all(len(head) <= 4096 for head in HttpParser._known)
