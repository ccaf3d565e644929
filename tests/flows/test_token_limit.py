"""Users of one hosted client share its addresses: token requests are counted by client and address together."""

from __future__ import annotations

import pytest

from auth_service.settings import Settings

from .conftest import ISSUER, OAuthTestClient


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Two token requests a minute."""
    return Settings.model_validate({**settings.model_dump(), "limits": {"token_requests_per_minute": 2}})


def ask(oauth: OAuthTestClient, client_id: str, headers: dict[str, str]) -> int:
    form = {"grant_type": "refresh_token", "refresh_token": "x", "client_id": client_id}
    return oauth.new_browser().post("/token", data=form, headers=headers, base_url=ISSUER).status_code


def test_a_client_that_asks_too_often_from_one_address_has_to_wait(oauth: OAuthTestClient) -> None:
    client_id, other = (oauth.register()["client_id"] for _ in range(2))
    here = {"X-Real-Ip": "192.0.2.1"}
    assert [ask(oauth, client_id, here) for _ in range(3)] == [400, 400, 429]
    assert ask(oauth, client_id, {"X-Real-Ip": "192.0.2.2"}) == 400
    assert ask(oauth, other, here) == 400


def test_an_ipv6_network_counts_as_one_address(oauth: OAuthTestClient) -> None:
    client_id = oauth.register()["client_id"]
    answers = [ask(oauth, client_id, {"X-Real-Ip": f"2001:db8::{number}"}) for number in range(1, 4)]
    assert answers == [400, 400, 429]


def test_an_unproven_forwarding_header_makes_no_new_address(oauth: OAuthTestClient) -> None:
    client_id = oauth.register()["client_id"]
    answers = [
        ask(oauth, client_id, {"X-Real-Ip": "192.0.2.1", "X-Forwarded-For": f"198.51.100.{number}"})
        for number in range(3)
    ]
    assert answers == [400, 400, 429]
