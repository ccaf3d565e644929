"""Gunicorn's connections as subclassed: what the subclass takes for granted of Gunicorn."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from gunicorn.asgi.parser import PythonProtocol
from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.config import Config
from gunicorn.workers import gasgi

from auth_service.worker import Protocol, use_own_connections


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
