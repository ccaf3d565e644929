"""GitHub is slow, fails or sends invalid answers: no user gets access, the page says so, and the next try works."""

from __future__ import annotations

import pytest

from auth_service.settings import Settings
from local.github import Fault

from .conftest import OAuthTestClient

FAULTS = {
    "500": Fault(500, "oops"),
    "502 page": Fault(502, "<html>bad gateway</html>", {"Content-Type": "text/html"}),
    "malformed": Fault(200, "{"),
    "empty": Fault(200, ""),
    "not an object": Fault(200, "[]"),
    "not text": Fault(200, "\x00\ufffd"),
    "nested deeply": Fault(200, "[" * 50_000),
    "huge": Fault(200, '{"login": "' + "x" * 2_000_000 + '"}'),
    "rate limit": Fault(429, "{}", {"Retry-After": "60"}),
    "primary rate limit": Fault(403, "{}", {"X-RateLimit-Remaining": "0"}),
    "redirect": Fault(302, "", {"Location": "https://evil.example/"}),
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Members of one organization may come in, so that each refresh asks GitHub."""
    return Settings.model_validate({**settings.model_dump(), "allowed": {"organizations": ["acme"]}})


@pytest.mark.parametrize("path", ["/login/oauth/access_token", "/user", "/user/memberships/orgs/acme"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
def test_a_login_that_github_spoils_yields_no_code_and_the_next_one_works(
    oauth: OAuthTestClient, path: str, fault: Fault
) -> None:
    client_id = oauth.register()["client_id"]
    callback = oauth.log_in(oauth.decide(oauth.authorize(client_id)), "hubot")
    oauth.stand_in.faults[path] = fault
    response = oauth.follow(callback)
    assert response.status_code in {303, 503}
    assert "code=" not in (response.location or "")
    oauth.stand_in.faults.clear()
    assert oauth.redeem(client_id, oauth.obtain_code(client_id, login="hubot")).status_code == 200


@pytest.mark.parametrize("path", ["/user", "/user/memberships/orgs/acme"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
def test_a_refresh_that_github_spoils_grants_nothing_and_ends_nothing(
    oauth: OAuthTestClient, path: str, fault: Fault
) -> None:
    client_id = oauth.register()["client_id"]
    issued = oauth.redeem(client_id, oauth.obtain_code(client_id, login="hubot")).get_json()
    refresh = {"grant_type": "refresh_token", "client_id": client_id, "refresh_token": issued["refresh_token"]}
    oauth.stand_in.faults[path] = fault
    response = oauth.token(**refresh)
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    oauth.stand_in.faults.clear()
    assert oauth.token(**refresh).status_code == 200
