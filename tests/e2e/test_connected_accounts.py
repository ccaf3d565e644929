"""Accounts that users connect during the login, from the button to the processes of a server, by the real router."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from werkzeug.serving import make_server

from auth_service.settings import load_credentials
from tests.browser import Browser
from tests.connected_service import CLIENT_ID, StandIn, create_app
from tests.service.conftest import eventually
from tests.stdio_bridge.modern_client import LEGACY_SERVER
from tests.stdio_bridge.running import Bridge

from .conftest import RunningStack
from .flow import Tokens, initialize, log_in, refresh
from .test_clients import Clicks, MemoryStorage
from .test_operator import operate
from .test_step_up import provider_for
from .test_user_credentials import Session

NAME = "drive"


@dataclass(frozen=True)
class Drive:
    """The server, and the service where its users have accounts."""

    url: str
    service: StandIn


@pytest.fixture(scope="module")
def _served(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drive]:
    folder: Path = tmp_path_factory.mktemp("drive")
    callback = f"{stack.issuer}/connections/callback/{NAME}/TOKEN"
    service = StandIn(auth_method="none", redirect_uris=[callback])
    server = make_server("127.0.0.1", 0, create_app(service), threaded=True)
    service.origin = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    internal_url = json.loads((stack.state_directory / "settings.json").read_text())["internal_url"]
    key = folder / "identity.key"
    credentials = load_credentials(stack.state_directory / "credentials")
    key.write_bytes(credentials.derive_key(f"identity-key:{NAME}"))
    where = f"{internal_url}/credentials/{NAME}"
    try:
        asked = ("--credentials-url", where, "--user-credential", "TOKEN")
        arguments = ("--require-identity", str(key), *asked)
        with Bridge(*arguments, command=LEGACY_SERVER) as bridge:
            oauth = {
                "authorization_endpoint": f"{service.origin}/authorize",
                "token_endpoint": f"{service.origin}/token",
                "revocation_endpoint": f"{service.origin}/revoke",
                "client_id": CLIENT_ID,
                "scopes": ["files.read"],
            }
            resource = {
                "url": stack.resource(NAME),
                "backends": [f"http://127.0.0.1:{bridge.port}/mcp"],
                "user_credentials": {"TOKEN": {"label": "Drive", "oauth": oauth}},
            }
            with stack.serving({NAME: resource}):
                yield Drive(stack.resource(NAME), service)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def drive(stack: RunningStack, _served: Drive) -> Iterator[Drive]:
    """The server and its service, where no user has connected an account."""
    yield _served
    _served.service.expires_in = 3600
    for login in ("octocat", "hubot"):
        operate(stack, "credentials", "remove", login, NAME)


def times_asked(browser: Browser) -> int:
    """Return how many pages have asked for the account."""
    return sum('name="connect"' in page for page in browser.pages)


def test_two_users_have_the_tokens_of_their_own_accounts_in_their_own_processes(
    stack: RunningStack, drive: Drive
) -> None:
    found = {}
    for login in ("octocat", "hubot"):
        drive.service.account = f"account-of-{login}"
        session = Session(drive.url, log_in(stack.issuer, drive.url, browser=Browser(login=login)))
        found[drive.service.access_tokens[session.call("token")]] = session.call("pid")
    assert found.keys() == {"account-of-octocat", "account-of-hubot"}
    assert len(set(found.values())) == 2
    assert not any(kind in stack.output for kind in ("access-", "refresh-", "code-"))


def log_in_until_the_token_has_ended(stack: RunningStack, drive: Drive) -> Tokens:
    drive.service.expires_in = 1
    tokens = log_in(stack.issuer, drive.url)
    end = time.time() + 1
    eventually(lambda: time.time() > end)
    return tokens


def test_a_process_starts_with_a_renewed_token(stack: RunningStack, drive: Drive) -> None:
    tokens = log_in_until_the_token_has_ended(stack, drive)
    (first,) = drive.service.refresh_tokens
    drive.service.expires_in = 3600
    token = Session(drive.url, tokens).call("token")
    assert token in drive.service.access_tokens
    assert first not in drive.service.refresh_tokens, "it was replaced"
    assert Session(drive.url, tokens).call("token") == token, "and is good for the next process"


def test_an_account_that_the_service_renews_no_more_is_asked_for_again(stack: RunningStack, drive: Drive) -> None:
    tokens = log_in_until_the_token_has_ended(stack, drive)
    drive.service.refresh_tokens.clear()
    refused = initialize(drive.url, tokens.access_token)
    assert refused.status_code == 401, refused.text
    assert 'error="invalid_token"' in refused.headers["WWW-Authenticate"]
    assert refresh(stack.issuer, tokens).json()["error"] == "invalid_grant"
    drive.service.expires_in = 3600
    browser = Browser()
    token = Session(drive.url, log_in(stack.issuer, drive.url, browser=browser)).call("token")
    assert token in drive.service.access_tokens
    assert times_asked(browser) == 1


def test_an_unmodified_client_waits_for_the_account_and_is_asked_again_after_its_removal(
    stack: RunningStack, drive: Drive
) -> None:
    storage, clicks = MemoryStorage(), Clicks()
    browser = clicks.browser = Browser()

    async def token() -> str:
        async with (
            httpx2.AsyncClient(auth=provider_for(drive.url, storage, clicks), timeout=60) as http,
            Client(streamable_http_client(drive.url, http_client=http), mode="auto") as client,
        ):
            result = await client.call_tool("token", {})
            return str(json.loads(result.content[0].text))  # type: ignore[union-attr]  # it says text

    first = asyncio.run(token())
    assert asyncio.run(token()) == first
    assert times_asked(browser) == 1
    assert operate(stack, "credentials", "remove", "octocat", NAME) == 0
    eventually(lambda: first not in drive.service.access_tokens)  # revoked at the service, too
    assert asyncio.run(token()) != first
    assert times_asked(browser) == 2
