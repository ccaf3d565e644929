"""Our subclass of Gunicorn's connections, and what it relies on in Gunicorn."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.asgi.parser import PythonProtocol
from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.config import Config
from gunicorn.workers import gasgi

from auth_service.app.gunicorn_worker import Protocol, use_own_connections


@pytest.mark.parametrize("parser", ["auto", "python"])
def test_our_connections_read_with_the_parser_that_gunicorns_own_would(
    monkeypatch: pytest.MonkeyPatch, parser: str
) -> None:
    monkeypatch.setattr(gasgi, "ASGIProtocol", ASGIProtocol)
    use_own_connections()
    config = Config()
    config.set("http_parser", parser)
    used = []
    for kind in (gasgi.ASGIProtocol, ASGIProtocol):
        connection = kind(SimpleNamespace(cfg=config, log=None, asgi=None))
        connection._setup_callback_parser()
        used.append(type(connection._callback_parser))
    assert gasgi.ASGIProtocol is Protocol
    assert used[0] is used[1]
    assert parser == "auto" or used[0] is PythonProtocol


def test_the_parser_in_c_is_used_where_it_is_installed() -> None:
    gunicorn_h1c = pytest.importorskip("gunicorn_h1c")
    use_own_connections()
    connection = Protocol(SimpleNamespace(cfg=Config(), log=None, asgi=None))
    connection._setup_callback_parser()
    assert type(connection._callback_parser) is gunicorn_h1c.H1CProtocol


@pytest.mark.parametrize("parser", ["auto", "python"])
@pytest.mark.parametrize("length", [100, 70_000, 300_000])
@pytest.mark.parametrize("piece_length", [50, 65_536])
def test_a_request_that_comes_as_soon_as_its_client_has_an_answer_is_answered(
    parser: str, length: int, piece_length: int
) -> None:
    next_request = b"POST /next HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nX-Long: %s\r\n\r\n" % (b"x" * length)
    config = Config()
    config.set("http_parser", parser)
    config.set("limit_request_field_size", 2_000_000)
    config.set("asgi_disconnect_grace_period", 0)
    paths = []
    pieces = [next_request[start : start + piece_length] for start in range(0, len(next_request), piece_length)]
    last = [pieces.pop()] if len(pieces) > 1 else []

    class Connection(Protocol):
        def _resume_reading(self) -> None:
            # Some event loops read on before they call what was to be called soon.
            if last:
                asyncio.get_running_loop().call_soon(self.data_received, last.pop())
            super()._resume_reading()

    async def serve() -> bytes:
        loop = asyncio.get_running_loop()

        async def application(scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
            paths.append(scope["path"])
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            if scope["path"] == "/first":
                for piece in pieces:
                    connection.data_received(piece)

        log = SimpleNamespace(debug=print, access=lambda *_: None, exception=print, access_log_enabled=False)
        worker = SimpleNamespace(
            cfg=config,
            log=log,
            asgi=application,
            loop=loop,
            connections=set(),
            alive=True,
            nr_conns=0,
            nr=0,
            max_requests=100,
            state={},
        )
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        connection = Connection(worker)
        transport, _ = await loop.connect_accepted_socket(lambda: connection, ours)
        await loop.sock_sendall(theirs, b"POST /first HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
        received = b""
        while received.count(b"HTTP/1.1 200") < 2:
            data = await asyncio.wait_for(loop.sock_recv(theirs, 65_536), 30)
            assert data, "the connection was closed"
            received += data
        theirs.close()
        transport.close()
        await asyncio.wait([connection._task])
        return received

    asyncio.run(serve())
    assert paths == ["/first", "/next"]
