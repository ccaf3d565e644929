"""Servers get a request only when the real router has all of it, as an early answer would be cut."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from tests.e2e.router import Router
from tests.peers import oldest_traefik

SMALL = 64 * 1024
WAIT_SECONDS = 60


class Server:
    """Counts what it gets by path, and answers with what it got."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        heads = self.heads

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                heads.append(self.path)
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(int(self.headers.get("X-Answer-With", "200")))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Tests say what they need to."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture(scope="module", params=["backends", "replicas", "on the oldest Traefik"])
def router(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, server: Server
) -> Iterator[Router]:
    url = f"{server.url}/mcp"
    running = Router(
        tmp_path_factory.mktemp("router"),
        {"backends": [url]} if request.param == "backends" else {"replicas": {"a": url}},
        program=oldest_traefik() if request.param == "on the oldest Traefik" else "traefik",
    )
    try:
        running.wait_until(lambda: post(running, "/mcp", b"ready").status_code == 200)
        yield running
    finally:
        running.stop()


def post(router: Router, path: str, body: bytes, *, answer: int = 200) -> requests.Response:
    headers = {"Host": "localhost", "Mcp-Session-Id": "a.1", "X-Answer-With": str(answer)}
    return requests.post(f"http://127.0.0.1:{router.port}{path}", data=body, headers=headers, timeout=WAIT_SECONDS)


def test_a_server_gets_nothing_of_a_request_before_the_router_has_all_of_it(router: Router, server: Server) -> None:
    path = "/mcp/in-two-parts"
    server.heads.clear()
    with socket.create_connection(("127.0.0.1", router.port), timeout=WAIT_SECONDS) as client:
        client.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n\r\nhalf".encode())
        # So that the router has had the time that it takes to pass on a request.
        for _ in range(20):
            assert post(router, "/mcp/other", b"").status_code == 200
        assert path not in server.heads
        client.sendall(b"half")
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert server.heads.count(path) == 1


@pytest.mark.parametrize("size", [0, 1, SMALL, SMALL + 1, SMALL + 2, 20 * SMALL])
def test_a_request_of_any_size_arrives_whole(router: Router, size: int) -> None:
    body = bytes(number % 251 for number in range(size))
    assert post(router, "/mcp", body).content == body


@pytest.mark.parametrize("status", [500, 502, 503, 504, 599])
@pytest.mark.parametrize("size", [10, 2 * SMALL])
def test_no_answer_makes_the_router_send_a_request_again(
    router: Router, server: Server, status: int, size: int
) -> None:
    server.heads.clear()
    assert post(router, "/mcp/once", b"x" * size, answer=status).status_code == status
    assert server.heads == ["/mcp/once"]
