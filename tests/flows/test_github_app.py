"""GitHub Apps: tokens of users expire after eight hours and are renewed, and members keep access."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import parse_qsl

import pytest
import requests
import time_machine

from auth_service.settings import Settings
from local import github

from .conftest import OAuthTestClient

TOKEN_PATH = "/login/oauth/access_token"
EIGHT_HOURS = 8 * 3600


class App:
    """What the stand-in answers as a GitHub App, and what it was asked."""

    def __init__(self, oauth: OAuthTestClient, monkeypatch: pytest.MonkeyPatch) -> None:
        self._world = oauth
        self.asked: list[dict[str, str]] = []
        """What the token endpoint was asked for."""
        self.tokens: list[str] = []
        """The access tokens that came with questions about users."""
        adapter = type(requests.Session().get_adapter("https://github.example.net"))
        send = adapter.send

        def record(adapter: Any, request: requests.PreparedRequest, **options: Any) -> requests.Response:
            if str(request.url).endswith(TOKEN_PATH):
                self.asked.append(dict(parse_qsl(str(request.body))))
            elif str(request.url).endswith("/user"):
                self.tokens.append(request.headers["Authorization"].removeprefix("Bearer "))
            return send(adapter, request, **options)

        monkeypatch.setattr(adapter, "send", record)

    def issue(self, number: int, **changes: Any) -> str:
        """Have the token endpoint answer with tokens of hubot from now on; return the access token."""
        claims = {"user": 480938, "scope": "read:org", "nonce": str(number)}
        access_token = f"gho_{github._serializer(self._world.stand_in, 'token').dumps(claims)}"
        answer = {
            "access_token": access_token,
            "expires_in": EIGHT_HOURS,
            "refresh_token": f"ghr_{number}",
            "refresh_token_expires_in": 15811200,
            "scope": "",
            "token_type": "bearer",
        } | changes
        self.answer(200, json.dumps(answer))
        return access_token

    def answer(self, status: int, body: str) -> None:
        """Have the token endpoint answer with that."""
        self._world.stand_in.faults[TOKEN_PATH] = github.Fault(status, body)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Members of one organization may come in, nobody by name."""
    return Settings.model_validate({**settings.model_dump(), "allowed": {"organizations": ["acme"]}})


@pytest.fixture
def app(oauth: OAuthTestClient, monkeypatch: pytest.MonkeyPatch) -> App:
    return App(oauth, monkeypatch)


def log_in(oauth: OAuthTestClient) -> tuple[str, dict[str, Any]]:
    client_id = oauth.register()["client_id"]
    return client_id, oauth.redeem(client_id, oauth.obtain_code(client_id, login="hubot")).get_json()


def refresh(oauth: OAuthTestClient, client_id: str, issued: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    response = oauth.token(grant_type="refresh_token", client_id=client_id, refresh_token=issued["refresh_token"])
    return response.status_code, response.get_json()


@pytest.mark.parametrize(
    "lifetime", [None, "soon", "9" * 5000, 10**400], ids=["none", "no number", "long text", "huge number"]
)
def test_a_lifetime_that_is_none_fails_no_login(oauth: OAuthTestClient, app: App, lifetime: object) -> None:
    app.issue(1, expires_in=lifetime)
    client_id, issued = log_in(oauth)
    assert refresh(oauth, client_id, issued)[0] == 200


@pytest.mark.parametrize("lifetime", [EIGHT_HOURS, str(EIGHT_HOURS)])
def test_a_member_stays_beyond_the_end_of_githubs_token(oauth: OAuthTestClient, app: App, lifetime: int | str) -> None:
    first = app.issue(1, expires_in=lifetime)
    client_id, issued = log_in(oauth)
    second = app.issue(2)
    status, issued = refresh(oauth, client_id, issued)
    assert (status, len(app.asked)) == (200, 1)  # the token is good: no other is asked for
    with time_machine.travel(time.time() + EIGHT_HOURS) as clock:
        status, issued = refresh(oauth, client_id, issued)
        assert status == 200
        third = app.issue(3)
        clock.shift(EIGHT_HOURS)
        assert refresh(oauth, client_id, issued)[0] == 200
    assert app.tokens == [first, first, second, third]
    sent = {"client_id": "app", "client_secret": "upstream-secret", "grant_type": "refresh_token"}
    assert app.asked[1:] == [sent | {"refresh_token": "ghr_1"}, sent | {"refresh_token": "ghr_2"}]


def test_a_member_who_left_is_out_as_ever(oauth: OAuthTestClient, app: App) -> None:
    app.issue(1)
    client_id, issued = log_in(oauth)
    app.issue(2)
    oauth.stand_in.faults["/user/memberships/orgs/acme"] = github.Fault(404, "{}")
    with time_machine.travel(time.time() + EIGHT_HOURS):
        assert refresh(oauth, client_id, issued)[1]["error"] == "invalid_grant"


@pytest.mark.parametrize("status", [200, 400])
def test_one_whose_refresh_token_github_refuses_has_to_log_in_anew(
    oauth: OAuthTestClient, app: App, status: int
) -> None:
    app.issue(1)
    client_id, issued = log_in(oauth)
    app.answer(status, '{"error": "bad_refresh_token"}')
    with time_machine.travel(time.time() + EIGHT_HOURS):
        assert refresh(oauth, client_id, issued)[1]["error"] == "invalid_grant"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, '{"error": "incorrect_client_credentials"}'),
        (200, "{}"),
        (200, "nonsense"),
        (400, "nonsense"),
        (404, "{}"),
        (403, "{}"),
        (500, ""),
        (429, "{}"),
    ],
)
def test_a_github_that_renews_nothing_ends_nothing(oauth: OAuthTestClient, app: App, status: int, body: str) -> None:
    app.issue(1)
    client_id, issued = log_in(oauth)
    app.answer(status, body)
    with time_machine.travel(time.time() + EIGHT_HOURS):
        assert refresh(oauth, client_id, issued)[0] == 503
        app.issue(2)
        assert refresh(oauth, client_id, issued)[0] == 200


def test_new_tokens_are_kept_although_github_fails_after_that(oauth: OAuthTestClient, app: App) -> None:
    app.issue(1)
    client_id, issued = log_in(oauth)
    app.issue(2)
    oauth.stand_in.faults["/user"] = github.Fault()
    with time_machine.travel(time.time() + EIGHT_HOURS):
        assert refresh(oauth, client_id, issued)[0] == 503
        app.answer(200, '{"error": "bad_refresh_token"}')  # the first was used
        oauth.stand_in.faults.pop("/user")
        assert refresh(oauth, client_id, issued)[0] == 200
