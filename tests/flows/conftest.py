"""The service as a whole on a real Redis; GitHub is the stand-in, called in process."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import parse_qsl, urlsplit

import jwt
import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from jinja2.bccache import Bucket, BytecodeCache
from werkzeug.test import TestResponse

from auth_service.app.composition import Parts
from auth_service.app.flask_app import create_app
from auth_service.app.views import client_address
from auth_service.backends.revocation_notices import RevocationNotices
from auth_service.oauth.document_probe import DocumentProbe
from auth_service.oauth.revocation import Revocation
from auth_service.oauth.safe_fetch import SafeFetcher
from auth_service.ops import audit
from auth_service.ops.audit import Event
from auth_service.protocol.clients import ClientMetadata
from auth_service.settings import Credentials, Settings
from auth_service.storage.grants import Grant
from auth_service.storage.store import Store
from local import github
from tests.browser import Form
from tests.in_process import InProcess

ISSUER = "https://auth.example.com"
GITHUB = "https://github.com"
RESOURCE = "https://time.example.com/mcp"
FETCH = "https://fetch.example.com/mcp"
REDIRECT = "http://127.0.0.1:33418/callback"
VERIFIER = "v" * 43
SCOPES: Final = {
    "read": {"description": "Read", "required": True},
    "write": {"description": "Write", "required": False},
    "admin": {"description": "Everything", "required": False, "allowed": {"users": ["octocat"]}},
}
"""Of a server: one that each request needs, one that is optional, and one that only octocat may have."""
CLIENT_METADATA = ClientMetadata.model_fields.keys()
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()


class CompiledTemplates(BytecodeCache):
    """Templates that one application has compiled, for the next ones."""

    def __init__(self) -> None:
        self._known: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        """Give Jinja what it compiled before; a bucket refuses that of another text."""
        if known := self._known.get(bucket.key):
            bucket.bytecode_from_string(known)

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep what Jinja has compiled."""
        self._known[bucket.key] = bucket.bytecode_to_string()


# Each test has an application of its own, which would spend a quarter of its time on compiling pages.
Flask.jinja_options = {**Flask.jinja_options, "bytecode_cache": CompiledTemplates()}


