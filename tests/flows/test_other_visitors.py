"""Requests to a login's URLs from programs and other browsers, and browsers that send no cookie."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from werkzeug.test import TestResponse

from tests.browser import Form

from .conftest import ISSUER, OAuthTestClient, parameters_of

HTTPS_REDIRECT = "https://app.example.org/callback"
OTHER_REDIRECT = "https://app.example.org/other"


def begin(oauth: OAuthTestClient) -> str:
    """Return the callback's URL of a login that is all but finished."""
    return oauth.log_in(oauth.decide(oauth.authorize(oauth.register()["client_id"])))


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_a_program_that_opens_the_callback_uses_up_no_login(oauth: OAuthTestClient, method: str) -> None:
    callback = begin(oauth)
    for visitor in (oauth.app.test_client(use_cookies=False), oauth.new_browser()):
        answer = visitor.open(callback, method=method, base_url=ISSUER)
        assert answer.location is None
    assert "code" in parameters_of(oauth.follow(callback))


@pytest.mark.parametrize("has_cookie", [True, False])
def test_another_browser_that_opens_the_callback_ends_the_login(oauth: OAuthTestClient, has_cookie: bool) -> None:
    """Its user may have been sent there by an attacker, who began the login and now asks for the URL."""
    callback, own = begin(oauth), begin(oauth)
    other = oauth.new_browser()
    if has_cookie:
        other.set_cookie("__Host-mcp-gateway-browser", "x" * 43, domain="auth.example.com", secure=True)
    headers = {} if has_cookie else {"Sec-Fetch-Mode": "navigate"}
    answer = other.get(callback, headers=headers, base_url=ISSUER)
    late = oauth.follow(callback)  # with the code of the other browser's user
    for each in (answer, late):
        assert each.status_code == 400
        assert each.location is None
    assert "code" in parameters_of(oauth.follow(own)), "another login of that browser goes on"


@pytest.mark.parametrize("state", ["", "x", "x" * 43])
def test_a_browser_with_an_unknown_state_ends_no_login(oauth: OAuthTestClient, state: str) -> None:
    callback = begin(oauth)
    other = oauth.new_browser()
    headers = {"Sec-Fetch-Mode": "navigate"}
    assert other.get("/callback", query_string={"state": state}, headers=headers, base_url=ISSUER).status_code == 400
    assert "code" in parameters_of(oauth.follow(callback))


def test_a_head_request_of_the_browser_itself_uses_no_login_up(oauth: OAuthTestClient) -> None:
    callback = begin(oauth)
    answer = oauth.browser.head(callback, base_url=ISSUER)
    assert answer.status_code == 200
    assert answer.location is None
    assert "code" in parameters_of(oauth.follow(callback))


def test_a_login_ends_once_however_often_its_browser_comes_back(oauth: OAuthTestClient) -> None:
    callback = begin(oauth)
    cookie = oauth.browser.get_cookie("__Host-mcp-gateway-browser", domain="auth.example.com")
    assert cookie is not None

    def come_back(_: int) -> TestResponse:
        header = {"Cookie": f"__Host-mcp-gateway-browser={cookie.value}"}
        return oauth.app.test_client(use_cookies=False).get(callback, headers=header, base_url=ISSUER)

    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(answer.status_code for answer in pool.map(come_back, range(8)))
    assert statuses == [303] + [400] * 7


def test_a_browser_that_blocks_cookies_is_told_so(oauth: OAuthTestClient) -> None:
    blocking = oauth.app.test_client(use_cookies=False)
    query = oauth.authorize(oauth.register()["client_id"])
    for decision in ("approve", "deny"):
        consent = blocking.post("/consent", data=Form(query.text).fields | {"decision": decision}, base_url=ISSUER)
        assert consent.status_code == 400
        assert consent.location is None
        assert "sent no cookie" in consent.text
        assert "Allow cookies for auth.example.com" in consent.text
        assert "too old" not in consent.text
    account = blocking.get("/account", base_url=ISSUER)
    answer = blocking.post("/account", data=Form(account.text).fields, base_url=ISSUER)
    assert answer.status_code == 400
    assert answer.location is None
    assert "Allow cookies for auth.example.com" in answer.text
    callback = blocking.get(begin(oauth), base_url=ISSUER)
    assert callback.status_code == 400
    assert "cookies for auth.example.com" in callback.text


def test_another_browser_is_not_told_to_allow_the_cookies_that_it_sends(oauth: OAuthTestClient) -> None:
    page, callback = oauth.authorize(oauth.register()["client_id"]), begin(oauth)
    other = oauth.new_browser()
    other.get("/account", base_url=ISSUER)
    consent = other.post("/consent", data=Form(page.text).fields | {"decision": "approve"}, base_url=ISSUER)
    assert consent.status_code == 400
    assert "no cookie" not in consent.text
    assert "no cookie" not in other.get(callback, base_url=ISSUER).text


BEFORE = "You have allowed this before"


def test_only_an_address_that_was_allowed_was_allowed_before(oauth: OAuthTestClient) -> None:
    registered = oauth.register(redirect_uris=[HTTPS_REDIRECT, OTHER_REDIRECT, "http://127.0.0.1/callback"])
    client_id = registered["client_id"]
    oauth.obtain_code(client_id, redirect_uri=HTTPS_REDIRECT)
    assert BEFORE in oauth.authorize(client_id, redirect_uri=HTTPS_REDIRECT).text
    for other in (OTHER_REDIRECT, "http://127.0.0.1:4711/callback"):
        assert BEFORE not in oauth.authorize(client_id, redirect_uri=other).text
    oauth.obtain_code(client_id, redirect_uri="http://127.0.0.1:4711/callback")
    assert BEFORE in oauth.authorize(client_id, redirect_uri="http://127.0.0.1:4712/callback").text
    assert BEFORE not in oauth.authorize(client_id, redirect_uri=OTHER_REDIRECT).text
    assert (
        BEFORE
        not in oauth.authorize(client_id, redirect_uri=HTTPS_REDIRECT, resource="https://fetch.example.com/mcp").text
    )
    oauth.change_registration(registered, client_name="Another name")
    assert BEFORE not in oauth.authorize(client_id, redirect_uri=HTTPS_REDIRECT).text
