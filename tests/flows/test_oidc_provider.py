"""Logging in at a real OpenID Connect provider: npm `oidc-provider`, over HTTP."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urljoin, urlsplit

import pytest
import requests
from werkzeug.test import TestResponse

from auth_service.app.flask_app import create_app
from auth_service.settings import Credentials, Settings
from auth_service.storage.store import Store
from local.ports import free_port
from tests.browser import Form
from tests.peers import NODE, NPM_FOLDER

from .conftest import CHALLENGE, REDIRECT, VERIFIER, make_parts

ISSUER = "http://localhost:8080"
SECRET = "upstream secret+/:"
ALICE = {"preferred_username": "alice", "groups": ["staff", "other"], "email": "a@example.com", "email_verified": True}


class Peer:
    """The provider's process, and a browser that logs in there."""

    def __init__(self, auth_method: str) -> None:
        if not (NPM_FOLDER / "node_modules" / "oidc-provider").exists():
            pytest.skip("npm package oidc-provider is not installed: run `make test`, with Node.js and npm")
        port = free_port()
        self.issuer = f"http://127.0.0.1:{port}"
        script = Path(__file__).parent / "oidc_provider.cjs"
        self._process = subprocess.Popen(
            [str(NODE), "--no-warnings", str(script), str(port), f"{ISSUER}/callback", auth_method],
            env={"NODE_PATH": str(NPM_FOLDER / "node_modules"), "PATH": os.environ["PATH"]},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.session = requests.Session()
        self.session.trust_env = False
        try:
            while (line := self._process.stdout.readline()) != "ready\n":
                assert line, "oidc-provider did not start"
        except BaseException:
            self.close()
            raise

    def set_accounts(self, **accounts: dict[str, Any]) -> None:
        """Replace the accounts."""
        assert self.session.put(f"{self.issuer}/accounts", json=accounts, timeout=60).status_code == 204

    def log_in(self, url: str, account: str) -> str:
        """Click through login and consent; return where the browser is sent in the end."""
        response = self.session.get(url, allow_redirects=False, timeout=60)
        for _ in range(20):
            if response.is_redirect:
                target = urljoin(response.url, response.headers["Location"])
                if target.startswith(f"{ISSUER}/callback"):
                    return target
                response = self.session.get(target, allow_redirects=False, timeout=60)
                continue
            form = Form(response.text)
            assert form.action is not None, response.text
            fields = {**form.fields, "login": account, "password": "any"}
            response = self.session.post(
                urljoin(response.url, form.action), data=fields, allow_redirects=False, timeout=60
            )
        raise AssertionError(response.text)

    def close(self) -> None:
        """Stop it."""
        self.session.close()
        self._process.terminate()
        self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()


class Gateway:
    """The service on that provider, and a browser with one client."""

    def __init__(self, redis_url: str, directory: Path, peer: Peer, **changes: Any) -> None:
        provider = {
            "type": "oidc",
            "issuer": peer.issuer,
            "client_id": "gateway",
            "title": "Example Login",
            "authorization_parameters": {"prompt": "consent"},
        }
        usual = {
            "issuer": ISSUER,
            "identity_provider": provider | changes.pop("provider", {}),
            "allowed": {"groups": ["staff"]},
            "redis_url": redis_url,
            "state_directory": str(directory),
            "router": {"entry_points": ["web"]},
            "resources": {"time": {"url": f"{ISSUER}/time/mcp", "backends": ["http://127.0.0.1:9001/mcp"]}},
        }
        settings = Settings.model_validate(usual | changes)
        credentials = Credentials(client_secret=SECRET, master_key=b"m" * 32)
        self.store = Store(settings)
        self.peer = peer
        self.browser = create_app(make_parts(settings, credentials, self.store)).test_client()
        body = {
            "redirect_uris": [REDIRECT],
            "token_endpoint_auth_method": "none",
            "grant_types": ["authorization_code", "refresh_token"],
        }
        self.client_id = self.browser.post("/register", json=body, base_url=ISSUER).get_json()["client_id"]

    def callback(self, account: str, **parameters: str) -> TestResponse:
        """Go through consent and the provider; return the answer to the callback."""
        query = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": REDIRECT,
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
            "resource": f"{ISSUER}/time/mcp",
            **parameters,
        }
        page = self.browser.get("/authorize", query_string=query, base_url=ISSUER)
        assert "Example Login" in page.text
        form = Form(page.text).fields | {"decision": "approve"}
        approved = self.browser.post("/consent", data=form, base_url=ISSUER)
        return self.browser.get(self.peer.log_in(approved.location, account), base_url=ISSUER)

    def log_in(self, account: str, **parameters: str) -> dict[str, Any]:
        """Return the tokens of a login."""
        code = dict(parse_qsl(urlsplit(self.callback(account, **parameters).location).query))["code"]
        issued: dict[str, Any] = self.token(
            grant_type="authorization_code", code=code, code_verifier=VERIFIER
        ).get_json()
        return issued

    def refresh(self, tokens: dict[str, Any]) -> TestResponse:
        """Refresh."""
        return self.token(grant_type="refresh_token", refresh_token=tokens["refresh_token"])

    def token(self, **form: str) -> TestResponse:
        """Call the token endpoint."""
        return self.browser.post("/token", data={"client_id": self.client_id, **form}, base_url=ISSUER)


