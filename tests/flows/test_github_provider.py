"""GitHub as identity provider: memberships, Enterprise Server, and failures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from auth_service.app.flask_app import create_app
from auth_service.settings import Credentials, Settings
from local import github

from .conftest import OAuthTestClient, make_parts

CREDENTIALS = Credentials(client_secret="upstream-secret", master_key=b"m" * 32)
Reconfigure = Callable[..., None]


@pytest.fixture
def reconfigure(oauth: OAuthTestClient, settings: Settings, tmp_path: Path) -> Reconfigure:
    """Restart the service with other settings on the same state."""

    def apply(**changes: Any) -> None:
        changed = Settings.model_validate({**settings.model_dump(), **changes})
        browser = oauth.browser
        oauth.app = create_app(make_parts(changed, CREDENTIALS, oauth.store))
        oauth.browser = oauth.new_browser()
        oauth.browser._cookies = browser._cookies

    return apply


def log_in(oauth: OAuthTestClient, login: str = "hubot", **parameters: str) -> tuple[str, dict[str, Any]]:
    client_id = oauth.register()["client_id"]
    return client_id, oauth.redeem(client_id, oauth.obtain_code(client_id, login=login, **parameters)).get_json()


def refresh(oauth: OAuthTestClient, client_id: str, issued: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    response = oauth.token(grant_type="refresh_token", client_id=client_id, refresh_token=issued["refresh_token"])
    return response.status_code, response.get_json()


@pytest.mark.parametrize(
    ("allowed", "admitted"),
    [
        ({"users": ["hubot"]}, {"hubot"}),
        ({"users": ["HuBot"]}, {"hubot"}),
        ({"organizations": ["acme"]}, {"octocat", "hubot"}),
        ({"organizations": ["ACME"]}, {"octocat", "hubot"}),
        ({"teams": ["acme/platform"]}, {"octocat"}),
        ({"teams": ["Acme/Platform"]}, {"octocat"}),
        ({"teams": ["acme/other"]}, set()),
        ({"teams": ["other/platform"]}, set()),
        ({"organizations": ["acm"]}, set()),
        ({"users": ["stranger"], "teams": ["acme/platform"]}, {"octocat", "stranger"}),
        ({}, set()),
    ],
)
def test_exactly_those_on_a_list_come_in(
    oauth: OAuthTestClient, reconfigure: Reconfigure, allowed: dict[str, list[str]], admitted: set[str]
) -> None:
    reconfigure(allowed=allowed)
    came_in = set()
    for login in ("octocat", "hubot", "stranger"):
        oauth.browser = oauth.new_browser()
        approved = oauth.decide(oauth.authorize(oauth.register()["client_id"]))
        if oauth.follow(oauth.log_in(approved, login)).status_code == 303:
            came_in.add(login)
    assert came_in == admitted


def test_a_team_member_is_out_at_the_next_refresh_after_leaving_the_team(
    oauth: OAuthTestClient, reconfigure: Reconfigure
) -> None:
    reconfigure(allowed={"teams": ["acme/platform"]})
    client_id, issued = log_in(oauth, "octocat")
    status, issued = refresh(oauth, client_id, issued)
    assert status == 200
    oauth.stand_in.users[:] = [replace(user, teams=()) for user in oauth.stand_in.users]
    assert refresh(oauth, client_id, issued)[1]["error"] == "invalid_grant"


def test_a_pending_invitation_is_no_membership(oauth: OAuthTestClient, reconfigure: Reconfigure) -> None:
    reconfigure(allowed={"organizations": ["acme"]})
    oauth.stand_in.faults["/user/memberships/orgs/acme"] = github.Fault(200, '{"state": "pending"}')
    approved = oauth.decide(oauth.authorize(oauth.register()["client_id"]))
    assert oauth.follow(oauth.log_in(approved, "hubot")).status_code == 403


def test_a_servers_own_list_replaces_the_gateways(
    oauth: OAuthTestClient, settings: Settings, reconfigure: Reconfigure
) -> None:
    resources = settings.model_dump()["resources"]
    resources["fetch"]["allowed"] = {"organizations": ["acme"]}
    reconfigure(allowed={"users": ["stranger"]}, resources=resources)
    fetch = "https://fetch.example.com/mcp"
    assert "access_token" in log_in(oauth, "hubot", resource=fetch)[1]
    oauth.browser = oauth.new_browser()
    assert "access_token" in log_in(oauth, "stranger")[1]
    for login, resource in (("hubot", "https://time.example.com/mcp"), ("stranger", fetch)):
        oauth.browser = oauth.new_browser()
        approved = oauth.decide(oauth.authorize(oauth.register()["client_id"], resource=resource))
        assert oauth.follow(oauth.log_in(approved, login)).status_code == 403


def test_a_list_that_changes_from_users_to_organizations_keeps_the_logins_of_members(
    oauth: OAuthTestClient, settings: Settings, reconfigure: Reconfigure
) -> None:
    resources = settings.model_dump()["resources"]
    resources["fetch"]["allowed"] = {"organizations": ["acme"]}  # so that logins may read memberships at all
    reconfigure(allowed={"users": ["hubot", "stranger"]}, resources=resources)
    member, of_member = log_in(oauth, "hubot")
    oauth.browser = oauth.new_browser()
    stranger, of_stranger = log_in(oauth, "stranger")
    reconfigure(allowed={"organizations": ["acme"]}, resources=resources)
    assert refresh(oauth, member, of_member)[0] == 200
    assert refresh(oauth, stranger, of_stranger)[1]["error"] == "invalid_grant"


def test_a_login_that_may_not_read_memberships_has_to_be_repeated_once_those_count(
    oauth: OAuthTestClient, reconfigure: Reconfigure
) -> None:
    reconfigure(allowed={"users": ["hubot"]})
    client_id, issued = log_in(oauth, "hubot")
    reconfigure(allowed={"organizations": ["acme"]})
    assert refresh(oauth, client_id, issued)[1]["error"] == "invalid_grant"
    assert "access_token" in log_in(oauth, "hubot")[1]


def test_a_user_on_the_list_refreshes_while_github_is_down(oauth: OAuthTestClient) -> None:
    client_id, issued = log_in(oauth, "octocat")
    oauth.stand_in.faults["/user"] = github.Fault()
    assert refresh(oauth, client_id, issued)[0] == 200


def test_a_user_taken_off_the_list_is_out_at_the_next_refresh(oauth: OAuthTestClient, reconfigure: Reconfigure) -> None:
    client_id, issued = log_in(oauth, "octocat")
    reconfigure(allowed={"users": ["hubot"]})
    assert refresh(oauth, client_id, issued)[1]["error"] == "invalid_grant"


def test_a_login_name_taken_over_by_another_account_opens_nothing(oauth: OAuthTestClient) -> None:
    log_in(oauth, "octocat")
    oauth.stand_in.users[:] = [github.User("octocat", 31337), github.User("renamed", 583231)]
    oauth.browser = oauth.new_browser()
    approved = oauth.decide(oauth.authorize(oauth.register()["client_id"]))
    assert oauth.follow(oauth.log_in(approved, "octocat")).status_code == 403
    oauth.browser = oauth.new_browser()
    assert "access_token" in log_in(oauth, "renamed")[1]


FAULTS = [
    github.Fault(500, "oops"),
    github.Fault(502, "<html>"),
    github.Fault(429, "{}", {"Retry-After": "60"}),
    github.Fault(403, "{}", {"X-RateLimit-Remaining": "0"}),
    github.Fault(302, "", {"Location": "https://evil.example/"}),
    github.Fault(200, "not json"),
    github.Fault(200, "[]"),
    github.Fault(200, "null"),
    github.Fault(200, '"text"'),
    github.Fault(200, "[" * 100_000),
    github.Fault(200, " " * ((1 << 20) + 1)),
    github.Fault(200, ""),
]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("path", ["/login/oauth/access_token", "/user", "/user/memberships/orgs/acme"])
def test_a_failing_github_grants_nothing_and_says_so_and_recovers(
    oauth: OAuthTestClient, reconfigure: Reconfigure, path: str, fault: github.Fault
) -> None:
    reconfigure(allowed={"organizations": ["acme"]})
    client_id = oauth.register()["client_id"]
    callback = oauth.log_in(oauth.decide(oauth.authorize(client_id)), "hubot")
    oauth.stand_in.faults[path] = fault
    response = oauth.follow(callback)
    assert (response.status_code, response.mimetype) == (503, "text/html")
    assert "Location" not in response.headers
    oauth.stand_in.faults.clear()
    code = oauth.obtain_code(client_id, login="hubot")
    issued = oauth.redeem(client_id, code).get_json()
    if path != "/login/oauth/access_token":
        oauth.stand_in.faults[path] = fault
        assert refresh(oauth, client_id, issued)[0] == 503
        oauth.stand_in.faults.clear()
    assert refresh(oauth, client_id, issued)[0] == 200


@pytest.mark.parametrize(
    "user",
    [
        '{"id": 583231}',
        '{"login": "octocat"}',
        '{"id": "583231", "login": "octocat"}',
        '{"id": true, "login": "octocat"}',
        '{"id": 0, "login": "octocat"}',
        '{"id": -1, "login": "octocat"}',
        '{"id": 583231, "login": null}',
        '{"id": 583231, "login": "octo/../cat"}',
        '{"id": 583231, "login": "octocat\\n"}',
        '{"id": 583231.5, "login": "octocat"}',
    ],
)
def test_a_user_without_a_sound_id_and_login_is_nobody(oauth: OAuthTestClient, user: str) -> None:
    callback = oauth.log_in(oauth.decide(oauth.authorize(oauth.register()["client_id"])))
    oauth.stand_in.faults["/user"] = github.Fault(200, user)
    assert oauth.follow(callback).status_code == 503


def test_a_token_that_was_revoked_at_the_provider_ends_the_login_of_a_member(
    oauth: OAuthTestClient, reconfigure: Reconfigure
) -> None:
    reconfigure(allowed={"organizations": ["acme"]})
    client_id, issued = log_in(oauth, "hubot")
    oauth.stand_in.faults["/user"] = github.Fault(401, '{"message": "Bad credentials"}')
    assert refresh(oauth, client_id, issued)[1]["error"] == "invalid_grant"


@pytest.mark.parametrize("error", [requests.ReadTimeout, requests.ConnectTimeout, requests.ConnectionError])
def test_a_github_that_does_not_answer_in_time_grants_nothing(
    oauth: OAuthTestClient, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    callback = oauth.log_in(oauth.decide(oauth.authorize(oauth.register()["client_id"])))
    timeouts = []

    def fail(_adapter: Any, _request: Any, **options: Any) -> requests.Response:
        timeouts.append(options["timeout"])
        raise error

    adapter = requests.Session().get_adapter("https://github.example.net")
    monkeypatch.setattr(type(adapter), "send", fail)
    assert oauth.follow(callback).status_code == 503
    assert all(timeout is not None and max(timeout) <= 10 for timeout in timeouts)


def test_an_enterprise_server_is_asked_below_its_own_urls(
    oauth: OAuthTestClient, reconfigure: Reconfigure, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, api_url = "https://ghe.example.net", "https://ghe.example.net/api/v3"
    provider = {"type": "github", "client_id": "app", "url": url, "api_url": api_url}
    reconfigure(identity_provider=provider, allowed={"teams": ["acme/platform"]})
    adapter = requests.Session().get_adapter(url)
    asked: list[str] = []
    send = type(adapter).send

    def record(self: Any, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        asked.append(str(request.url))
        request.url = str(request.url).replace("/api/v3", "")
        return send(self, request, **options)

    monkeypatch.setattr(type(adapter), "send", record)
    monkeypatch.setattr("tests.flows.conftest.GITHUB", url)
    client_id = oauth.register()["client_id"]
    approved = oauth.decide(oauth.authorize(client_id))
    assert approved.location.startswith(f"{url}/login/oauth/authorize?")
    callback = (
        github.create_app(oauth.stand_in)
        .test_client()
        .post(approved.location.removeprefix(url), data={"login": "octocat"})
    )
    assert oauth.follow(callback.location).status_code == 303
    assert asked == [
        f"{url}/login/oauth/access_token",
        f"{api_url}/user",
        f"{api_url}/orgs/acme/teams/platform/memberships/octocat",
    ]
