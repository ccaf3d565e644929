"""The bridge's own requests: the answers that count, and those that do not."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from typing import NoReturn

import pytest

from local.ports import free_port
from stdio_bridge.io.event_loop import Loop
from stdio_bridge.io.http_post import Answer, InvalidAnswerError, Post, parse_answer


@pytest.mark.parametrize(
    ("received", "answer"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", (200, "2", b"hi")),
        (b"HTTP/1.0 503 \r\ncontent-length:0\r\n\r\n", (503, "0", b"")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi more", (200, "2", b"hi")),
    ],
)
def test_an_answer_is_read_to_the_length_that_it_names(received: bytes, answer: tuple[int, str, bytes]) -> None:
    status, length, body = answer
    expected = Answer(status=status, headers={"content-length": length}, body=body)
    assert parse_answer(received, ended=False) == expected


@pytest.mark.parametrize("received", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh"])
def test_an_answer_that_has_begun_is_waited_for_until_the_connection_ends(received: bytes) -> None:
    assert parse_answer(received, ended=False) is None
    with pytest.raises(InvalidAnswerError):
        parse_answer(received, ended=True)


@pytest.mark.parametrize(
    "received",
    [
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 ok\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 10 + b"\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nhi",
        b"x" * ((1 << 20) + 1),
    ],
)
def test_anything_else_is_no_answer(received: bytes) -> None:
    with pytest.raises(InvalidAnswerError):
        parse_answer(received, ended=False)


def fail_to_open(*_: object) -> NoReturn:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class Site:
    """A loop with a request to a listener whose other side the test plays."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.results: list[Answer | str] = []

    def post(self, body: bytes = b"", *, seconds: float = 60) -> Post:
        url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/path"
        return Post(self.loop, url, body, self.results.append, seconds=seconds, connect_seconds=60)

    def turn(self) -> None:
        self.loop.call_later(0.01, lambda: None)
        self.loop.turn()

    def turn_until_done(self) -> Answer | str:
        for _ in range(3000):
            if self.results:
                return self.results[0]
            self.turn()
        raise AssertionError("there was no result")


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.listener.close()
    assert not len(site.loop)
    site.loop.close()


def test_a_large_request_is_sent_and_its_answer_read(site: Site) -> None:
    body = b"x" * 500_000
    site.post(body)
    received = b""
    site.turn()
    with site.listener.accept()[0] as other:
        other.settimeout(0.05)
        while not received.endswith(body):
            site.turn()
            try:
                received += other.recv(1 << 20)
            except TimeoutError:
                continue
        assert received.startswith(b"POST /path HTTP/1.1\r\nHost: 127.0.0.1:")
        assert b"\r\nContent-Length: 500000\r\n" in received
        other.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        other.sendall(b"hi")
        assert site.turn_until_done() == Answer(status=200, headers={"content-length": "2"}, body=b"hi")


def test_a_connection_that_closes_early_is_told(site: Site) -> None:
    site.post()
    site.turn()
    with site.listener.accept()[0] as other:
        other.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh")
    result = site.turn_until_done()
    assert isinstance(result, str)


def test_a_length_of_thousands_of_digits_is_told(site: Site) -> None:
    site.post()
    site.turn()
    with site.listener.accept()[0] as other:
        other.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n")
        other.shutdown(socket.SHUT_WR)
        assert site.turn_until_done() == "the answer is too large"


def test_without_a_socket_nothing_is_left_to_do(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(socket, "socket", fail_to_open)
        with pytest.raises(OSError, match="Too many open files"):
            site.post(seconds=0)
    site.turn()
    assert site.results == []


def test_a_connection_that_is_refused_is_told(site: Site) -> None:
    Post(site.loop, f"http://127.0.0.1:{free_port()}/path", b"", site.results.append, seconds=60, connect_seconds=60)
    assert site.turn_until_done() == "Connection refused"


def test_an_answer_that_does_not_come_is_given_up(site: Site) -> None:
    site.post(seconds=0.01)
    assert site.turn_until_done() == "no answer within 0 s"


def test_a_host_that_accepts_no_connection_is_given_up_sooner(site: Site) -> None:
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(2):  # fills the queue: the next connection is neither accepted nor refused
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}/path"
        Post(site.loop, url, b"", site.results.append, seconds=60, connect_seconds=0.01)
        assert site.turn_until_done() == "cannot be reached"


def test_what_was_given_up_calls_nobody(site: Site) -> None:
    post = site.post()
    site.turn()
    post.cancel()
    post.cancel()
    with site.listener.accept()[0] as other:
        assert b"".join(iter(lambda: other.recv(1024), b"")).startswith(b"POST ")
    site.turn()
    assert site.results == []
