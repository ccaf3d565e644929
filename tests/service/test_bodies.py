"""Bodies in every framing at Gunicorn itself: read whole, within their limit, and never waited for without end."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket

import pytest

from auth_service.app import asgi, gunicorn_worker
from auth_service.protocol.parameters import MAX_BODY_BYTES
from tests.e2e.framings import Chunked, walk_through

from .conftest import WAIT_SECONDS, Service

FORM = "application/x-www-form-urlencoded"
METADATA = json.dumps({"redirect_uris": ["http://127.0.0.1/callback"], "token_endpoint_auth_method": "none"}).encode()
ENDPOINTS = {
    "/token": FORM,
    "/revoke": FORM,
    "/introspect": FORM,
    "/register": "application/json",
    "/consent": FORM,
    "/provide": FORM,
    "/account": FORM,
}


def send(service: Service, head: str, *pieces: bytes) -> tuple[http.client.HTTPResponse, bytes]:
    """Send a request piece by piece and return its answer."""
    with socket.create_connection(("127.0.0.1", service.port), WAIT_SECONDS) as connection:
        with contextlib.suppress(ConnectionError):  # a refusal may come before the end
            connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
            for piece in pieces:
                connection.sendall(piece)
        with http.client.HTTPResponse(connection) as answer:
            answer.begin()
            return answer, answer.read()


def head(path: str, media_type: str, framing: str = "Transfer-Encoding: chunked") -> str:
    return f"POST {path} HTTP/1.1\nHost: localhost\nContent-Type: {media_type}\n{framing}"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def test_every_endpoint_reads_a_body_in_chunks(service: Service) -> None:
    walk_through(service.issuer, service.resource, Chunked())


@pytest.mark.parametrize(
    "pieces",
    [
        (chunk(METADATA), b"0\r\n\r\n"),
        (*(chunk(METADATA[index : index + 1]) for index in range(len(METADATA))), b"0\r\n\r\n"),
        (chunk(METADATA), b"0\r\nX-Trailer: x\r\n\r\n"),
        tuple(bytes([byte]) for byte in chunk(METADATA) + b"0\r\n\r\n"),
    ],
    ids=["one", "a byte each", "with a trailer", "sent byte by byte"],
)
def test_chunks_of_any_size_make_one_body(service: Service, pieces: tuple[bytes, ...]) -> None:
    answer, body = send(service, head("/register", "application/json"), *pieces)
    assert answer.status == 201, body


def test_a_body_in_chunks_may_be_as_large_as_one_with_a_length_and_no_larger(service: Service) -> None:
    padding = b" " * (MAX_BODY_BYTES - len(METADATA))
    answer, _ = send(service, head("/register", "application/json"), chunk(METADATA + padding), b"0\r\n\r\n")
    assert answer.status == 201
    answer, _ = send(service, head("/register", "application/json"), chunk(METADATA + padding + b" "), b"0\r\n\r\n")
    assert answer.status == 413


@pytest.mark.parametrize(("path", "media_type"), ENDPOINTS.items(), ids=list(ENDPOINTS))
@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_what_is_too_large_is_read_to_its_end_and_refused_in_the_endpoints_form(
    service: Service, path: str, media_type: str, framing: str
) -> None:
    body = b"x" * (MAX_BODY_BYTES + asgi.DISCARDED_BYTES)
    if framing == "chunked":
        pieces = [chunk(body[start : start + 10_000]) for start in range(0, len(body), 10_000)] + [b"0\r\n\r\n"]
        answer, text = send(service, head(path, media_type), *pieces)
    else:
        answer, text = send(service, head(path, media_type, f"Content-Length: {len(body)}"), body)
    assert answer.status == 413
    if path in {"/consent", "/provide", "/account"}:
        assert answer.getheader("Content-Type") == "text/html; charset=utf-8"
    else:
        assert json.loads(text)["error"] in {"invalid_request", "invalid_client_metadata"}


def test_a_body_without_end_is_refused_before_it_ends(service: Service) -> None:
    pieces = [chunk(b"x" * 65_536)] * (2 + (MAX_BODY_BYTES + asgi.DISCARDED_BYTES) // 65_536)
    answer, _ = send(service, head("/token", FORM), *pieces)
    assert answer.status == 413


@pytest.mark.parametrize("pieces", [(b"x\r\nx\r\n",), (b"-1\r\nx\r\n",), (b"5\r\nxxxxxx\r\n",)])
def test_malformed_chunks_are_refused(service: Service, pieces: tuple[bytes, ...]) -> None:
    answer, _ = send(service, head("/token", FORM), *pieces)
    assert answer.status == 400


def test_two_framings_at_once_are_refused(service: Service) -> None:
    answer, _ = send(service, head("/token", FORM) + "\nContent-Length: 5")
    assert answer.status == 400


@pytest.mark.parametrize(
    ("request_line", "headers", "status"),
    [
        ("GE T /token HTTP/1.1", "", 400),
        ("GET token HTTP/1.1", "", 400),
        ("GET /token HTTP/9.9", "", 400),
        ("get /token HTTP/1.1", "", 400),
        ("GET /token?\u00ff HTTP/1.1", "", 400),
        ("GET /token HTTP/1.1", "No colon\n", 400),
        ("GET /token HTTP/1.1", "Spaced : x\n", 400),
        ("POST /token HTTP/1.1", "Transfer-Encoding: gzip\n", 501),
        ("GET /token?" + "x" * 40_000 + " HTTP/1.1", "", 414),
        ("GET /token?" + "x" * (gunicorn_worker.MAX_LINE_BYTES + 1), "", 414),
        ("GET /token HTTP/1.1", "X: " + "x" * 70_000 + "\n", 431),
        ("GET /token HTTP/1.1", "X: x\n" * (gunicorn_worker.MAX_HEADER_FIELDS + 1), 431),
        ("GET /token HTTP/1.1", ("X: " + "x" * 500_000 + "\n") * 5, 431),
    ],
)
def test_what_gunicorn_refuses_itself_has_the_form_of_an_endpoint_of_programs(
    service: Service, request_line: str, headers: str, status: int
) -> None:
    lines = f"{request_line}\nHost: localhost\n{headers}".rstrip("\n")
    with socket.create_connection(("127.0.0.1", service.port), WAIT_SECONDS) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(lines.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n")
        with http.client.HTTPResponse(connection) as answer:
            answer.begin()
            text = answer.read()
    assert answer.status in ({400, 501} if status == 501 else {status})
    assert answer.getheader("Content-Type") == "application/json"
    assert answer.getheader("Access-Control-Allow-Origin") == "*"
    document = json.loads(text)
    assert document["error"] == "invalid_request"
    assert document["error_description"]
    assert ("percent-encode" in document["error_description"]) == (not request_line.isascii())
    assert "xxx" not in text.decode()


def test_a_connection_may_carry_more_in_all_its_heads_than_in_one(service: Service) -> None:
    quick = http.client.HTTPConnection("127.0.0.1", service.port, timeout=WAIT_SECONDS)
    for _ in range(2 * gunicorn_worker.MAX_HEAD_BYTES // 60_000):
        quick.request("GET", "/jwks", headers={"X-Padding": "x" * 60_000})
        with quick.getresponse() as answer:
            assert answer.status == 200
            answer.read()
    quick.close()
