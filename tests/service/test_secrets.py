"""No secret is in any log, at any level: everything that crossed a wire is looked for in everything that was logged."""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
import redis
import requests
from flask import Flask
from flask import Response as FlaskResponse

from auth_service.ops import logs
from auth_service.settings import Credentials
from local import github
from tests.browser import Browser, Form
from tests.e2e.flow import REDIRECT_URI, log_in, obtain_code, refresh

from .conftest import Place, Service, forward_auth_headers

SECRET_PARAMETERS = {
    *("code", "state", "code_verifier", "refresh_token", "access_token", "client_secret", "token", "ticket"),
    *("client_assertion", "registration_access_token", "csrf"),
}
MASTER_KEY = b"m" * 40
PURPOSES = ("identity-key:time", "introspection-key:time", "refresh-token", "ticket", "upstream-token")


class Wire:
    """Collects every secret that this process sends or receives, by where it was seen."""

    def __init__(self) -> None:
        self.secrets: dict[str, set[str]] = {}

    def watch(self, response: requests.Response) -> None:
        """Take note of an exchange."""
        request = response.request
        self._query("query", urlsplit(request.url or "").query)
        body = request.body.decode() if isinstance(request.body, bytes) else str(request.body or "")
        self._query("form", body)
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        self.add(f"authorization {scheme}", credentials)
        for cookie in request.headers.get("Cookie", "").split("; "):
            self.add("cookie", cookie.partition("=")[2])
        self._query("location", urlsplit(response.headers.get("Location", "")).query)
        document: Any = None
        if "json" in response.headers.get("Content-Type", ""):
            with contextlib.suppress(ValueError):
                document = response.json()
            for name in SECRET_PARAMETERS & (document.keys() if isinstance(document, dict) else set()):
                self.add(f"answer {name}", str(document[name]))

    def _query(self, where: str, text: str) -> None:
        for name, value in parse_qsl(text):
            if name in SECRET_PARAMETERS:
                self.add(f"{where} {name}", value)

    def add(self, where: str, value: str) -> None:
        """Take note of one secret."""
        # Made-up values such as "the state" are too short, and of no worth.
        if len(value) >= 16:
            self.secrets.setdefault(where, set()).add(value)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    """Every request of this process, and the tokens that the stand-in GitHub in it gives to the service."""
    wire = Wire()
    send = requests.Session.send

    def watched(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        response = send(session, request, **options)
        wire.watch(response)
        return response

    monkeypatch.setattr(requests.Session, "send", watched)
    create_app = github.create_app

    def watched_stand_in(stand_in: github.StandIn) -> Flask:
        app = create_app(stand_in)

        @app.after_request
        def watch(response: FlaskResponse) -> FlaskResponse:
            body = response.get_json(silent=True)
            if isinstance(body, dict) and "access_token" in body:
                wire.add("upstream token", body["access_token"])
            return response

        return app

    monkeypatch.setattr(github, "create_app", watched_stand_in)
    return wire


@pytest.fixture
def debugging(wire: Wire, place: Place) -> Service:
    """A service that logs all that it can, and keeps the identity provider's tokens to ask about memberships."""
    return place.start(workers=2, log_level="debug", allowed={"organizations": ["acme"]})


def test_nothing_secret_that_crosses_a_wire_is_in_the_log(wire: Wire, place: Place, debugging: Service) -> None:
    service = debugging
    use_everything(service)
    with redis.Redis.from_url(place.redis.url, decode_responses=True) as client:
        for key in client.scan_iter(match="login-of-user:*"):
            wire.add("sealed token", str(client.get(key)))
    misuse_everything(service, place)
    for purpose in PURPOSES:
        wire.add("derived key", Credentials(client_secret="", master_key=MASTER_KEY).derive_key(purpose).decode())
    wire.add("master key", MASTER_KEY.decode())
    wire.add("client secret", "upstream-secret!")
    kinds = set(wire.secrets)
    assert {"query code", "query state", "form code", "form code_verifier", "form refresh_token", "form token"} <= kinds
    assert {"form client_secret", "form ticket", "cookie", "authorization Bearer", "authorization Basic"} <= kinds
    assert {
        "answer access_token",
        "answer client_secret",
        "answer registration_access_token",
        "upstream token",
    } <= kinds
    assert "sealed token" in kinds

    service.stop()
    logged = unquote(service.log.read_text())
    assert "DEBUG urllib3" in logged, "it does log all that it can"
    assert '"event": "code.replayed"' in logged
    lines = logged.splitlines()
    found = {
        (where, line.replace(unquote(value), "SECRET"))
        for where, values in wire.secrets.items()
        for value in values
        for line in lines
        if unquote(value) in line
    }
    assert found == set()
    # Part of a secret would do, too: a token's signature, for one. The grants' ids in them are shorter, and no secrets.
    parts = {part for values in wire.secrets.values() for value in values for part in re.split(r"[.:%~ ]", value)}
    assert {part for part in parts if len(part) > 32 and part in logged} == set()


def use_everything(service: Service) -> None:
    """Go through every flow as it is meant to be."""
    registered = requests.post(
        f"{service.issuer}/register",
        json={
            "redirect_uris": [REDIRECT_URI],
            "token_endpoint_auth_method": "client_secret_post",
            "grant_types": ["authorization_code", "refresh_token"],
        },
        timeout=60,
    ).json()
    proof = {"client_id": registered["client_id"], "client_secret": registered["client_secret"]}
    code = obtain_code(service.issuer, service.resource, client_id=registered["client_id"])
    code.form.update(proof)
    tokens = code.redeem().json()
    for kind in ("access_token", "refresh_token"):
        assert service.post("/introspect", {**proof, "token": tokens[kind]}).json()["active"] is True
    basic = (registered["client_id"], registered["client_secret"])
    requests.post(f"{service.issuer}/token", data={"grant_type": "x"}, auth=basic, timeout=60)
    verify = f"http://127.0.0.1:{service.port}/verify/time"
    bearer = forward_auth_headers(tokens["access_token"])
    assert requests.get(verify, headers=bearer, timeout=60).status_code == 200
    refreshed = service.post(
        "/token", {**proof, "grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    ).json()
    assert service.post("/revoke", {**proof, "token": refreshed["access_token"]}).status_code == 200
    assert requests.get(verify, headers=bearer, timeout=60).status_code == 401
    manage = {"Authorization": f"Bearer {registered['registration_access_token']}"}
    uri = f"{service.issuer}/register/{registered['client_id']}"
    assert requests.get(uri, headers=manage, timeout=60).status_code == 200
    browser = Browser()
    log_in(service.issuer, service.resource, browser=browser)
    form = Form(browser.session.get(f"{service.issuer}/account", timeout=60).text)
    ended = browser.session.post(form.action or "", data=form.fields | {"action": "end"}, timeout=60)
    assert "Access ended" in ended.text
    service.log_in()
    assert requests.delete(uri, headers=manage, timeout=60).status_code == 204


def misuse_everything(service: Service, place: Place) -> None:
    """Go through every flow as it is not: what is refused is quoted in logs more readily than what passes."""
    code = obtain_code(service.issuer, service.resource)
    wrong = {**code.form, "code_verifier": secrets.token_urlsafe(48)}
    assert service.post("/token", wrong).status_code == 400
    tokens = code.redeem().json()
    assert code.redeem().status_code == 400
    token = tokens["access_token"]
    get = partial(requests.get, timeout=60)
    verify = f"http://127.0.0.1:{service.port}/verify/time"
    for authorization in (token, f"Basic {token}", f"Bearer {token}x", f"Bearer {token} {token}"):
        get(verify, headers=forward_auth_headers(token) | {"Authorization": authorization})
    get(verify, headers=forward_auth_headers(token) | {"X-Forwarded-Uri": f"/mcp?access_token={token}"})
    get(f"{service.issuer}/callback", params={"code": token, "state": secrets.token_urlsafe(32)})
    get(f"{service.issuer}/authorize", params={"client_id": token, "state": secrets.token_urlsafe(32)})
    get(f"{service.issuer}/{token}")
    service.post("/token", {"grant_type": "refresh_token", "refresh_token": token, "client_secret": token * 10})
    service.post("/consent", {"ticket": token, "decision": "approve"})
    live = service.log_in()
    for status, body in ((500, "{"), (401, "{}"), (200, "[]")):
        place.github.faults["/user"] = github.Fault(status, body)
        refresh(service.issuer, live)
        with pytest.raises((AssertionError, LookupError)):
            service.log_in()
    place.github.faults.clear()
    place.redis.stop()
    refresh(service.issuer, live)
    get(verify, headers={"Authorization": f"Bearer {live.access_token}"})
    service.post("/revoke", {"token": live.refresh_token, "client_id": live.client_id})
    place.redis.start()


def test_libraries_that_log_secrets_at_debug_stay_silent_even_where_told_to_speak() -> None:
    for name in ("authlib.oauth2.rfc6749", "gunicorn.error"):
        assert not logs.keeps_secrets(logging.LogRecord(name, logging.DEBUG, "", 1, "Issue token %r", ("x",), None))
    assert logs.keeps_secrets(logging.LogRecord("authlib", logging.WARNING, "", 1, "x", (), None))
    assert logs.keeps_secrets(logging.LogRecord("urllib3", logging.DEBUG, "", 1, "x", (), None))
