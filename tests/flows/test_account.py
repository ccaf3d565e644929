"""The account page: users see their grants and end them, and no other user can."""

from __future__ import annotations

import re
from html import unescape

import pytest
from werkzeug.test import TestResponse

from auth_service.ops.audit import Event
from auth_service.settings import Settings
from local import github
from tests.browser import Form

from .conftest import FETCH, GITHUB, ISSUER, REDIRECT, RESOURCE, AuditLog, OAuthTestClient


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Two users."""
    return Settings.model_validate({**settings.model_dump(), "allowed": {"users": ["octocat", "hubot"]}})


def open_account(oauth: OAuthTestClient) -> TestResponse:
    return oauth.browser.get("/account", base_url=ISSUER)


def submit(oauth: OAuthTestClient, page: TestResponse, **changes: str) -> TestResponse:
    """Submit the page's first form, as it stands but for the changes."""
    return oauth.browser.post("/account", data=Form(page.text).fields | changes, base_url=ISSUER)


def sign_in(oauth: OAuthTestClient, login: str = "octocat") -> TestResponse:
    """Sign in from the account page and return the page then."""
    response = oauth.follow(oauth.log_in(submit(oauth, open_account(oauth)), login))
    assert (response.status_code, response.location) == (303, f"{ISSUER}/account")
    return open_account(oauth)


def card_of(page: TestResponse, name: str) -> str:
    """Return the page's card of the program of this name."""
    cards: list[str] = re.findall(r"<li>.*?</li>", page.text, re.DOTALL)
    return next(card for card in cards if f'"name">{name}</bdi>' in card)


def access_of(page: TestResponse, name: str) -> str:
    """Return what the form of this program's card names."""
    return Form(card_of(page, name)).fields["access"]


def grant(
    oauth: OAuthTestClient,
    *,
    name: str = "Inspector",
    resource: str = RESOURCE,
    login: str = "octocat",
    redirect_uri: str = REDIRECT,
) -> dict[str, str]:
    """Log in with a client in a browser of its own; return its token response and id."""
    browser, oauth.browser = oauth.browser, oauth.new_browser()
    client_id = oauth.register(client_name=name, redirect_uris=[redirect_uri])["client_id"]
    code = oauth.obtain_code(client_id, resource=resource, login=login, redirect_uri=redirect_uri)
    tokens = oauth.redeem(client_id, code, redirect_uri=redirect_uri).get_json()
    oauth.browser = browser
    return {**tokens, "client_id": client_id}


def is_alive(oauth: OAuthTestClient, tokens: dict[str, str]) -> bool:
    response = oauth.token(
        grant_type="refresh_token", client_id=tokens["client_id"], refresh_token=tokens["refresh_token"]
    )
    tokens.update(response.get_json())
    return response.status_code == 200


def test_a_stranger_sees_how_to_sign_in_and_nothing_else(oauth: OAuthTestClient) -> None:
    grant(oauth)
    page = open_account(oauth)
    assert "Sign in with GitHub" in page.text
    assert "Inspector" not in page.text


def test_users_see_their_own_grants_and_no_others(oauth: OAuthTestClient) -> None:
    grant(oauth, name="Mine")
    grant(oauth, name="Mine too", resource=FETCH)
    grant(oauth, name="Theirs", login="hubot")
    page = sign_in(oauth)
    assert {"Mine", "Mine too"} <= set(re.findall(r'<bdi class="name">([^<]+)</bdi>', page.text))
    assert RESOURCE in page.text
    assert FETCH in page.text
    assert "Theirs" not in page.text


def test_logging_in_twice_with_one_client_is_one_access(oauth: OAuthTestClient) -> None:
    client_id = oauth.register(client_name="Twice")["client_id"]
    for _ in range(2):
        oauth.redeem(client_id, oauth.obtain_code(client_id))
    assert open_account(oauth).text.count("<li>") == 1


def test_a_login_for_a_client_is_a_sign_in_to_the_account_page(oauth: OAuthTestClient) -> None:
    oauth.obtain_code(oauth.register()["client_id"])
    assert "Sign out" in open_account(oauth).text


def test_ending_one_access_ends_its_tokens_and_no_others(oauth: OAuthTestClient) -> None:
    ended, kept = grant(oauth, name="Ended"), grant(oauth, name="Kept", resource=FETCH)
    page = sign_in(oauth)
    response = submit(oauth, page, action="end", access=access_of(page, "Ended"))
    assert response.location == f"{ISSUER}/account?notice=ended"
    assert not is_alive(oauth, ended)
    assert is_alive(oauth, kept)
    assert "Ended" not in open_account(oauth).text


def test_ending_all_access_ends_that_of_this_user_only(oauth: OAuthTestClient) -> None:
    mine = [grant(oauth), grant(oauth, resource=FETCH)]
    theirs = grant(oauth, login="hubot")
    submit(oauth, sign_in(oauth), action="end-all")
    assert not any(is_alive(oauth, each) for each in mine)
    assert is_alive(oauth, theirs)


