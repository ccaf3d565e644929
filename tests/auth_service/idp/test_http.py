"""Requests to an identity provider: an answer that is late or incomplete does not count."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from auth_service.idp import http
from auth_service.protocol.errors import ServiceUnavailable
from tests import internet

Answer = Callable[[socket.socket], None]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


class Peer:
    """A server on loopback that answers each request on each connection in turn."""

    def __init__(self) -> None:
        self.answer: Answer = whole
        self.connections: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(60)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,), daemon=True))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while connection.recv(65536):
                self.answer(connection)


def whole(connection: socket.socket) -> None:
    connection.sendall(HEAD + b'Content-Length: 11\r\n\r\n{"login":1}')


def drip(start: bytes, again: bytes) -> Answer:
    """Return an answer that never ends, some bytes each 20 ms."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            time.sleep(0.02)
            connection.sendall(again)

    return answer


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


def ask(session: http.Session, peer: Peer) -> object:
    return http.call(session, "GET", peer.url, provider="Test").document()


def test_answers_that_come_in_time_are_read_over_one_connection(peer: Peer) -> None:
    with http.Session() as session:
        assert [ask(session, peer) for _ in range(3)] == [{"login": 1}] * 3
    assert len(peer.connections) == 1


@pytest.mark.parametrize(
    "answer",
    [
        drip(b"", b"H"),
        drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        drip(HEAD + b"X: y", b"y"),
        drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        drip(HEAD + b"Content-Length: 5000\r\n\r\n", b" "),
        drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        drip(HEAD + b"\r\n{}", b" "),  # whole, if one took the cut for its end
    ],
)
def test_an_answer_that_only_drips_is_cut_off(peer: Peer, answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SESSION_SECONDS", 0.3)
    peer.answer = answer
    began = time.monotonic()
    with http.Session() as session, pytest.raises(ServiceUnavailable):
        ask(session, peer)
    assert time.monotonic() - began >= 0.3


def test_all_that_one_session_asks_has_one_time_together(peer: Peer) -> None:
    with http.Session(seconds=60) as session:
        assert ask(session, peer) == {"login": 1}
        with http.Session(seconds=600) as inner:
            assert inner.until == session.until
            assert ask(inner, peer) == {"login": 1}
    with http.Session(seconds=0.3) as session:
        peer.answer = drip(b"", b"H")
        with http.Session(seconds=600) as inner, pytest.raises(ServiceUnavailable):
            ask(inner, peer)
        peer.answer = whole
        with pytest.raises(ServiceUnavailable):
            ask(session, peer)
    with http.Session() as session:
        assert ask(session, peer) == {"login": 1}


def test_an_answer_that_only_drips_through_tls_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SESSION_SECONDS", 0.5)
    with internet.internet(tmp_path, "localhost") as net:
        bundle = tmp_path / "authority.pem"
        bundle.write_bytes(net.authority.certificate)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
        url = f"https://localhost:{net.port}/"
        net.pages["/"] = internet.respond_json({"login": 1})
        with http.Session() as session:
            assert http.call(session, "GET", url, provider="Test").document() == {"login": 1}
        net.pages["/"] = internet.drip(HEAD + b"\r\n{} ")
        began = time.monotonic()
        with http.Session() as session, pytest.raises(ServiceUnavailable):
            http.call(session, "GET", url, provider="Test")
        assert time.monotonic() - began >= 0.5
