"""The home page shows visitors what they may know of, and what to give to each client."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html import unescape
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from werkzeug.test import TestResponse

from auth_service.backends.server_states import ServerStates, State
from auth_service.settings import Settings
from auth_service.storage.key_names import login_key
from tests.browser import Form

from .conftest import ISSUER, RESOURCE, OAuthTestClient

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Octocat may use both servers, hubot only one."""
    document = settings.model_dump() | {"allowed": {"users": ["octocat", "hubot"]}}
    document["resources"]["time"] |= {"title": "The <clock>", "description": "Tells the time", "network": "none"}
    document["resources"]["fetch"]["allowed"] = {"users": ["octocat"]}
    return Settings.model_validate(document)


def serve(oauth: OAuthTestClient, **changes: object) -> None:
    """Serve with changed settings."""
    oauth.settings = Settings.model_validate(oauth.settings.model_dump() | changes)
    oauth.__post_init__()


def open_home(oauth: OAuthTestClient) -> TestResponse:
    return oauth.browser.get("/", base_url=ISSUER)


def sign_in(oauth: OAuthTestClient, login: str = "octocat") -> TestResponse:
    """Sign in from the home page and return the page that this leads to."""
    form = Form(open_home(oauth).text)
    assert form.action == f"{ISSUER}/account"
    sent = oauth.browser.post("/account", data=form.fields, base_url=ISSUER)
    back = oauth.follow(oauth.log_in(sent, login))
    assert (back.status_code, back.location) == (303, f"{ISSUER}/")
    return open_home(oauth)


def test_a_visitor_sees_how_to_sign_in_and_no_server(oauth: OAuthTestClient) -> None:
    page = open_home(oauth)
    assert page.status_code == 200
    assert "Sign in with GitHub" in page.text
    for secret in ("time", "clock", "fetch"):
        assert secret not in page.text.lower().replace("timeout", "")


def test_users_see_the_servers_that_are_open_to_them_and_no_others(oauth: OAuthTestClient) -> None:
    page = sign_in(oauth)
    for shown in ("The &lt;clock&gt;", "Tells the time", "sandboxed, no network", RESOURCE, "fetch.example.com"):
        assert shown in page.text
    oauth.browser = oauth.new_browser()
    page = sign_in(oauth, "hubot")
    assert RESOURCE in page.text
    assert "fetch" not in page.text


def test_a_user_on_no_list_is_told_so_and_nothing_is_kept_about_them(oauth: OAuthTestClient) -> None:
    page = sign_in(oauth, "stranger")
    assert "If that\n  shows none, ask the operator of this gateway." in page.text
    assert RESOURCE not in page.text
    assert not list(oauth.store.redis.scan_iter(login_key("*")))
    assert not list(oauth.store.redis.scan_iter("profile-of-user:*"))


def test_a_user_without_grants_sees_what_the_present_lists_open_while_signed_in(oauth: OAuthTestClient) -> None:
    sign_in(oauth)
    oauth.store.redis.delete(login_key("github:583231"))
    assert "fetch.example.com" in open_home(oauth).text
    oauth.reload(resources={"fetch": {"allowed": {"users": ["hubot"]}}})
    page = open_home(oauth).text
    assert RESOURCE in page
    assert "fetch" not in page
    oauth.browser = oauth.new_browser()
    assert RESOURCE not in open_home(oauth).text


def test_a_sign_in_of_a_user_who_may_use_nothing_forgets_what_an_earlier_one_showed(oauth: OAuthTestClient) -> None:
    oauth.reload(allowed={"users": [], "organizations": ["acme"]}, resources={"fetch": {"allowed": None}})
    assert RESOURCE in sign_in(oauth, "hubot").text
    former = oauth.browser
    oauth.store.redis.delete(login_key("github:480938"))
    oauth.stand_in.users[:] = [replace(user, organizations=(), teams=()) for user in oauth.stand_in.users]
    oauth.browser = oauth.new_browser()
    assert RESOURCE not in sign_in(oauth, "hubot").text
    oauth.browser = former
    page = open_home(oauth).text
    assert "You are signed in as" in page
    assert RESOURCE not in page


def test_looking_pins_no_login_name(oauth: OAuthTestClient) -> None:
    sign_in(oauth)
    assert oauth.store.pins.find("github") == {}


def test_each_client_is_given_steps_or_a_link(oauth: OAuthTestClient) -> None:
    page = unescape(sign_in(oauth).text)
    assert f"claude mcp add --transport http time {RESOURCE} && claude mcp login time" in page
    assert f"codex mcp add time --url {RESOURCE}" in page
    cursor = next(part for part in page.split('"') if part.startswith("cursor://"))
    parameters = parse_qs(urlsplit(cursor).query)
    assert parameters["name"] == ["time"]
    assert json.loads(base64.b64decode(parameters["config"][0])) == {"url": RESOURCE}
    vscode = next(part for part in page.split('"') if part.startswith("vscode:mcp/install?"))
    assert json.loads(unquote(vscode.partition("?")[2])) == {"name": "time", "type": "http", "url": RESOURCE}