def test_a_program_that_registers_for_each_login_is_one_card_and_ends_as_one(oauth: OAuthTestClient) -> None:
    first, second = grant(oauth, name="Mcporter"), grant(oauth, name="Mcporter")
    kept = grant(oauth, name="Mcporter", resource=FETCH)
    page = sign_in(oauth)
    assert page.text.count("<li>") == 2
    card = next(card for card in re.findall(r"<li>.*?</li>", page.text, re.DOTALL) if RESOURCE in card)
    assert "End all 2 logins" in card
    submit(oauth, page, action="end", access=Form(card).fields["access"])
    assert not is_alive(oauth, first)
    assert not is_alive(oauth, second)
    assert is_alive(oauth, kept)


def test_a_program_of_the_same_name_elsewhere_is_a_card_of_its_own(oauth: OAuthTestClient) -> None:
    own = grant(oauth, name="Claude")
    foreign = grant(oauth, name="Claude", redirect_uri="https://evil.example/callback")
    page = sign_in(oauth)
    cards = re.findall(r"<li>.*?</li>", page.text, re.DOTALL)
    (foreign_card,) = (card for card in cards if "evil.example" in card)
    (own_card,) = (card for card in cards if "A program on this computer" in card)
    submit(oauth, page, action="end", access=Form(foreign_card).fields["access"])
    assert not is_alive(oauth, foreign)
    assert is_alive(oauth, own)
    assert Form(own_card).fields["access"] != Form(foreign_card).fields["access"]


def test_one_client_with_two_recipients_is_two_cards_that_end_separately(oauth: OAuthTestClient) -> None:
    website = "https://claude.ai/api/mcp/auth_callback"
    client_id = oauth.register(redirect_uris=[REDIRECT, website])["client_id"]
    logins = {}
    for uri in (REDIRECT, website):
        code = oauth.obtain_code(client_id, redirect_uri=uri)
        logins[uri] = {**oauth.redeem(client_id, code, redirect_uri=uri).get_json(), "client_id": client_id}
    page = open_account(oauth)
    card = next(card for card in re.findall(r"<li>.*?</li>", page.text, re.DOTALL) if "claude.ai" in card)
    submit(oauth, page, action="end", access=Form(card).fields["access"])
    assert not is_alive(oauth, logins[website])
    assert is_alive(oauth, logins[REDIRECT])


def test_a_card_says_when_and_where_access_goes(oauth: OAuthTestClient) -> None:
    grant(oauth, name="Timed")
    card = card_of(sign_in(oauth), "Timed")
    assert re.search(r'<time datetime="[0-9-]+T[0-9:]+Z">\d+ \w+ \d{4}, \d\d:\d\d UTC</time>', card)
    assert "Access goes to" in card
    assert "A program on this computer" in card


def test_users_can_not_end_the_access_of_others(oauth: OAuthTestClient) -> None:
    theirs = grant(oauth, login="hubot")
    browser, oauth.browser = oauth.browser, oauth.new_browser()
    access = access_of(sign_in(oauth, "hubot"), "Inspector")
    oauth.browser = browser
    submit(oauth, sign_in(oauth), action="end", access=access)
    assert is_alive(oauth, theirs)


@pytest.mark.parametrize("form", [{}, {"action": "end"}, {"access": "x"}, {"action": "nonsense"}])
def test_an_incomplete_form_changes_nothing(oauth: OAuthTestClient, form: dict[str, str]) -> None:
    mine = grant(oauth)
    page = sign_in(oauth)
    response = oauth.browser.post("/account", data={"ticket": Form(page.text).fields["ticket"]} | form, base_url=ISSUER)
    assert response.status_code == 400
    assert is_alive(oauth, mine)


def test_signing_out_ends_the_session_on_the_server_too(oauth: OAuthTestClient) -> None:
    page = sign_in(oauth)
    cookie = oauth.browser.get_cookie("__Host-mcp-gateway-session", domain="auth.example.com")
    assert cookie is not None
    submit(oauth, page, action="sign-out")
    oauth.browser.set_cookie("__Host-mcp-gateway-session", cookie.value, domain="auth.example.com", secure=True)
    assert "Sign in with GitHub" in open_account(oauth).text