@dataclass
class OAuthTestClient:
    """The service, the stand-in GitHub, and one browser that talks to both."""

    settings: Settings
    make_app: Callable[[Settings], Flask]
    store: Store
    stand_in: github.StandIn
    app: Flask = field(init=False)
    browser: FlaskClient = field(init=False)

    def __post_init__(self) -> None:
        self.app = self.make_app(self.settings)
        self.browser = self.new_browser()

    @property
    def revocation(self) -> Revocation:
        """What ends access in the service."""
        return cast(Parts, self.app.extensions["gateway"]).revocation

    def new_browser(self) -> FlaskClient:
        """Return a browser with no cookies."""
        return self.app.test_client()

    def register(self, **metadata: Any) -> dict[str, Any]:
        """Register a client, public unless told otherwise."""
        body: dict[str, Any] = {
            "client_name": "Inspector",
            "redirect_uris": [REDIRECT],
            "grant_types": ["authorization_code", "refresh_token"],
            "token_endpoint_auth_method": "none",
        } | metadata
        response = self.app.test_client().post("/register", json=body, base_url=ISSUER)
        assert response.status_code == 201, response.text
        document: dict[str, Any] = response.get_json()
        return document

    def authorize(self, client_id: str, **changes: str | None) -> TestResponse:
        """Open the authorization page; None leaves a parameter out."""
        return self.browser.get("/authorize", query_string=authorization_query(client_id, **changes), base_url=ISSUER)

    def decide(self, page: TestResponse, decision: str = "approve") -> TestResponse:
        """Submit the consent form as it stands."""
        assert page.status_code == 200, page.text
        return self.browser.post("/consent", data=Form(page.text).fields | {"decision": decision}, base_url=ISSUER)

    def log_in(self, approved: TestResponse, login: str = "octocat") -> str:
        """Choose a user at the stand-in and return the callback URL it sends the browser to."""
        parts = urlsplit(approved.location)
        assert f"{parts.scheme}://{parts.netloc}" == GITHUB
        answer = (
            github.create_app(self.stand_in)
            .test_client()
            .post(parts.path, query_string=parts.query, data={"login": login})
        )
        return answer.location

    def follow(self, url: str) -> TestResponse:
        """Let the browser open a URL of the service."""
        assert url.startswith(ISSUER)
        return self.browser.get(url, base_url=ISSUER)

    def obtain_code(self, client_id: str, *, login: str = "octocat", **changes: str | None) -> str:
        """Go through the whole login and return the code that the client receives."""
        approved = self.decide(self.authorize(client_id, **changes))
        return parameters_of(self.follow(self.log_in(approved, login)))["code"]

    def token(self, **parameters: str) -> TestResponse:
        """Call the token endpoint."""
        return self.app.test_client().post("/token", data=parameters, base_url=ISSUER)

    def token_with_basic(self, client_id: str, secret: str, **parameters: str) -> TestResponse:
        """Call the token endpoint as a client that authenticates with HTTP Basic."""
        basic = base64.b64encode(f"{client_id}:{secret}".encode()).decode()
        return self.app.test_client().post(
            "/token", data=parameters, headers={"Authorization": f"Basic {basic}"}, base_url=ISSUER
        )

    def change_registration(self, registered: dict[str, Any], **changes: Any) -> None:
        """Let a client replace its registration (RFC 7592); None leaves a member out."""
        members = {name: value for name, value in registered.items() if name in CLIENT_METADATA | {"client_id"}}
        response = self.app.test_client().put(
            f"/register/{registered['client_id']}",
            json={name: value for name, value in (members | changes).items() if value is not None},
            headers={"Authorization": f"Bearer {registered['registration_access_token']}"},
            base_url=ISSUER,
        )
        assert response.status_code == 200, response.text

    def delete_registration(self, registered: dict[str, Any]) -> None:
        """Let a client remove its registration."""
        response = self.app.test_client().delete(
            f"/register/{registered['client_id']}",
            headers={"Authorization": f"Bearer {registered['registration_access_token']}"},
            base_url=ISSUER,
        )
        assert response.status_code == 204, response.text

    def reload(self, **changes: Any) -> None:
        """Go on with other settings, as after SIGHUP; `changes` are merged into settings.json."""
        document = merged(self.settings.model_dump(exclude_unset=True, mode="json"), changes)
        self.settings = Settings.model_validate(document)
        self.app = self.make_app(self.settings)
        self.browser.application = self.app

    def redeem(self, client_id: str, code: str, **changes: str) -> TestResponse:
        """Redeem a code as the client that asked for it would."""
        parameters = {
            "grant_type": "authorization_code",
            "client_id": client_id,
            "code": code,
            "redirect_uri": REDIRECT,
            "code_verifier": VERIFIER,
        } | changes
        return self.token(**parameters)


