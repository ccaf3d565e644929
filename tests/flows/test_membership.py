"""Members of organizations: admitted at login, and checked again at each refresh."""

from __future__ import annotations

from dataclasses import replace

import pytest

from auth_service.settings import Settings
from local import github

from .conftest import ISSUER, RESOURCE, OAuthTestClient


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Members of one organization may come in, nobody by name."""
    return Settings.model_validate({**settings.model_dump(), "allowed": {"organizations": ["acme"]}})


def test_a_member_may_refresh_until_the_membership_ends(oauth: OAuthTestClient) -> None:
    client_id = oauth.register()["client_id"]
    issued = oauth.redeem(client_id, oauth.obtain_code(client_id, login="hubot")).get_json()

    def refresh(token: str) -> dict[str, str]:
        response = oauth.token(grant_type="refresh_token", client_id=client_id, refresh_token=token)
        body: dict[str, str] = response.get_json()
        return body

    refreshed = refresh(issued["refresh_token"])
    assert "access_token" in refreshed
    assert RESOURCE in oauth.browser.get("/", base_url=ISSUER).text
    oauth.stand_in.users[:] = [replace(user, organizations=(), teams=()) for user in oauth.stand_in.users]
    assert refresh(refreshed["refresh_token"])["error"] == "invalid_grant"
    page = oauth.browser.get("/", base_url=ISSUER).text
    assert "You are signed in as" in page
    assert RESOURCE not in page


def test_refreshing_grants_nothing_while_github_does_not_answer_and_costs_nothing_after(oauth: OAuthTestClient) -> None:
    client_id = oauth.register()["client_id"]
    issued = oauth.redeem(client_id, oauth.obtain_code(client_id, login="hubot")).get_json()

    def refresh() -> int:
        return oauth.token(
            grant_type="refresh_token", client_id=client_id, refresh_token=issued["refresh_token"]
        ).status_code

    oauth.stand_in.faults["/user"] = github.Fault()
    assert refresh() == 503
    oauth.stand_in.faults.clear()
    assert refresh() == 200


def test_someone_outside_the_organization_gets_no_code(oauth: OAuthTestClient) -> None:
    approved = oauth.decide(oauth.authorize(oauth.register()["client_id"]))
    assert oauth.follow(oauth.log_in(approved, "stranger")).status_code == 403


@pytest.mark.parametrize(
    "fault",
    [
        github.Fault(403, "{}", {"X-RateLimit-Remaining": "0"}),
        github.Fault(403, "{}", {"Retry-After": "60"}),
        github.Fault(403, '{"message": "You have exceeded a secondary rate limit"}'),
    ],
)
def test_a_rate_limit_is_not_taken_for_a_membership_that_ended(oauth: OAuthTestClient, fault: github.Fault) -> None:
    client_id = oauth.register()["client_id"]
    issued = oauth.redeem(client_id, oauth.obtain_code(client_id, login="hubot")).get_json()
    oauth.stand_in.faults["/user/memberships/orgs/acme"] = fault
    refresh = {"grant_type": "refresh_token", "client_id": client_id, "refresh_token": issued["refresh_token"]}
    assert oauth.token(**refresh).status_code == 503
    oauth.stand_in.faults.clear()
    assert oauth.token(**refresh).status_code == 200