def test_a_session_cookie_is_hidden_from_scripts_and_other_hosts_and_new_at_each_sign_in(
    oauth: OAuthTestClient,
) -> None:
    values = set()
    for _ in range(2):
        response = oauth.follow(oauth.log_in(submit_sign_in(oauth)))
        cookie = next(each for each in response.headers.getlist("Set-Cookie") if "gateway-session" in each)
        assert cookie.startswith("__Host-")
        assert {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"} <= set(cookie.split("; "))
        assert "Domain" not in cookie
        values.add(cookie.split(";")[0])
    assert len(values) == 2


def submit_sign_in(oauth: OAuthTestClient) -> TestResponse:
    """Start a sign-in as a browser without a session."""
    oauth.browser.delete_cookie("__Host-mcp-gateway-session", domain="auth.example.com")
    return submit(oauth, open_account(oauth))


def test_a_session_that_an_attacker_planted_is_not_adopted(oauth: OAuthTestClient) -> None:
    planted = "p" * 43
    oauth.browser.set_cookie("__Host-mcp-gateway-session", planted, domain="auth.example.com", secure=True)
    sign_in(oauth)
    cookie = oauth.browser.get_cookie("__Host-mcp-gateway-session", domain="auth.example.com")
    assert cookie is not None
    assert cookie.value != planted
    assert oauth.store.sessions.find(planted) is None


def test_a_session_ends_with_the_user(oauth: OAuthTestClient) -> None:
    sign_in(oauth)
    oauth.store.sessions.end_all("github:583231")
    assert "Sign in with GitHub" in open_account(oauth).text


# Attacks


def test_a_form_of_another_site_changes_nothing(oauth: OAuthTestClient) -> None:
    mine = grant(oauth)
    page = sign_in(oauth)
    form = Form(page.text).fields | {"action": "end-all"}
    for site in ("cross-site", "same-site"):
        response = oauth.browser.post("/account", data=form, headers={"Sec-Fetch-Site": site}, base_url=ISSUER)
        assert response.status_code == 400
    assert is_alive(oauth, mine)


def test_a_form_token_of_another_browser_user_or_purpose_changes_nothing(oauth: OAuthTestClient) -> None:
    mine = grant(oauth)
    consent = oauth.authorize(mine["client_id"])
    sign_in(oauth)
    form_tokens = ["", "x", Form(consent.text).fields["ticket"]]
    victim, oauth.browser = oauth.browser, oauth.new_browser()
    form_tokens.append(Form(sign_in(oauth, "hubot").text).fields["ticket"])
    oauth.browser = oauth.new_browser()
    form_tokens.append(Form(sign_in(oauth, "octocat").text).fields["ticket"])
    oauth.browser = victim
    for form_token in form_tokens:
        response = oauth.browser.post("/account", data={"ticket": form_token, "action": "end-all"}, base_url=ISSUER)
        assert response.status_code == 400
    assert is_alive(oauth, mine)


def test_a_form_token_of_the_session_before_changes_nothing(oauth: OAuthTestClient) -> None:
    theirs = grant(oauth, login="hubot")
    page = sign_in(oauth, "octocat")
    submit(oauth, page, action="sign-out")
    sign_in(oauth, "hubot")
    assert submit(oauth, page, action="end-all").status_code == 400
    assert is_alive(oauth, theirs)


def test_a_foreign_callback_signs_nobody_in(oauth: OAuthTestClient) -> None:
    """Login CSRF: the attacker's own login, finished in the victim's browser."""
    callback = oauth.log_in(submit(oauth, open_account(oauth)), "hubot")
    oauth.browser = oauth.new_browser()
    open_account(oauth)
    response = oauth.follow(callback)
    assert response.status_code == 400
    assert not any("gateway-session" in each for each in response.headers.getlist("Set-Cookie"))
    assert "Sign in with GitHub" in open_account(oauth).text


def test_a_callback_works_once(oauth: OAuthTestClient) -> None:
    callback = oauth.log_in(submit(oauth, open_account(oauth)))
    assert oauth.follow(callback).status_code == 303
    assert oauth.follow(callback).status_code == 400


def test_signing_in_can_not_be_started_by_another_site(oauth: OAuthTestClient) -> None:
    form = Form(open_account(oauth).text).fields
    response = oauth.browser.post("/account", data=form, headers={"Sec-Fetch-Site": "cross-site"}, base_url=ISSUER)
    assert response.status_code == 400
    assert response.location is None


def test_a_sign_in_that_github_or_the_user_refuses_ends_on_a_page(oauth: OAuthTestClient) -> None:
    cancelled = oauth.follow(oauth.log_in(submit(oauth, open_account(oauth)), ""))
    assert cancelled.status_code == 400
    assert "You did not sign in" in cancelled.text
    callback = oauth.log_in(submit(oauth, open_account(oauth)))
    oauth.stand_in.faults["/login/oauth/access_token"] = github.Fault(500)
    down = oauth.follow(callback)
    assert down.status_code == 503
    assert "GitHub does not answer" in down.text


def test_another_account_can_be_chosen_after_signing_out(oauth: OAuthTestClient) -> None:
    signed_out = oauth.follow(submit(oauth, sign_in(oauth), action="sign-out").location)
    response = submit(oauth, signed_out, account="other")
    assert response.location.startswith(GITHUB)
    assert "prompt=select_account" in unescape(response.location)


def test_signing_in_and_out_and_ending_access_is_written_down(oauth: OAuthTestClient, audit_log: AuditLog) -> None:
    ended = grant(oauth)
    page = sign_in(oauth)
    submit(oauth, page, action="end", access=access_of(page, "Inspector"))
    submit(oauth, open_account(oauth), action="sign-out")
    who = {"user": "github:583231", "name": "octocat"}
    for event in (Event.SESSION_STARTED, Event.SESSION_ENDED):
        (entry,) = audit_log.of(event)
        assert entry.items() >= who.items()
    (revoked,) = audit_log.of(Event.GRANT_REVOKED)
    assert revoked.items() >= {**who, "client": ended["client_id"], "by": "user"}.items()