def merged(document: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON object with others merged into it; None removes a member."""
    result = dict(document)
    for name, value in changes.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict) and isinstance(result.get(name), dict):
            result[name] = merged(result[name], value)
        else:
            result[name] = value
    return result


def authorization_query(client_id: str, **changes: str | None) -> dict[str, str]:
    """Return the parameters of an authorization request; None leaves one out."""
    usual: dict[str, str | None] = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": REDIRECT,
        "state": "client-state",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
        "resource": RESOURCE,
    }
    return {name: value for name, value in (usual | changes).items() if value is not None}


def parameters_of(response: TestResponse) -> dict[str, str]:
    """Return the query of the URL that a response redirects to."""
    assert response.status_code == 303, response.text
    return dict(parse_qsl(urlsplit(response.location).query, strict_parsing=True))


def claims_of(response: TestResponse) -> dict[str, Any]:
    """Return the claims of the access token that a response holds."""
    assert response.status_code == 200, response.text
    claims: dict[str, Any] = jwt.decode(response.get_json()["access_token"], options={"verify_signature": False})
    return claims


def error_of(response: TestResponse) -> str:
    """Return the OAuth error of a refusal."""
    assert response.status_code in {400, 401}, response.text
    assert "access_token" not in response.text
    return str(response.get_json()["error"])


def form_token_of(page: TestResponse) -> str:
    """Return the hidden field of the consent form."""
    match = re.search(r'name="ticket" value="([^"]+)"', page.text)
    assert match is not None
    return unescape(match[1])


def declared_secret(name: str) -> str:
    """Return the secret of a client that the settings declare."""
    return f"secret-of-{name}-".ljust(40, "x")


class ToldBridges:
    """In place of the notices to bridges: keeps whose processes they are to end."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, str]] = []

    def __call__(self, grant: Grant) -> None:
        """Take no notice of a grant that has ended."""

    def end_processes(self, resource_name: str, sub: str) -> None:
        """Keep a server and a user."""
        self.ended.append((resource_name, sub))


def make_parts(
    settings: Settings, credentials: Credentials, store: Store, *, fetcher: SafeFetcher | None = None
) -> Parts:
    """Return the service's parts, which share the state of others and tell no bridge of grants that have ended.

    `fetcher` gets clients' documents; the real one does without it.
    """
    parts = Parts(settings, lambda: credentials, redis_password=None, requester=client_address)
    parts.store = store
    parts.notices = cast(RevocationNotices, ToldBridges())
    parts.revocation = Revocation(
        store, grants_per_client=settings.limits.grants_per_client, notify=lambda _grant: None
    )
    if fetcher is not None:
        parts.fetcher = parts.issuer_fetcher = fetcher
        parts.probe = DocumentProbe(settings, store.redis, store.locks, fetcher=fetcher)
    return parts


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    """Two MCP servers; octocat may use both."""
    return Settings.model_validate(
        {
            "issuer": ISSUER,
            "identity_provider": {"type": "github", "client_id": "app", "url": GITHUB, "api_url": GITHUB},
            "allowed": {"users": ["octocat"]},
            "redis_url": redis_url,
            "state_directory": str(tmp_path),
            "router": {"entry_points": ["web"]},
            "resources": {
                "time": {"url": RESOURCE, "backends": ["http://127.0.0.1:9001/mcp"]},
                "fetch": {"url": FETCH, "backends": ["http://127.0.0.1:9002/mcp"]},
            },
        }
    )


@pytest.fixture
def fetcher() -> SafeFetcher | None:
    """What gets clients' documents; the real one unless a test has them."""
    return None


@pytest.fixture
def credentials(settings: Settings) -> Credentials:
    """The secrets that the service has."""
    return Credentials(
        client_secret="upstream-secret",
        master_key=b"m" * 32,
        declared_clients={name: declared_secret(name) for name in settings.declared_clients},
    )


@pytest.fixture
def oauth(
    settings: Settings,
    credentials: Credentials,
    fetcher: SafeFetcher | None,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[OAuthTestClient]:
    """The service with the stand-in GitHub behind it."""
    stand_in = github.StandIn("app", "upstream-secret", f"{ISSUER}/callback", list(github.DEFAULT_USERS))
    adapter = InProcess(github.create_app(stand_in))
    monkeypatch.setattr(requests.Session, "get_adapter", lambda session, url: adapter)
    store = Store(settings)
    yield OAuthTestClient(
        settings,
        lambda settings: create_app(make_parts(settings, credentials, store, fetcher=fetcher)),
        store,
        stand_in,
    )
    store.close()


class AuditLog(logging.Handler):
    """Every audit event since the test began, as its line says it."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[dict[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one event."""
        self.entries.append(json.loads(str(record.msg)))

    def of(self, event: Event) -> list[dict[str, str]]:
        """Return the events of one name, without their times."""
        return [
            {name: value for name, value in entry.items() if name not in {"event", "time"}}
            for entry in self.entries
            if entry["event"] == event
        ]

    @property
    def names(self) -> list[str]:
        """The names of all events in order."""
        return [entry["event"] for entry in self.entries]


@pytest.fixture
def audit_log() -> Iterator[AuditLog]:
    """What the service writes to the audit log."""
    handler = AuditLog()
    level = audit.log.level
    audit.log.setLevel(logging.INFO)
    audit.log.addHandler(handler)
    yield handler
    audit.log.removeHandler(handler)
    audit.log.setLevel(level)
