"""A minimal client over HTTP that registers, logs in, redeems and calls, for tests that control each step."""

from __future__ import annotations

import base64
import hashlib
import secrets
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import requests
from requests.adapters import HTTPAdapter

from tests.browser import Browser

REDIRECT_URI = "http://127.0.0.1:1/callback"
MCP_HEADERS = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-11-25"}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}


@dataclass(frozen=True)
class Tokens:
    """A token response and the client that got it."""

    client_id: str
    access_token: str
    refresh_token: str


class SourceAddress(HTTPAdapter):
    """Connects from an address of one's choice; "" is the system's."""

    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Add the address to what the pool's connections are made with."""
        super().init_poolmanager(*args, source_address=(self._address, 0), **options)


def register(issuer: str, *, client_name: str = "Test") -> str:
    """Register a public client and return its id."""
    answer = requests.post(
        f"{issuer}/register",
        json={
            "redirect_uris": [REDIRECT_URI],
            "client_name": client_name,
            "token_endpoint_auth_method": "none",
            "grant_types": ["authorization_code", "refresh_token"],
        },
        timeout=60,
    )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["client_id"])


@dataclass(frozen=True)
class Code:
    """A code on its way to the token endpoint."""

    issuer: str
    form: dict[str, str]

    def redeem(self) -> requests.Response:
        """Redeem it as the client that asked for it."""
        return requests.post(f"{self.issuer}/token", data=self.form, timeout=60)


def obtain_code(
    issuer: str,
    resource: str,
    *,
    browser: Browser | None = None,
    client_id: str | None = None,
    scope: str | None = None,
) -> Code:
    """Go through the login up to the code."""
    client_id = client_id or register(issuer)
    verifier = secrets.token_urlsafe(48)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    query = urlencode(
        {
            "response_type": "code",
            "client_id": client_id,
            "redirect_uri": REDIRECT_URI,
            "state": "the state",
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            "resource": resource,
            **({} if scope is None else {"scope": scope}),
        }
    )
    target = (browser or Browser()).open(f"{issuer}/authorize?{query}", stop_at=REDIRECT_URI)
    assert isinstance(target, str), target.text
    answer = {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}
    assert answer["state"] == "the state"
    assert answer["iss"] == issuer
    return Code(
        issuer,
        {
            "grant_type": "authorization_code",
            "code": answer["code"],
            "redirect_uri": REDIRECT_URI,
            "client_id": client_id,
            "code_verifier": verifier,
            "resource": resource,
        },
    )


def log_in(
    issuer: str,
    resource: str,
    *,
    browser: Browser | None = None,
    client_id: str | None = None,
    scope: str | None = None,
) -> Tokens:
    """Go through the whole login and return the tokens."""
    code = obtain_code(issuer, resource, browser=browser, client_id=client_id, scope=scope)
    response = code.redeem()
    assert response.status_code == 200, response.text
    return _tokens(code.form["client_id"], response.json())


def refresh(issuer: str, tokens: Tokens) -> requests.Response:
    """Ask for new tokens."""
    form = {"grant_type": "refresh_token", "refresh_token": tokens.refresh_token, "client_id": tokens.client_id}
    return requests.post(f"{issuer}/token", data=form, timeout=60)


def initialize(resource: str, token: str | None, headers: dict[str, str] | None = None) -> requests.Response:
    """Send `initialize` with that token."""
    authorization = {} if token is None else {"Authorization": f"Bearer {token}"}
    return requests.post(
        resource, json=INITIALIZE, headers={**MCP_HEADERS, **authorization, **(headers or {})}, timeout=60
    )


def _tokens(client_id: str, body: dict[str, Any]) -> Tokens:
    return Tokens(client_id, body["access_token"], body["refresh_token"])
