"""What the home page says of servers: whether they answer, without asking too often or for too long."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from auth_service.backends.server_states import ServerStates, State
from auth_service.settings import Resource


class Backend:
    """A server that answers what it is told."""

    def __init__(self) -> None:
        self.answer: tuple[int, bytes] = (404, b"")
        self.asked = 0
        backend = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                backend.asked += 1
                status, body = backend.answer
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/mcp"

    def report(self, **ages: float | None) -> None:
        """Answer as a bridge does."""
        members = {"answered": None, "needed": None, "failed": None} | ages
        self.answer = (200, json.dumps({"mcp-stdio-bridge": members}).encode())

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def backend() -> Iterator[Backend]:
    made = Backend()
    yield made
    made.close()


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"


@pytest.fixture
def refusing() -> Iterator[str]:
    """The URL of a server that is down."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/mcp"


def states_of(*backends: str) -> dict[str, State]:
    return ServerStates({"x": Resource(url="https://x.example.com/mcp", backends=backends)}).find(["x"])


def test_a_bridge_that_has_nothing_to_complain_of_answers(backend: Backend) -> None:
    for ages in ({}, {"answered": 3.0}, {"answered": 3.0, "failed": 9.0}, {"needed": 2.0}):
        backend.report(**ages)
        assert states_of(backend.url) == {"x": State.ANSWERS}


def test_a_bridge_that_sleeps_is_fine_and_one_that_its_status_service_cannot_reach_is_silent(
    backend: Backend, refusing: str
) -> None:
    def state() -> dict[str, State]:
        status_urls = {refusing: backend.url.replace("/mcp", "/mcp-bridge-x/statusz")}
        resource = Resource(url="https://x.example.com/mcp", backends=(refusing,), status_urls=status_urls)
        return ServerStates({"x": resource}).find(["x"])

    backend.answer = (200, ASLEEP)
    assert state() == {"x": State.ASLEEP}
    backend.answer = (503, b"")
    assert state() == {"x": State.SILENT}


ASLEEP = b'{"mcp-stdio-bridge": {"answered": null, "needed": null, "failed": null, "asleep": true}}'


def test_a_server_that_failed_at_its_last_use_is_failing(backend: Backend) -> None:
    backend.report(answered=9.0, failed=3.0)
    assert states_of(backend.url) == {"x": State.FAILING}


@pytest.mark.parametrize("answer", [(404, b""), (500, b"oops"), (200, b"<html>"), (200, b"[" * 5000)])
def test_another_server_than_a_bridge_answers_in_its_own_way(backend: Backend, answer: tuple[int, bytes]) -> None:
    backend.answer = answer
    assert states_of(backend.url) == {"x": State.ANSWERS}


def test_a_server_that_is_down_or_hangs_is_silent(refusing: str, silent: str) -> None:
    assert states_of(refusing) == {"x": State.SILENT}
    assert states_of(silent) == {"x": State.SILENT}


def test_one_replica_that_answers_is_enough(backend: Backend, refusing: str) -> None:
    backend.report(answered=1.0)
    assert states_of(refusing, backend.url) == {"x": State.ANSWERS}


def test_a_server_is_not_asked_again_at_each_look(backend: Backend) -> None:
    states = ServerStates({"x": Resource(url="https://x.example.com/mcp", backends=(backend.url,))})
    for _ in range(5):
        assert states.find(["x"]) == {"x": State.ANSWERS}
    assert backend.asked == 1