@pytest.fixture(scope="module", params=["client_secret_basic", "client_secret_post"])
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    made = Peer(request.param)
    yield made
    made.close()


@pytest.fixture
def gateway(redis_url: str, tmp_path: Path, peer: Peer) -> Iterator[Gateway]:
    peer.session.cookies.clear()
    made = Gateway(redis_url, tmp_path, peer)
    yield made
    made.store.close()


def test_a_member_of_the_group_logs_in_and_refreshes_until_they_leave_it(gateway: Gateway, peer: Peer) -> None:
    peer.set_accounts(alice=ALICE)
    tokens = gateway.log_in("alice")
    grant = gateway.store.grants.find(tokens["refresh_token"].partition(".")[0])
    assert grant is not None
    assert (grant.sub, grant.name) == (f"oidc:{peer.issuer}#alice", "alice")
    for _ in range(3):  # the provider replaces its refresh token each time
        refreshed = gateway.refresh(tokens)
        assert refreshed.status_code == 200, refreshed.text
        tokens = refreshed.get_json()
    peer.set_accounts(alice=ALICE | {"groups": ["other"]})
    assert gateway.refresh(tokens).get_json()["error"] == "invalid_grant"


def test_one_who_left_the_directory_is_out_at_the_next_refresh(gateway: Gateway, peer: Peer) -> None:
    peer.set_accounts(alice=ALICE)
    tokens = gateway.log_in("alice")
    peer.set_accounts()
    assert gateway.refresh(tokens).get_json()["error"] == "invalid_grant"


def test_one_outside_the_group_gets_no_code(gateway: Gateway, peer: Peer) -> None:
    peer.set_accounts(bob=ALICE | {"preferred_username": "bob", "groups": []})
    response = gateway.callback("bob")
    assert response.status_code == 403
    assert response.location is None


def test_the_groups_of_a_user_decide_about_scopes_at_login_and_at_each_refresh(
    redis_url: str, tmp_path: Path, peer: Peer
) -> None:
    peer.session.cookies.clear()
    server = {
        "url": f"{ISSUER}/time/mcp",
        "backends": ["http://127.0.0.1:9001/mcp"],
        "scopes": {
            "read": {"description": "Read"},
            "write": {"description": "Write", "required": False, "allowed": {"groups": ["writers"]}},
            "admin": {"description": "Own", "required": False, "allowed": {"users": ["Alice"]}},
        },
    }
    gateway = Gateway(redis_url, tmp_path, peer, resources={"time": server})
    bob = ALICE | {"preferred_username": "bob"}
    peer.set_accounts(alice=ALICE | {"groups": ["staff", "writers"]}, bob=bob, carol=bob | {"groups": ["writers"]})
    asked = {"scope": "read write admin"}
    tokens = gateway.log_in("alice", **asked)
    assert tokens["scope"] == "read write admin"
    gateway.browser.delete_cookie("mcp-gateway-session", domain="localhost")
    peer.session.cookies.clear()
    assert gateway.log_in("bob", **asked)["scope"] == "read"
    peer.session.cookies.clear()
    gateway.browser.delete_cookie("mcp-gateway-session", domain="localhost")
    assert gateway.callback("carol", **asked).status_code == 403, "a scope's list lets nobody in"

    peer.set_accounts(alice=ALICE)
    tokens = gateway.refresh(tokens).get_json()
    assert tokens["scope"] == "read admin"
    peer.set_accounts(alice=ALICE | {"groups": ["staff", "writers"]})
    tokens = gateway.refresh(tokens).get_json()
    assert tokens["scope"] == "read admin", "what was lost does not come back by itself"
    gateway.store.close()


@pytest.mark.parametrize(("is_verified", "status"), [(True, 303), (False, 403)])
def test_an_email_address_counts_only_where_it_is_verified(
    redis_url: str, tmp_path: Path, peer: Peer, is_verified: bool, status: int
) -> None:
    peer.session.cookies.clear()
    peer.set_accounts(alice=ALICE | {"email_verified": is_verified})
    gateway = Gateway(
        redis_url, tmp_path, peer, provider={"username_claim": "email"}, allowed={"users": ["a@example.com"]}
    )
    assert gateway.callback("alice").status_code == status
    gateway.store.close()
