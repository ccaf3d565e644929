"""A client reads, replaces and removes its own registration (RFC 7592), and no other client can."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import REDIRECT, OAuthTestClient


@pytest.fixture
def registered(oauth: OAuthTestClient) -> dict[str, Any]:
    return oauth.register()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def path_of(registered: dict[str, Any]) -> str:
    return f"/register/{registered['client_id']}"


def test_the_registration_can_be_read_with_its_token(oauth: OAuthTestClient, registered: dict[str, Any]) -> None:
    answer = oauth.browser.get(path_of(registered), headers=bearer(registered["registration_access_token"]))
    assert answer.status_code == 200
    assert answer.get_json() == registered
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "Bearer", "Basic eDp5"])
def test_without_the_token_nothing_is_said_or_done(
    oauth: OAuthTestClient, registered: dict[str, Any], method: str, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = oauth.browser.open(path_of(registered), method=method, headers=headers, json={})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert oauth.store.clients.find(registered["client_id"]) is not None


def test_another_clients_token_is_no_token(oauth: OAuthTestClient, registered: dict[str, Any]) -> None:
    other = oauth.register()
    answer = oauth.browser.delete(path_of(registered), headers=bearer(other["registration_access_token"]))
    assert answer.status_code == 401
    assert oauth.store.clients.find(registered["client_id"]) is not None


def test_an_update_follows_the_rules_of_registration(oauth: OAuthTestClient, registered: dict[str, Any]) -> None:
    headers = bearer(registered["registration_access_token"])
    body = {
        "client_id": registered["client_id"],
        "client_name": "Renamed",
        "redirect_uris": [REDIRECT],
        "token_endpoint_auth_method": "none",
    }
    answer = oauth.browser.put(path_of(registered), headers=headers, json=body)
    assert answer.status_code == 200
    assert answer.get_json()["client_name"] == "Renamed"
    for changes, error in (
        ({"redirect_uris": ["http://evil.example/"]}, "invalid_redirect_uri"),
        ({"client_id": "another"}, "invalid_client_metadata"),
        ({"client_secret": "guessed"}, "invalid_client_metadata"),
        ({"token_endpoint_auth_method": "client_secret_basic"}, "invalid_client_metadata"),
    ):
        refused = oauth.browser.put(path_of(registered), headers=headers, json={**body, **changes})
        assert refused.status_code == 400
        assert refused.get_json()["error"] == error
    stored = oauth.store.clients.find(registered["client_id"])
    assert stored is not None
    assert stored.name == "Renamed"


def test_removing_a_client_ends_its_grants(oauth: OAuthTestClient, registered: dict[str, Any]) -> None:
    client_id = registered["client_id"]
    tokens = oauth.redeem(client_id, oauth.obtain_code(client_id)).get_json()
    headers = bearer(registered["registration_access_token"])
    assert oauth.browser.delete(path_of(registered), headers=headers).status_code == 204
    assert oauth.browser.get(path_of(registered), headers=headers).status_code == 401
    refused = oauth.token(grant_type="refresh_token", client_id=client_id, refresh_token=tokens["refresh_token"])
    assert (refused.status_code, refused.get_json()["error"]) == (401, "invalid_client")
    assert oauth.store.grants.find(tokens["refresh_token"].partition(".")[0]) is None
