"""A GitHub that takes its time: those who log in wait, and nobody else does."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from flask import Flask, request

from auth_service.app import asgi
from auth_service.idp import connected_service
from auth_service.idp.bounded import MAX_CONCURRENT
from auth_service.oauth.client_lookup import MAX_WAITING
from local import github
from tests.browser import Browser
from tests.e2e.flow import obtain_code

from .conftest import WAIT_SECONDS, Place, eventually


class Gate:
    """Holds back what the stand-in answers to codes."""

    def __init__(self, app: Flask) -> None:
        self.waiting = 0
        self.opened = threading.Event()
        self._lock = threading.Lock()
        app.before_request(self._wait)

    def _wait(self) -> None:
        if request.path == "/login/oauth/access_token":
            with self._lock:
                self.waiting += 1
            self.opened.wait(WAIT_SECONDS)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> list[Gate]:
    """The gate of the stand-in that is made next."""
    gates: list[Gate] = []
    create_app = github.create_app

    def create_gated_app(stand_in: github.StandIn) -> Flask:
        app = create_app(stand_in)
        gates.append(Gate(app))
        return app

    monkeypatch.setattr(github, "create_app", create_gated_app)
    return gates


def test_a_slow_github_holds_those_who_log_in_and_nobody_else(gate: list[Gate], place: Place) -> None:
    service = place.start(workers=1)

    def log_in() -> bool:
        try:
            obtain_code(service.issuer, service.resource, browser=Browser())
        except AssertionError as error:
            assert "does not answer" in str(error)
            return False
        return True

    with ThreadPoolExecutor(asgi.FLASK_THREADS + 4) as pool:
        logins = [pool.submit(log_in) for _ in range(asgi.FLASK_THREADS + 4)]
        try:
            eventually(lambda: gate[0].waiting == MAX_CONCURRENT)
            eventually(lambda: sum(login.done() for login in logins) == len(logins) - MAX_CONCURRENT)
            for path in ("/jwks", "/.well-known/oauth-authorization-server", "/authorize?client_id=x"):
                assert requests.get(service.issuer + path, timeout=60).status_code in {200, 400}
        finally:
            gate[0].opened.set()
        assert [login.result() for login in logins].count(True) == MAX_CONCURRENT
    assert log_in()


def test_there_are_threads_left_when_everything_outside_is_slow() -> None:
    assert asgi.FLASK_THREADS >= MAX_CONCURRENT + MAX_WAITING + connected_service.MAX_CONCURRENT + 4
