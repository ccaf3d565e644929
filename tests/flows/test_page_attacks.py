"""Attacks by hostile text in pages, redirects and cookies."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from werkzeug.test import TestResponse

from auth_service.protocol.errors import ServiceUnavailable
from local import github
from tests.browser import Form

from .conftest import GITHUB, ISSUER, REDIRECT, OAuthTestClient, authorization_query, parameters_of

MARKUP = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{1234*4321}}"
EVIL = "https://evil.example/"


class Page(HTMLParser):
    """The elements and addresses of a page, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.addresses: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect."""
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.addresses |= {value or "" for name, value in attrs if name in {"href", "src", "action"}}


def assert_is_harmless(response: TestResponse, *, way_back: str | None = None) -> None:
    """Check what makes a page safe whatever stands on it; `way_back` is what a link out of here may begin with."""
    assert response.mimetype == "text/html"
    headers = response.headers
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["base-uri"] == "'none'"
    assert policy["style-src"] == "'self'"
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert "evil" not in headers["Content-Security-Policy"]
    assert "script-src" not in policy
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in headers
    page = Page(response.text)
    assert not page.tags & {"script", "img", "iframe", "object", "embed", "base", "style"}
    assert not {name for name in page.attributes if name.startswith("on") or name == "style"}
    assert all(address.startswith((f"{ISSUER}/", way_back or ISSUER)) for address in page.addresses)
    assert str(1234 * 4321) not in response.text


def consent(oauth: OAuthTestClient) -> TestResponse:
    return oauth.authorize(oauth.register()["client_id"])


def stale_consent(oauth: OAuthTestClient) -> TestResponse:
    form = Form(consent(oauth).text).fields
    oauth.browser = oauth.new_browser()
    return oauth.browser.post("/consent", data=form, base_url=ISSUER)


def forged_consent(oauth: OAuthTestClient) -> TestResponse:
    return oauth.browser.post("/consent", data={"ticket": MARKUP}, base_url=ISSUER)


def unknown_client(oauth: OAuthTestClient) -> TestResponse:
    return oauth.authorize(MARKUP)


def foreign_redirect(oauth: OAuthTestClient) -> TestResponse:
    return oauth.authorize(oauth.register()["client_id"], redirect_uri=EVIL)


def repeated_parameter(oauth: OAuthTestClient) -> TestResponse:
    name = urlencode({MARKUP: 1})
    return oauth.browser.get(f"/authorize?{name}&{name}", base_url=ISSUER)


def unknown_callback(oauth: OAuthTestClient) -> TestResponse:
    return oauth.browser.get("/callback", query_string={"state": MARKUP, "code": MARKUP}, base_url=ISSUER)


def unknown_waiting_login(oauth: OAuthTestClient) -> TestResponse:
    return oauth.browser.get("/provide", query_string={"login": MARKUP}, base_url=ISSUER)


def forged_credentials(oauth: OAuthTestClient) -> TestResponse:
    data = {"ticket": MARKUP, "decision": MARKUP, f"value:{MARKUP}": MARKUP}
    return oauth.browser.post("/provide", data=data, base_url=ISSUER)


def not_allowed(oauth: OAuthTestClient) -> TestResponse:
    return oauth.follow(oauth.log_in(oauth.decide(consent(oauth)), "stranger"))


def provider_down(oauth: OAuthTestClient) -> TestResponse:
    callback = oauth.log_in(oauth.decide(consent(oauth)))
    oauth.stand_in.faults["/user"] = github.Fault(500)
    return oauth.follow(callback)


def sign_in(oauth: OAuthTestClient) -> TestResponse:
    return oauth.browser.get("/account", query_string={"notice": MARKUP}, base_url=ISSUER)


def account(oauth: OAuthTestClient) -> TestResponse:
    oauth.obtain_code(oauth.register(client_name=MARKUP)["client_id"])
    response = oauth.browser.get("/account", base_url=ISSUER)
    assert "alert(1)" in response.text
    return response


def forged_account_form(oauth: OAuthTestClient) -> TestResponse:
    return oauth.browser.post("/account", data={"ticket": MARKUP, "action": MARKUP}, base_url=ISSUER)


def refused_sign_in(oauth: OAuthTestClient) -> TestResponse:
    form = Form(sign_in(oauth).text).fields
    return oauth.follow(oauth.log_in(oauth.browser.post("/account", data=form, base_url=ISSUER), ""))


PAGES: list[Callable[[OAuthTestClient], TestResponse]] = [
    consent,
    stale_consent,
    forged_consent,
    unknown_client,
    foreign_redirect,
    repeated_parameter,
    unknown_callback,
    unknown_waiting_login,
    forged_credentials,
    not_allowed,
    provider_down,
    sign_in,
    account,
    forged_account_form,
    refused_sign_in,
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.__name__)
def test_no_page_can_be_framed_scripted_cached_or_left_with_a_referrer(
    oauth: OAuthTestClient, page: Callable[[OAuthTestClient], TestResponse]
) -> None:
    assert_is_harmless(page(oauth))


def test_a_page_without_redis_is_as_harmless(oauth: OAuthTestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ServiceUnavailable("Redis")

    monkeypatch.setattr(oauth.store.clients, "find", fail)
    response = oauth.authorize("mcp_any")
    assert response.status_code == 503
    assert_is_harmless(response)


@pytest.mark.parametrize(
    "metadata",
    [
        {"client_name": MARKUP},
        {"client_uri": f"https://example.com/{MARKUP}"},
        {"logo_uri": f"https://example.com/{MARKUP}"},
        {"tos_uri": f"https://example.com/{MARKUP}"},
        {"policy_uri": f"https://example.com/{MARKUP}"},
        {"contacts": [MARKUP]},
        {"software_id": MARKUP},
        {"software_version": MARKUP},
        {"scope": MARKUP},
        {
            "client_name": "javascript:alert(1)",
            "client_uri": EVIL,
            "logo_uri": EVIL,
            "tos_uri": EVIL,
            "policy_uri": EVIL,
        },
    ],
    ids=lambda metadata: next(iter(metadata)),
)
@pytest.mark.parametrize("decline", [False, True], ids=["allowed", "not-allowed"])
def test_no_metadata_of_a_client_is_markup_or_an_address_on_a_page(
    oauth: OAuthTestClient, metadata: dict[str, Any], decline: bool
) -> None:
    page = oauth.authorize(oauth.register(**metadata)["client_id"])
    assert_is_harmless(page)
    returned = oauth.follow(oauth.log_in(oauth.decide(page), "stranger" if decline else "octocat"))
    assert_is_harmless(returned if decline else oauth.browser.get("/account", base_url=ISSUER))


PARAMETERS = [*authorization_query("x"), "scope", "prompt", "nonce", "display", "login_hint", "request", "error"]


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize(
    "value", [MARKUP, EVIL, f"//{EVIL}", "javascript:alert(1)", f"{REDIRECT}@evil.example", "\r\nX: y"]
)
def test_no_parameter_redirects_elsewhere_or_is_markup(oauth: OAuthTestClient, name: str, value: str) -> None:
    query = authorization_query(oauth.register()["client_id"]) | {name: value}
    response = oauth.browser.get("/authorize", query_string=query, base_url=ISSUER)
    assert "X" not in response.headers
    assert response.location is None
    assert_is_harmless(response, way_back=f"{REDIRECT}?error=")


def test_an_identifier_that_is_none_is_shown_without_what_deceives_the_eye(oauth: OAuthTestClient) -> None:
    page = oauth.authorize("https://good.example\u202e\u200b/\u0301\u0301\u0301\u0301" + "call us now " * 40)
    assert_is_harmless(page)
    assert re.search("[\u200b\u202e]|\u0301{4}", page.text) is None
    assert page.text.count("call us now") < 6


@pytest.mark.parametrize("name", ["code", "state", "error", "error_description", "error_uri", "iss", "redirect_uri"])
@pytest.mark.parametrize("value", [MARKUP, EVIL])
def test_no_parameter_of_the_callback_redirects_elsewhere_or_is_markup(
    oauth: OAuthTestClient, name: str, value: str
) -> None:
    callback = urlsplit(oauth.log_in(oauth.decide(consent(oauth))))
    query = dict(parse_qsl(callback.query)) | {name: value}
    response = oauth.browser.get("/callback", query_string=query, base_url=ISSUER)
    if response.status_code == 303:
        assert response.location.startswith(f"{REDIRECT}?")
        assert "evil" not in response.location
    else:
        assert_is_harmless(response)


@pytest.mark.parametrize("name", [*authorization_query("x"), "scope", "unknown"])
def test_a_repeated_parameter_of_an_authorization_request_is_refused(oauth: OAuthTestClient, name: str) -> None:
    query = {"scope": "mcp"} | authorization_query(oauth.register()["client_id"])
    response = oauth.browser.get(
        f"/authorize?{urlencode(query)}&{urlencode([(name, query.get(name, 'x')), (name, 'y')])}", base_url=ISSUER
    )
    assert response.status_code == 400
    assert response.location is None


@pytest.mark.parametrize(("path", "name"), [("/consent", "ticket"), ("/consent", "decision"), ("/account", "action")])
def test_a_repeated_field_of_a_form_is_refused(oauth: OAuthTestClient, path: str, name: str) -> None:
    page = consent(oauth) if path == "/consent" else account(oauth)
    form = [*Form(page.text).fields.items(), ("decision", "approve"), ("action", "sign-out")]
    value = dict(form)[name]
    response = oauth.browser.post(
        path,
        data=urlencode([*form, (name, value)]),
        content_type="application/x-www-form-urlencoded",
        base_url=ISSUER,
    )
    assert response.status_code == 400
    assert response.location is None


def test_a_repeated_parameter_of_the_callback_is_refused_and_the_login_lives(oauth: OAuthTestClient) -> None:
    callback = oauth.log_in(oauth.decide(consent(oauth)))
    assert oauth.follow(f"{callback}&code=another").status_code == 400
    assert "code" in parameters_of(oauth.follow(callback))


@pytest.mark.parametrize(
    "state", ["a b&c=d#e?f", "é\u202e", "%00%0d%0a", "x" * 4000, "<script>", "a+b", "&iss=https://evil"]
)
def test_state_comes_back_as_it_was_and_adds_nothing(oauth: OAuthTestClient, state: str) -> None:
    client_id = oauth.register()["client_id"]
    declined = parameters_of(oauth.decide(oauth.authorize(client_id, state=state), "deny"))
    assert (declined["state"], declined["iss"]) == (state, ISSUER)
    answer = parameters_of(oauth.follow(oauth.log_in(oauth.decide(oauth.authorize(client_id, state=state)))))
    assert (answer["state"], answer["iss"]) == (state, ISSUER)
    assert set(answer) == {"code", "state", "iss"}


def test_the_query_of_a_redirect_uri_is_kept(oauth: OAuthTestClient) -> None:
    uri = "https://app.example.org/callback?tenant=a%26b&code=old"
    client_id = oauth.register(redirect_uris=[uri])["client_id"]
    approved = oauth.decide(oauth.authorize(client_id, redirect_uri=uri))
    location = oauth.follow(oauth.log_in(approved)).location
    assert location.startswith(f"{uri}&code=")


# Cookies


def test_a_cookie_that_is_not_ours_is_replaced(oauth: OAuthTestClient) -> None:
    for value in ("", "x", "<script>", "a" * 4000, "a" * 42, "é" * 43):
        browser = oauth.new_browser()
        browser.set_cookie("__Host-mcp-gateway-browser", value, domain="auth.example.com", secure=True)
        response = browser.get("/account", base_url=ISSUER)
        cookie = response.headers["Set-Cookie"]
        assert re.match(
            r"__Host-mcp-gateway-browser=[A-Za-z0-9_-]{43}; Secure; HttpOnly; Path=/; SameSite=Lax$", cookie
        )
        assert value == "" or f"={value};" not in cookie


def test_a_cookie_that_another_host_could_have_set_is_not_read(oauth: OAuthTestClient) -> None:
    """Cookie tossing: a sibling's cookie cannot have the prefix, so a name without it means nothing here."""
    page = consent(oauth)
    ours = oauth.browser.get_cookie("__Host-mcp-gateway-browser", domain="auth.example.com")
    assert ours is not None
    oauth.browser = oauth.new_browser()
    oauth.browser.set_cookie("mcp-gateway-browser", ours.value, domain="auth.example.com")
    response = oauth.browser.post("/consent", data=Form(page.text).fields | {"decision": "approve"}, base_url=ISSUER)
    assert response.status_code == 400


