"""What `mcp-gatewayctl doctor` finds at the services at which users connect their accounts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from flask import jsonify
from werkzeug.serving import make_server

from auth_service.cli.doctor import web
from auth_service.cli.doctor.connections import check_authorization_endpoint, check_token_endpoint
from auth_service.cli.doctor.examination import examine_connections
from auth_service.cli.doctor.findings import Finding, Status, run
from auth_service.idp import http as provider_http
from auth_service.idp.connected_service import ConnectedService
from auth_service.oauth.connections import make_services
from auth_service.settings import Credentials, Settings
from tests.connected_service import CLIENT_ID, CLIENT_SECRET, StandIn, create_app

ISSUER = "http://127.0.0.1:1"
CALLBACK = f"{ISSUER}/connections/callback/time/DRIVE_TOKEN"


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    made = StandIn(redirect_uris=[CALLBACK])
    server = make_server("127.0.0.1", 0, create_app(made), threaded=True)
    made.origin = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def make_settings(origin: str, **oauth: Any) -> Settings:
    connection = {
        "authorization_endpoint": f"{origin}/authorize",
        "token_endpoint": f"{origin}/token",
        "client_id": CLIENT_ID,
        "scopes": ["files.read"],
    } | oauth
    variable = {"label": "Drive", "oauth": connection}
    return Settings.model_validate(
        {
            "issuer": ISSUER,
            "identity_provider": {"type": "github", "client_id": "app"},
            "redis_url": "unix:///nowhere",
            "state_directory": "/nowhere",
            "router": {"entry_points": ["web"]},
            "resources": {
                "time": {
                    "url": f"{ISSUER}/mcp",
                    "backends": ["http://127.0.0.1:2/mcp"],
                    "user_credentials": {"DRIVE_TOKEN": variable, "PASTED": {"label": "Pasted"}},
                },
                "plain": {"url": f"{ISSUER}/plain/mcp", "backends": ["http://127.0.0.1:2/mcp"]},
            },
        }
    )


def make_credentials(secret: str | None = CLIENT_SECRET) -> Credentials:
    connections = {} if secret is None else {"time.DRIVE_TOKEN": secret}
    return Credentials(client_secret="secret", master_key=b"k" * 32, connections=connections)


def examine(settings: Settings, credentials: Credentials) -> dict[str, Finding]:
    with web.connect() as http:
        return {finding.check: finding for finding in examine_connections(http, settings, credentials)}


def make_service(origin: str, *, secret: str | None = CLIENT_SECRET, **oauth: Any) -> ConnectedService:
    (service,) = make_services(make_settings(origin, **oauth), make_credentials(secret)).values()
    return service


def check(examined: Callable[[], str]) -> Finding:
    return run("", examined)


def ask_for_page(service: ConnectedService) -> Finding:
    with web.connect() as http:
        return check(lambda: check_authorization_endpoint(http, service))


def ask_for_token(service: ConnectedService) -> Finding:
    return check(lambda: check_token_endpoint(service))


def test_a_sound_service_is_well_and_its_redirect_uri_is_told(stand_in: StandIn) -> None:
    found = examine(make_settings(stand_in.origin), make_credentials())
    assert [(check, finding.status) for check, finding in found.items()] == [
        ("connections", Status.OK),
        ("authorization endpoint time.DRIVE_TOKEN", Status.OK),
        ("token endpoint time.DRIVE_TOKEN", Status.OK),
    ]
    page = found["authorization endpoint time.DRIVE_TOKEN"].text
    assert page == (
        f"{stand_in.origin}/authorize answers. At the other service, {CALLBACK} must be registered as a redirect URI."
    )
    assert "(invalid_grant)" in found["token endpoint time.DRIVE_TOKEN"].text
    assert stand_in.access_tokens == {}


def test_without_connected_accounts_there_is_nothing_to_check() -> None:
    settings = make_settings("http://127.0.0.1:3")
    plain = settings.model_copy(update={"resources": {"plain": settings.resources["plain"]}})
    assert examine(plain, make_credentials(None)) == {}


def test_a_client_secret_that_is_missing_or_not_used_is_named(stand_in: StandIn) -> None:
    for method, secret, text in (
        ("client_secret_post", None, "user-credential-secret.time.DRIVE_TOKEN is missing"),
        ("none", CLIENT_SECRET, "would not be used"),
    ):
        found = examine(make_settings(stand_in.origin, token_endpoint_auth_method=method), make_credentials(secret))
        assert list(found) == ["connections"]
        assert found["connections"].status is Status.PROBLEM
        assert text in found["connections"].text
        assert found["connections"].advice
    assert stand_in.requests == []


@pytest.mark.parametrize("dialect", ["standard", "github", "google", "slack"])
def test_services_refuse_a_code_and_the_client_each_in_its_own_way(stand_in: StandIn, dialect: str) -> None:
    stand_in.dialect = dialect
    assert ask_for_token(make_service(stand_in.origin)).status is Status.OK
    found = ask_for_token(make_service(stand_in.origin, secret="another"))
    assert found.status is Status.PROBLEM
    assert "refuses the client: " in found.text
    assert "clientSecretFile" in (found.advice or "")


def test_the_other_way_of_authentication_is_a_problem(stand_in: StandIn) -> None:
    stand_in.auth_method = "client_secret_post"
    assert ask_for_token(make_service(stand_in.origin)).status is Status.PROBLEM
    method = {"token_endpoint_auth_method": "client_secret_post"}
    assert ask_for_token(make_service(stand_in.origin, **method)).status is Status.OK


@pytest.mark.parametrize(
    ("status", "body", "found_status", "text"),
    [
        (200, {"error": "redirect_uri_mismatch"}, Status.PROBLEM, "refuses the redirect URI: redirect_uri_mismatch"),
        (400, {"error": "invalid_request"}, Status.WARNING, "answers 400 with the error invalid_request"),
        (400, {"error": "s3cret"}, Status.WARNING, "answers 400 with the error (one that is not known here)"),
        (400, {"error": ["s3cret"]}, Status.WARNING, "answers 400 with the error (one that is not known here)"),
        (200, {"access_token": "s3cret"}, Status.WARNING, "answers 200 without an OAuth error"),
        (404, "<html>", Status.WARNING, "answers 404 without an OAuth error"),
    ],
)
def test_another_answer_of_the_token_endpoint_is_named_and_not_quoted(
    stand_in: StandIn, status: int, body: Any, found_status: Status, text: str
) -> None:
    stand_in.on_token = lambda: (body if isinstance(body, str) else jsonify(body), status)
    found = ask_for_token(make_service(stand_in.origin))
    assert found.status is found_status
    assert text in found.text
    assert "s3cret" not in found.text
    assert found.advice


def test_a_redirect_uri_that_is_not_registered_is_told_with_what_to_register(stand_in: StandIn) -> None:
    stand_in.redirect_uris = []
    found = ask_for_page(make_service(stand_in.origin))
    assert found.status is Status.WARNING
    assert f"{stand_in.origin}/authorize answers 400" in found.text
    assert CALLBACK in (found.advice or "")
    assert "state=" not in found.text


def test_a_service_that_does_not_answer_is_named_with_what_to_do(stand_in: StandIn) -> None:
    refusing = "http://127.0.0.1:1"
    page, token = ask_for_page(make_service(refusing)), ask_for_token(make_service(refusing))
    assert (page.status, token.status) == (Status.WARNING, Status.PROBLEM)
    for found in (page, token):
        assert "cannot be reached" in found.text
        assert found.advice


def test_a_certificate_that_is_not_trusted_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> requests.Response:
        raise requests.exceptions.SSLError("self-signed certificate")

    monkeypatch.setattr(requests.Session, "request", fail)
    monkeypatch.setattr(provider_http.Session, "request", fail)
    service = make_service("https://drive.example.com")
    for found in (ask_for_page(service), ask_for_token(service)):
        assert "https://drive.example.com/" in found.text
        assert "the certificate is not trusted: self-signed certificate" in found.text


def test_no_secret_is_told(stand_in: StandIn) -> None:
    found = ask_for_token(make_service(stand_in.origin, secret="a-wrong-secret"))
    assert found.status is Status.PROBLEM
    assert "a-wrong-secret" not in f"{found.text}{found.advice}"
