"""Clients that send a request slowly, or never to its end: they hold up nobody else."""

from __future__ import annotations

import asyncio
import http.client
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from auth_service.app import asgi
from auth_service.protocol.parameters import MAX_BODY_BYTES
from auth_service.settings import Credentials, Settings

from .conftest import WAIT_SECONDS, Place

HEAD = (
    "POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    "Content-Length: {}\r\n\r\n"
)


def test_bodies_that_never_come_hold_up_nobody_and_one_that_comes_in_pieces_is_read(place: Place) -> None:
    service = place.start(workers=1)
    with ExitStack() as stack:
        address = ("127.0.0.1", service.port)
        connections = [
            stack.enter_context(socket.create_connection(address, WAIT_SECONDS)) for _ in range(asgi.FLASK_THREADS)
        ]
        for connection in connections:
            connection.sendall(HEAD.format(20).encode() + b"grant_type=")
        quick = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        for _ in range(3):
            quick.request("GET", "/jwks")
            with quick.getresponse() as answer:
                assert answer.status == 200
                answer.read()
        quick.close()
        connections[-1].sendall(b"nonsense&")
        with http.client.HTTPResponse(connections[-1]) as answer:
            answer.begin()
            assert b"unsupported_grant_type" in answer.read()


def test_a_body_that_is_too_large_is_refused(place: Place) -> None:
    service = place.start(workers=1)
    assert service.post("/token", {"grant_type": "x" * MAX_BODY_BYTES}).status_code == 413


def test_a_client_that_sends_too_slowly_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "BODY_SECONDS", 0)
    settings = Settings.model_validate(
        {
            "issuer": "https://auth.example.com",
            "identity_provider": {"type": "github", "client_id": "app"},
            "allowed": {"users": ["octocat"]},
            "redis_url": "redis://127.0.0.1:1",
            "state_directory": str(tmp_path),
            "router": {"entry_points": ["web"]},
            "resources": {"time": {"url": "https://time.example.com/mcp", "backends": ["http://127.0.0.1:1/mcp"]}},
        }
    )
    application = asgi.Application(settings, Credentials(client_secret="s", master_key=b"m" * 32))
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "path": "/token",
        "query_string": b"",
        "method": "POST",
        "headers": [],
    }
    asyncio.run(application(scope, receive, send))
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]