def test_a_second_cookie_of_the_same_name_lets_nobody_in(oauth: OAuthTestClient) -> None:
    callback = oauth.log_in(oauth.decide(consent(oauth)))
    ours = oauth.browser.get_cookie("__Host-mcp-gateway-browser", domain="auth.example.com")
    assert ours is not None
    stranger = oauth.new_browser()
    for order in (("p" * 43, "q" * 43), ("p" * 43,)):
        header = "; ".join(f"__Host-mcp-gateway-browser={value}" for value in order)
        response = stranger.get(callback.removeprefix(ISSUER), base_url=ISSUER, headers={"Cookie": header})
        assert response.status_code == 400


@pytest.mark.parametrize("space", ["\u2000", "\u3000", "\xa0", "\x85", "\u2028"])
def test_a_cookie_whose_name_only_looks_like_ours_is_not_read(oauth: OAuthTestClient, space: str) -> None:
    """A subdomain can set `\\u2000__Host-x`, which a parser that strips Unicode's spaces takes for `__Host-x`."""
    callback = oauth.log_in(oauth.decide(consent(oauth)))
    ours = oauth.browser.get_cookie("__Host-mcp-gateway-browser", domain="auth.example.com")
    assert ours is not None
    tossed = f"{space}__Host-mcp-gateway-browser={ours.value}".encode().decode("latin-1")
    victim = oauth.app.test_client(use_cookies=False)
    for header in (tossed, f"{tossed}; __Host-mcp-gateway-browser={'v' * 43}"):
        assert victim.get(callback, base_url=ISSUER, headers={"Cookie": header}).status_code == 400


