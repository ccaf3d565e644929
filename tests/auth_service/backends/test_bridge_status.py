"""What the health check concludes from the status of a bridge."""

from __future__ import annotations

import http.server
import json
import math
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import requests

from auth_service.backends.bridge_status import BridgeStatus, find_status
from auth_service.backends.bridge_status import ask as ask_bridge
from auth_service.settings import Resource

NEVER = math.inf


@pytest.mark.parametrize(
    ("answered", "needed", "failed", "problem"),
    [
        (10, 20, NEVER, None),
        (10, 20, 30, None),
        (NEVER, NEVER, NEVER, None),
        (300, 5, NEVER, None),
        (NEVER, 119, NEVER, None),
        (30, 20, 10, "ended before it answered, 10 s ago"),
        (NEVER, 10, 10, "ended before it answered, 10 s ago"),
        (NEVER, 121, NEVER, "has not answered the client that needed it 121 s ago"),
        (900, 300, NEVER, "has not answered the client that needed it 300 s ago"),
    ],
)
def test_the_newest_that_is_known_decides(answered: float, needed: float, failed: float, problem: str | None) -> None:
    assert BridgeStatus(answered=answered, needed=needed, failed=failed).problem == problem


@pytest.mark.parametrize(
    ("answered", "needed", "failed", "enough"),
    [
        (10, 20, NEVER, True),
        (NEVER, 20, 10, True),
        (NEVER, 300, NEVER, True),
        (3601, 3602, NEVER, False),
        (NEVER, NEVER, 3601, False),
        (NEVER, 10, NEVER, False),
        (NEVER, NEVER, NEVER, False),
    ],
)
def test_a_status_is_enough_until_it_is_old(answered: float, needed: float, failed: float, enough: bool) -> None:
    assert BridgeStatus(answered=answered, needed=needed, failed=failed).says_enough(3600) == enough


class Backend(http.server.BaseHTTPRequestHandler):
    """Answers with what a test says, at one path."""

    answer: ClassVar[tuple[int, bytes]]

    def do_GET(self) -> None:
        status, body = self.answer if self.path == "/statusz" else (404, b"")
        self.send_response(status)
        self.send_header("Location", "/statusz")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Tests say what they need to."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Backend) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/mcp"
        server.shutdown()


def ask(endpoint: str, body: Any, status: int = 200) -> BridgeStatus | None:
    Backend.answer = (status, body if isinstance(body, bytes) else json.dumps(body).encode())
    with requests.Session() as session:
        session.trust_env = False
        return find_status(session, resource_at(endpoint), endpoint, timeout=60)


def resource_at(endpoint: str, **more: Any) -> Resource:
    return Resource(url="https://time.example.com/mcp", backends=(endpoint,), **more)


def test_a_bridges_answer_is_read(endpoint: str) -> None:
    ages = {"answered": 1.5, "needed": 2, "failed": None}
    assert ask(endpoint, {"mcp-stdio-bridge": ages}) == BridgeStatus(answered=1.5, needed=2, failed=math.inf)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"mcp-stdio-bridge": {"answered": 1, "needed": 2, "failed": None}}, 404),
        ({"mcp-stdio-bridge": {"answered": 1, "needed": 2, "failed": None}}, 302),
        ({"mcp-stdio-bridge": {"answered": 1, "needed": 2}}, 200),
        ({"mcp-stdio-bridge": {"answered": -1, "needed": 2, "failed": None}}, 200),
        ({"mcp-stdio-bridge": {"answered": True, "needed": 2, "failed": None}}, 200),
        ({"mcp-stdio-bridge": {"answered": "1", "needed": 2, "failed": None}}, 200),
        (b'{"mcp-stdio-bridge": {"answered": NaN, "needed": 2, "failed": null}}', 200),
        (b'{"mcp-stdio-bridge": {"answered": 1%s, "needed": 2, "failed": null}}' % (b"0" * 400), 200),
        ({"status": "ok"}, 200),
        (b"<html>", 200),
        (b" " * 5000 + b"{}", 200),
        (b"[" * 4000, 200),
    ],
)
def test_what_does_not_answer_as_a_bridge_is_none(endpoint: str, body: Any, status: int) -> None:
    assert ask(endpoint, body, status) is None


def test_what_cannot_be_reached_is_none() -> None:
    with requests.Session() as session:
        assert find_status(session, resource_at(NOWHERE), NOWHERE, timeout=60) is None


NOWHERE = "http://127.0.0.1:1/mcp"
ASLEEP = {"mcp-stdio-bridge": {"answered": None, "needed": None, "failed": None, "asleep": True}}


def test_the_status_service_is_asked_in_place_of_the_bridge_and_knows_that_it_sleeps(endpoint: str) -> None:
    Backend.answer = (200, json.dumps(ASLEEP).encode())
    resource = resource_at(NOWHERE, status_urls={NOWHERE: endpoint.replace("/mcp", "/statusz")})
    with requests.Session() as session:
        session.trust_env = False
        status = find_status(session, resource, NOWHERE, timeout=60)
    assert status == BridgeStatus(answered=NEVER, needed=NEVER, failed=NEVER, asleep=True)
    assert status.says_enough(0)
    assert status.problem is None


@pytest.mark.parametrize("answer", [(503, b"the bridge does not answer"), (200, b"<html>")])
def test_a_status_service_that_knows_of_no_bridge_is_no_other_server(endpoint: str, answer: tuple[int, bytes]) -> None:
    Backend.answer = answer
    resource = resource_at(NOWHERE, status_urls={NOWHERE: endpoint.replace("/mcp", "/statusz")})
    with requests.Session() as session:
        session.trust_env = False
        with pytest.raises(requests.ConnectionError):
            ask_bridge(session, resource, NOWHERE, timeout=60)
