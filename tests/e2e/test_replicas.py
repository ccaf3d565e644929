"""Several replicas of a server behind the real router: who gets which request, and what a death costs."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter

from auth_service.routes import dynamic_configuration
from auth_service.settings import Settings
from local.options import require_program
from tests.e2e.conftest import free_port

WAIT_SECONDS = 20
HERE = ("127.0.0.1",)
ADDRESSES = tuple(f"127.0.0.{last}" for last in range(2, 34))


class Backend:
    """An HTTP server that says who it is; one that takes part in a round can be killed and come back."""

    def __init__(self, answers: dict[str, str], *, name: str, port: int = 0) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = answers.get(self.path, name).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Tests say what they need to."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Router:
    """Traefik in front of two replicas; `/verify` lets everything pass."""

    def __init__(self, folder: Path, replicas: dict[str, Backend]) -> None:
        self.port = free_port()
        url = f"http://localhost:{self.port}"
        answers: dict[str, str] = {}
        self._auth = Backend(answers, name="auth")
        settings = {
            "issuer": url,
            "identity_provider": {"type": "github", "client_id": "x"},
            "redis_url": "unix:///unused",
            "state_directory": "/unused",
            "internal_url": self._auth.url,
            "router": {"entry_points": ["web"]},
            "resources": {
                "time": {"url": f"{url}/mcp", "replicas": {name: f"{each.url}/mcp" for name, each in replicas.items()}}
            },
        }
        answers["/routes"] = json.dumps(dynamic_configuration(Settings.model_validate(settings)))
        static = {
            "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
            "entryPoints": {"web": {"address": f"127.0.0.1:{self.port}"}},
            "providers": {"http": {"endpoint": f"{self._auth.url}/routes", "pollInterval": "1s"}},
        }
        configuration = folder / "traefik.json"
        configuration.write_text(json.dumps(static))
        program = require_program("traefik", needed_by="this test")
        self._log = (folder / "traefik.log").open("w+")
        self._process = subprocess.Popen([program, f"--configFile={configuration}"], stdout=self._log, stderr=self._log)

    def ask(self, *, session: str | None = None, address: str = "127.0.0.1") -> tuple[int, str]:
        """Return the status, and the name of the replica that answered a client at this address."""
        with requests.Session() as client:
            client.mount("http://", _From(address))
            headers = {} if session is None else {"Mcp-Session-Id": session}
            answer = client.get(
                f"http://127.0.0.1:{self.port}/mcp", headers={"Host": "localhost", **headers}, timeout=5
            )
        return answer.status_code, answer.text

    def wait_for(self, expected: tuple[int, str], *, session: str | None, addresses: tuple[str, ...] = HERE) -> None:
        """Ask until this is the answer from each address."""
        deadline = time.monotonic() + WAIT_SECONDS
        answers: set[tuple[int, str]] = set()
        while time.monotonic() < deadline:
            with contextlib.suppress(requests.ConnectionError):
                answers = {self.ask(session=session, address=address) for address in addresses}
                if answers == {expected}:
                    return
            time.sleep(0.05)
        self._log.seek(0)
        raise AssertionError(f"last answers: {answers}\n{self._log.read()[-3000:]}")

    def stop(self) -> None:
        """End Traefik and what it asks."""
        self._process.terminate()
        self._process.wait(10)
        self._log.close()
        self._auth.stop()


class _From(HTTPAdapter):
    """Connects from an address of one's choice."""

    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, source_address=(self._address, 0), **options)


@pytest.fixture(scope="module")
def replicas() -> Iterator[dict[str, Backend]]:
    running = {name: Backend({}, name=name) for name in ("a", "b")}
    yield running
    for replica in running.values():
        replica.stop()


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory, replicas: dict[str, Backend]) -> Iterator[Router]:
    running = Router(tmp_path_factory.mktemp("router"), replicas)
    try:
        running.wait_for((200, "a"), session="a.1")
        yield running
    finally:
        running.stop()


def test_a_session_stays_on_its_replica(router: Router) -> None:
    for _ in range(5):
        assert router.ask(session="a.secret") == (200, "a")
        assert router.ask(session="b.secret") == (200, "b")


def test_requests_without_a_session_are_spread_over_the_replicas_by_the_clients_address(router: Router) -> None:
    answers = {address: router.ask(address=address) for address in ADDRESSES}
    assert set(answers.values()) == {(200, "a"), (200, "b")}
    assert all(router.ask(address=address) == answer for address, answer in answers.items())


@pytest.mark.parametrize("session", ["c.unknown", "ab.x", "a", "", "A.x", "x-a.x"])
def test_a_session_of_no_replica_goes_to_any(router: Router, session: str) -> None:
    status, name = router.ask(session=session)
    assert status == 200
    assert name in {"a", "b"}


def test_a_replica_that_dies_costs_only_its_own_sessions(router: Router, replicas: dict[str, Backend]) -> None:
    port = replicas["a"].port
    replicas["a"].stop()
    # Another replica answers for it, so that the client hears that its session is gone.
    router.wait_for((200, "b"), session="a.1")
    router.wait_for((200, "b"), session=None, addresses=ADDRESSES)
    assert router.ask(session="b.1") == (200, "b")
    replicas["a"] = Backend({}, name="a", port=port)
    router.wait_for((200, "a"), session="a.1")