def test_untested_clients_are_said_to_be_untested(oauth: OAuthTestClient) -> None:
    page = sign_in(oauth).text
    for name, tried in (("Claude Code", True), ("ChatGPT", False), ("Cursor", False)):
        summary = next(part for part in page.split("<summary>") if part.startswith(name)).partition("</summary>")[0]
        assert ("untested" in summary) is not tried


@pytest.mark.parametrize(
    ("state", "shown"),
    [(State.ANSWERS, "Up"), (State.FAILING, "Failed at its last use"), (State.SILENT, "Does not answer")],
)
def test_the_page_says_whether_a_server_answers(
    oauth: OAuthTestClient, monkeypatch: pytest.MonkeyPatch, state: State, shown: str
) -> None:
    monkeypatch.setattr(ServerStates, "find", lambda _self, names: dict.fromkeys(names, state))
    assert f"<dt>State</dt><dd>{shown}" in re.sub("<strong>", "", sign_in(oauth).text)


def test_after_the_profile_has_gone_a_signed_in_user_is_asked_to_sign_in_again(oauth: OAuthTestClient) -> None:
    sign_in(oauth)
    oauth.store.redis.delete(login_key("github:583231"))
    oauth.store.sessions.forget_profile("github:583231")
    page = open_home(oauth)
    assert "The gateway does not know now which servers are open to you. Sign in again to see them." in page.text
    assert "Sign in again with GitHub" in page.text
    form = Form(page.text)
    sent = oauth.browser.post("/account", data=form.fields | {"action": "sign-in"}, base_url=ISSUER)
    assert oauth.follow(oauth.log_in(sent)).location == f"{ISSUER}/"
    assert RESOURCE in open_home(oauth).text


def test_a_login_for_a_client_opens_the_home_page_too(oauth: OAuthTestClient) -> None:
    oauth.obtain_code(oauth.register()["client_id"])
    assert RESOURCE in open_home(oauth).text


@pytest.mark.parametrize("public", [True, False])
def test_the_operator_may_show_the_servers_to_everyone(oauth: OAuthTestClient, *, public: bool) -> None:
    serve(oauth, home_page={"public": public})
    page = open_home(oauth)
    assert (RESOURCE in page.text) is public
    assert "Sign in with GitHub" in page.text
    assert "Does not answer" not in page.text


def test_the_operator_may_have_no_home_page(oauth: OAuthTestClient) -> None:
    serve(oauth, home_page={"enabled": False})
    assert open_home(oauth).status_code == 404
    assert oauth.browser.get("/visits/time/401").status_code == 404
    assert f'href="{ISSUER}/"' not in oauth.browser.get("/account", base_url=ISSUER).text


# Browsers at servers' URLs


def test_a_browser_at_a_servers_url_is_shown_the_way_and_keeps_the_challenge(oauth: OAuthTestClient) -> None:
    page = oauth.browser.get("/visits/time/401", headers=BROWSER, base_url="https://time.example.com")
    assert page.status_code == 401
    assert page.headers["WWW-Authenticate"] == (
        'Bearer resource_metadata="https://time.example.com/.well-known/oauth-protected-resource/mcp", scope="mcp"'
    )
    assert RESOURCE in page.text
    assert f'href="{ISSUER}/"' in page.text
    assert "clock" not in page.text
    assert "Tells the time" not in page.text


def test_a_browser_at_a_servers_host_is_shown_the_same_and_no_challenge(oauth: OAuthTestClient) -> None:
    page = oauth.browser.get("/visits/time/200", headers=BROWSER, base_url="https://time.example.com")
    assert page.status_code == 200
    assert "WWW-Authenticate" not in page.headers
    assert RESOURCE in page.text


@pytest.mark.parametrize("path", ["/visits/other/401", "/visits/time/500", "/visits/time/x"])
def test_a_visit_of_nothing_is_not_found(oauth: OAuthTestClient, path: str) -> None:
    assert oauth.browser.get(path, base_url=ISSUER).status_code == 404


def test_a_form_of_another_site_starts_no_sign_in(oauth: OAuthTestClient) -> None:
    form = Form(open_home(oauth).text).fields
    response = oauth.browser.post("/account", data=form, headers={"Sec-Fetch-Site": "cross-site"}, base_url=ISSUER)
    assert response.status_code == 400
    assert response.location is None
