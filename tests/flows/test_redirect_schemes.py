"""Applications with a scheme that the operator has named, each confined to its callbacks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from auth_service.oauth.safe_fetch import SafeFetcher
from auth_service.settings import Settings
from tests.internet import Internet, internet, respond_json

from .conftest import ISSUER, OAuthTestClient, parameters_of

CALLBACK = "myapp://mcp/oauth/callback"
HOST = "client.example.com"
DOCUMENT = f"https://{HOST}/client.json"
ELSEWHERE = [
    "myapp:/callback",
    "myapp://mcp/oauth/callback/x",
    "myapp://mcp/oauth/callback/",
    "myapp://mcp/oauth",
    "myapp://evil/oauth/callback",
    "myapp://run?command=x",
    "myapp://mcp/oauth/callback?code=x",
    "myapp://mcp/oauth/callback?state=x",
    "myapp://mcp/x/../oauth/callback",
    "myapp://mcp/oauth%2Fcallback",
    "MYAPP://mcp/oauth/callback",
    "otherapp://mcp/oauth/callback",
    "myapp.evil://x",
]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    clients = {"redirect_schemes": {"myapp": {"name": "My App", "callbacks": [CALLBACK]}}}
    return Settings.model_validate({**settings.model_dump(), "clients": clients})


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Internet]:
    with internet(tmp_path, HOST) as made:
        yield made


@pytest.fixture
def fetcher(net: Internet) -> SafeFetcher:
    return net.fetcher(deadline=2)


def register(oauth: OAuthTestClient, uri: str) -> int:
    body = {"redirect_uris": [uri], "token_endpoint_auth_method": "none"}
    return oauth.browser.post("/register", json=body, base_url=ISSUER).status_code


@pytest.mark.parametrize("uri", [CALLBACK, f"{CALLBACK}?window=1"])
def test_a_login_ends_at_the_callback_of_an_application_that_the_operator_names(
    oauth: OAuthTestClient, uri: str
) -> None:
    client_id = oauth.register(redirect_uris=[uri])["client_id"]
    page = oauth.authorize(client_id, redirect_uri=uri)
    assert "My App" in page.text
    assert "myapp:" in page.headers["Content-Security-Policy"]
    answer = oauth.follow(oauth.log_in(oauth.decide(page)))
    assert answer.location.startswith(f"{uri}{'&' if '?' in uri else '?'}code=")
    code = parameters_of(answer)["code"]
    assert oauth.redeem(client_id, code, redirect_uri=uri).status_code == 200


def test_warp_is_known_without_being_named(oauth: OAuthTestClient) -> None:
    uri = "warp://mcp/oauth2callback"
    client_id = oauth.register(redirect_uris=[uri])["client_id"]
    assert "Warp" in oauth.authorize(client_id, redirect_uri=uri).text
    assert register(oauth, "warp://action/new_tab") == 400


@pytest.mark.parametrize("uri", ELSEWHERE)
def test_no_other_address_of_its_scheme_is_registered(oauth: OAuthTestClient, net: Internet, uri: str) -> None:
    assert register(oauth, uri) == 400
    net.pages["/client.json"] = respond_json({"client_id": DOCUMENT, "client_name": "Name", "redirect_uris": [uri]})
    assert oauth.authorize(DOCUMENT, redirect_uri=uri).status_code == 400


def test_a_metadata_document_may_name_the_callback(oauth: OAuthTestClient, net: Internet) -> None:
    net.pages["/client.json"] = respond_json(
        {"client_id": DOCUMENT, "client_name": "Name", "redirect_uris": [CALLBACK], "client_uri": "myapp://x"}
    )
    page = oauth.authorize(DOCUMENT, redirect_uri=CALLBACK)
    assert page.status_code == 200
    assert "My App" in page.text


def test_an_error_leads_to_the_application_only_from_a_page(oauth: OAuthTestClient) -> None:
    client_id = oauth.register(redirect_uris=[CALLBACK])["client_id"]
    page = oauth.authorize(client_id, redirect_uri=CALLBACK, scope="admin")
    assert page.status_code == 400
    assert "Location" not in page.headers
    assert "Go back to My App" in page.text


class TestWithoutIt:
    """A gateway whose operator names no scheme."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return Settings.model_validate({**settings.model_dump(), "clients": {}})

    def test_the_scheme_is_not_taken(self, oauth: OAuthTestClient) -> None:
        assert register(oauth, CALLBACK) == 400

    def test_a_registration_from_before_a_rule_changed_leads_to_no_redirect(self, oauth: OAuthTestClient) -> None:
        client = oauth.register(redirect_uris=["https://client.example.com/callback"])
        stored = oauth.store.clients.find(client["client_id"])
        assert stored is not None
        metadata = stored.metadata.model_copy(update={"redirect_uris": (CALLBACK,)})
        oauth.store.clients.update(type(stored)(**{**vars(stored), "metadata": metadata}))
        page = oauth.authorize(client["client_id"], redirect_uri=CALLBACK)
        assert page.status_code == 400
        assert CALLBACK not in page.headers.get("Location", "")
