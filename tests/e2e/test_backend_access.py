"""Servers that speak HTTP and let in the gateway alone, by a bearer token or a certificate, behind the real router."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.router import Backend, Router
from tests.internet import Authority

OWN_TOKEN = "the-gateways-own-token"
USERS_TOKEN = "the-users-token"
AS_A_USER = {"Authorization": f"Bearer {USERS_TOKEN}"}
REFUSED = {500, 502}


class SecureBackend:
    """An HTTPS server that answers with the headers that it gets, and the name in the certificate of its client."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                certificate: Any = self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else None
                client = dict(pair[0] for pair in certificate["subject"]) if certificate else {}
                body = json.dumps({**self.headers, "client": client.get("commonName")}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Tests say what they need to."""

        class Server(ThreadingHTTPServer):
            def finish_request(self, request: Any, client_address: Any) -> None:
                try:
                    with context.wrap_socket(request, server_side=True) as secured:
                        super().finish_request(secured, client_address)
                except OSError:
                    pass  # the other side does not believe the certificate, or has none

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"https://localhost:{self._server.server_address[1]}/mcp"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    found = Authority(tmp_path)
    (tmp_path / "ca.pem").write_bytes(found.certificate)
    return found


class Routers:
    """Starts a router in front of one backend, and asks it as a user."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[Router | SecureBackend] = []

    def ask(
        self,
        context: ssl.SSLContext,
        tls: dict[str, str] | None,
        *,
        expected: set[int],
        headers: dict[str, str] | None = None,
    ) -> tuple[dict[str, Any], SecureBackend]:
        """Wait for an answer with such a status; return the answer and the backend."""
        backend = SecureBackend(context)
        self._running.append(backend)
        resource = {"backends": [backend.url]} | ({} if tls is None else {"backend_tls": tls})
        router = Router(self._folder, resource, identity=lambda: headers or {})
        self._running.append(router)
        router.wait_until(lambda: router.get("/mcp", AS_A_USER).status_code in expected)
        answer = router.get("/mcp", AS_A_USER)
        assert answer.status_code in expected
        return json.loads(answer.text) if answer.status_code == 200 else {}, backend

    def stop(self) -> None:
        for each in reversed(self._running):
            each.stop()


@pytest.fixture
def routers(tmp_path: Path) -> Iterator[Routers]:
    running = Routers(tmp_path)
    yield running
    running.stop()


def test_a_backend_with_a_certificate_of_the_authority_gets_requests(
    routers: Routers, authority: Authority, tmp_path: Path
) -> None:
    tls = {"ca_file": str(tmp_path / "ca.pem")}
    got, _ = routers.ask(authority.server_context("localhost"), tls, expected={200})
    assert got["client"] is None
    assert USERS_TOKEN not in json.dumps(got)
    assert "Authorization" not in got


@pytest.mark.parametrize(
    ("host", "days"), [pytest.param("localhost", -1, id="expired"), pytest.param("other.example", 1, id="another name")]
)
def test_a_backend_with_another_certificate_gets_nothing(
    routers: Routers, authority: Authority, tmp_path: Path, host: str, days: int
) -> None:
    tls = {"ca_file": str(tmp_path / "ca.pem")}
    _, backend = routers.ask(authority.server_context(host, days=days), tls, expected=REFUSED)
    assert backend.asked == []


def test_without_an_authority_of_its_own_a_backend_needs_one_that_the_host_trusts(
    routers: Routers, authority: Authority
) -> None:
    _, backend = routers.ask(authority.server_context("localhost"), None, expected=REFUSED)
    assert backend.asked == []


def test_a_backend_of_another_authority_gets_nothing(routers: Routers, authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    _, backend = routers.ask(other.server_context("localhost"), {"ca_file": str(tmp_path / "ca.pem")}, expected=REFUSED)
    assert backend.asked == []


@pytest.mark.parametrize("shown", [True, False])
def test_a_backend_that_asks_for_a_certificate_gets_the_one_of_the_gateway(
    routers: Routers, authority: Authority, tmp_path: Path, shown: bool
) -> None:
    authority.server_context("gateway")
    (file,) = map(str, tmp_path.glob("gateway-*.pem"))
    demanding = authority.server_context("localhost")
    demanding.verify_mode = ssl.CERT_REQUIRED
    demanding.load_verify_locations(cadata=authority.certificate.decode())
    tls = {"ca_file": str(tmp_path / "ca.pem")} | ({"certificate_file": file, "key_file": file} if shown else {})
    got, backend = routers.ask(demanding, tls, expected={200} if shown else REFUSED)
    assert got.get("client") == ("gateway" if shown else None)
    assert bool(backend.asked) == shown


def test_the_gateways_own_token_takes_the_place_of_the_users_and_is_logged_nowhere(
    routers: Routers, authority: Authority, tmp_path: Path
) -> None:
    got, _ = routers.ask(
        authority.server_context("localhost"),
        {"ca_file": str(tmp_path / "ca.pem")},
        expected={200},
        headers={"Authorization": f"Bearer {OWN_TOKEN}"},
    )
    assert got["Authorization"] == f"Bearer {OWN_TOKEN}"
    assert USERS_TOKEN not in json.dumps(got)
    log = (tmp_path / "traefik.log").read_text()
    assert OWN_TOKEN not in log
    assert USERS_TOKEN not in log


def test_an_answer_of_the_router_shows_no_client_the_gateways_own_token(tmp_path: Path) -> None:
    backend = Backend({}, name="server")
    router = Router(
        tmp_path,
        {"backends": [f"{backend.url}/mcp"]},
        identity=lambda: {"Authorization": f"Bearer {OWN_TOKEN}"},
    )
    try:
        router.wait_until(lambda: router.get("/mcp", AS_A_USER).status_code == 200)
        answer = router.get("/mcp", AS_A_USER)
        assert OWN_TOKEN not in answer.text + str(answer.headers)
    finally:
        router.stop()
        backend.stop()