def test_two_cookies_of_our_name_are_as_good_as_none_and_others_do_not_matter(oauth: OAuthTestClient) -> None:
    page = consent(oauth)
    ours = oauth.browser.get_cookie("__Host-mcp-gateway-browser", domain="auth.example.com")
    assert ours is not None
    form = Form(page.text).fields | {"decision": "approve"}
    browser = oauth.app.test_client(use_cookies=False)
    good = f"__Host-mcp-gateway-browser={ours.value}"
    for header, status in ((f"{good}; __Host-mcp-gateway-browser={'v' * 43}", 400), (f"a=b; {good}; c", 303)):
        response = browser.post("/consent", data=form, base_url=ISSUER, headers={"Cookie": header})
        assert response.status_code == status


# Codes and logins that change hands


def test_a_code_is_of_no_use_to_a_client_that_did_not_make_its_challenge(oauth: OAuthTestClient) -> None:
    """Code injection: the attacker's code, put into the victim's session, or the other way round."""
    client_id = oauth.register()["client_id"]
    code = oauth.obtain_code(client_id)
    for verifier in ("w" * 43, "", "v" * 42):
        response = oauth.redeem(client_id, code, code_verifier=verifier)
        assert response.get_json()["error"] in {"invalid_grant", "invalid_request"}
    assert oauth.redeem(client_id, code).status_code == 200


def test_the_state_of_a_login_at_the_provider_is_new_each_time_and_made_only_after_consent(
    oauth: OAuthTestClient,
) -> None:
    page = consent(oauth)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oauth.store.pending_logins, "add", lambda *_, **__: pytest.fail("nothing is approved yet"))
        assert oauth.authorize(oauth.register()["client_id"]).status_code == 200
    states = {dict(parse_qsl(urlsplit(oauth.decide(page).location).query))["state"] for _ in range(3)}
    assert len(states) == 3
    assert all(len(state) >= 43 for state in states)


def test_the_code_of_the_identity_provider_is_bound_to_the_login_it_was_made_for(oauth: OAuthTestClient) -> None:
    """An upstream code that was stolen from another login does not finish this one: PKCE binds it to its state."""
    first, second = (urlsplit(oauth.log_in(oauth.decide(consent(oauth)))) for _ in range(2))
    stolen = dict(parse_qsl(second.query))["code"]
    query = dict(parse_qsl(first.query)) | {"code": stolen}
    answer = parameters_of(oauth.browser.get("/callback", query_string=query, base_url=ISSUER))
    assert answer["error"] == "access_denied"
    assert GITHUB not in answer["error_description"]
