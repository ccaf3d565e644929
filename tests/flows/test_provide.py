"""The page that asks for credentials at the end of a login, and all ways round it that must not lead to a code."""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import Any

import pytest
import time_machine
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from auth_service.app.composition import Parts
from auth_service.app.views.provide import WAIT_SECONDS
from auth_service.ops.audit import Event
from auth_service.settings import Settings
from auth_service.storage.user_credentials import Secret
from tests.browser import Form

from .conftest import ISSUER, REDIRECT, AuditLog, OAuthTestClient, merged, parameters_of

OCTOCAT, HUBOT = "github:583231", "github:480938"
TOKEN = "ghp_ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SEALED = "the-value-of-nothing-else"
HELP = "Make one at https://github.com/settings/tokens."


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Two users, a server that needs a token and a key of each, and one that needs nothing."""
    wanted = {
        "GITHUB_TOKEN": {"label": "GitHub token", "help": HELP, "pattern": "ghp_[A-Z]{10,}"},
        "WIKI_KEY": {"label": "Wiki key"},
    }
    changes = {
        "allowed": {"users": ["octocat", "hubot"]},
        "resources": {"time": {"title": "Tickets", "user_credentials": wanted}},
    }
    return Settings.model_validate(merged(settings.model_dump(exclude_unset=True, mode="json"), changes))


@pytest.fixture
def client_id(oauth: OAuthTestClient) -> str:
    return str(oauth.register()["client_id"])


def parts_of(oauth: OAuthTestClient) -> Parts:
    parts = oauth.app.extensions["gateway"]
    assert isinstance(parts, Parts)
    return parts


def values(oauth: OAuthTestClient, sub: str = OCTOCAT) -> dict[str, str]:
    held = parts_of(oauth).user_credentials.read_all("time", sub)
    return {variable: stored.secret.value for variable, stored in held.items()}


def arrive(oauth: OAuthTestClient, client_id: str, *, login: str = "octocat", **changes: str | None) -> str:
    """Log in up to the page, and return its URL."""
    approved = oauth.decide(oauth.authorize(client_id, **changes))
    answer = oauth.follow(oauth.log_in(approved, login))
    if answer.status_code == 200:  # the page was for another user
        answer = oauth.follow(oauth.log_in(oauth.decide(answer), login))
    assert answer.status_code == 303, answer.text
    assert answer.location.startswith(f"{ISSUER}/provide?login="), answer.location
    return answer.location


def submit(
    oauth: OAuthTestClient,
    page: TestResponse,
    *,
    browser: FlaskClient | None = None,
    headers: dict[str, str] | None = None,
    decision: str = "approve",
    **entered: str,
) -> TestResponse:
    data = Form(page.text).fields | {"decision": decision}
    data |= {f"value:{variable}": value for variable, value in entered.items()}
    return (browser or oauth.browser).post("/provide", data=data, headers=headers, base_url=ISSUER)


def fill_in(oauth: OAuthTestClient, url: str) -> TestResponse:
    """Enter everything, and return the answer to the client."""
    kept = submit(oauth, oauth.follow(url), GITHUB_TOKEN=TOKEN, WIKI_KEY=SEALED)
    assert kept.status_code == 303, kept.text
    assert kept.location == url
    return oauth.follow(kept.location)


def refused(answer: TestResponse, title: str) -> None:
    assert answer.status_code == 400, answer.status
    assert title in answer.text
    assert "location" not in answer.headers


CANNOT_BE_CONTINUED = "This sign-in cannot be continued"
NO_LONGER = "You are no longer signed in as octocat"


def test_what_is_missing_is_asked_for_before_the_code_is_issued(
    oauth: OAuthTestClient, client_id: str, audit_log: AuditLog
) -> None:
    url = arrive(oauth, client_id)
    assert Event.CODE_ISSUED not in audit_log.names
    page = oauth.follow(url)
    assert page.status_code == 200
    assert page.text.count('type="password"') == 2
    for text in ("Tickets", "octocat", "GitHub token", "Wiki key", "Inspector", "https://time.example.com/mcp"):
        assert text in page.text
    answer = parameters_of(fill_in(oauth, url))
    assert answer["state"] == "client-state"
    assert answer["iss"] == ISSUER
    tokens = oauth.redeem(client_id, answer["code"])
    assert tokens.status_code == 200, tokens.text
    assert values(oauth) == {"GITHUB_TOKEN": TOKEN, "WIKI_KEY": SEALED}
    order = [Event.LOGIN_ACCEPTED, Event.CREDENTIAL_SET, Event.CREDENTIAL_SET, Event.CODE_ISSUED]
    assert [name for name in audit_log.names if name in order] == order


def test_a_second_login_is_not_asked(oauth: OAuthTestClient, client_id: str) -> None:
    fill_in(oauth, arrive(oauth, client_id))
    assert oauth.redeem(client_id, oauth.obtain_code(client_id)).status_code == 200


def test_only_what_is_missing_is_asked_for(oauth: OAuthTestClient, client_id: str) -> None:
    parts_of(oauth).user_credentials.put("time", OCTOCAT, {"WIKI_KEY": Secret(value=SEALED)})
    page = oauth.follow(arrive(oauth, client_id))
    assert re.findall("<label[^>]*><bdi>(.*?)</bdi>", page.text) == ["GitHub token"]
    assert "<dt>Already there</dt><dd><bdi>Wiki key</bdi></dd>" in page.text


def test_another_server_and_another_user_are_asked_for_themselves(oauth: OAuthTestClient, client_id: str) -> None:
    fill_in(oauth, arrive(oauth, client_id))
    assert oauth.obtain_code(client_id, resource="https://fetch.example.com/mcp")
    oauth.browser = oauth.new_browser()
    url = arrive(oauth, client_id, login="hubot")
    assert values(oauth, HUBOT) == {}
    assert "hubot" in oauth.follow(url).text


def test_a_remembered_consent_leads_to_the_page_as_well(oauth: OAuthTestClient) -> None:
    redirect = "https://app.example.org/callback"
    client_id = str(oauth.register(redirect_uris=[redirect])["client_id"])
    fill_in(oauth, arrive(oauth, client_id, redirect_uri=redirect))
    parts_of(oauth).user_credentials.remove("time", OCTOCAT, ["WIKI_KEY"])
    oauth.browser.environ_base |= {
        "HTTP_SEC_FETCH_SITE": "none",
        "HTTP_SEC_FETCH_MODE": "navigate",
        "HTTP_SEC_FETCH_DEST": "document",
    }
    sent = oauth.authorize(client_id, redirect_uri=redirect)
    assert sent.status_code == 303
    answer = oauth.follow(oauth.log_in(sent))
    assert answer.location.startswith(f"{ISSUER}/provide?login=")
    oauth.browser.environ_base |= {"HTTP_SEC_FETCH_SITE": "same-origin"}
    submit(oauth, oauth.follow(answer.location), WIKI_KEY="new")
    assert "code" in parameters_of(oauth.follow(answer.location))


def test_a_login_that_has_waited_does_not_replace_a_later_one(oauth: OAuthTestClient, client_id: str) -> None:
    early = arrive(oauth, client_id)
    late = arrive(oauth, client_id)
    fill_in(oauth, late)
    kept = oauth.store.last_logins.find(OCTOCAT)
    assert kept is not None
    assert "code" in parameters_of(oauth.follow(early))
    assert oauth.store.last_logins.find(OCTOCAT) == kept


def test_a_login_that_has_waited_replaces_an_earlier_one(oauth: OAuthTestClient, client_id: str) -> None:
    oauth.obtain_code(client_id, resource="https://fetch.example.com/mcp")
    kept = oauth.store.last_logins.find(OCTOCAT)
    fill_in(oauth, arrive(oauth, client_id))
    assert oauth.store.last_logins.find(OCTOCAT) not in {None, kept}


def test_a_reload_shows_the_page_again(oauth: OAuthTestClient, client_id: str) -> None:
    url = arrive(oauth, client_id)
    first, second = oauth.follow(url), oauth.follow(url)
    assert first.status_code == second.status_code == 200
    assert submit(oauth, first, GITHUB_TOKEN=TOKEN, WIKI_KEY=SEALED).status_code == 303


def test_a_head_request_ends_no_login(oauth: OAuthTestClient, client_id: str) -> None:
    url = arrive(oauth, client_id)
    submit(oauth, oauth.follow(url), GITHUB_TOKEN=TOKEN, WIKI_KEY=SEALED)
    seen = oauth.browser.head(url, base_url=ISSUER)
    assert seen.status_code == 200
    assert "location" not in seen.headers
    assert "code" in parameters_of(oauth.follow(url))


def test_each_login_yields_one_code(oauth: OAuthTestClient, client_id: str) -> None:
    url = arrive(oauth, client_id)
    page = oauth.follow(url)
    fill_in(oauth, url)
    refused(oauth.follow(url), CANNOT_BE_CONTINUED)
    refused(submit(oauth, page, GITHUB_TOKEN=TOKEN, WIKI_KEY="other"), CANNOT_BE_CONTINUED)
    assert values(oauth)["WIKI_KEY"] == SEALED


def test_cancel_tells_the_client_and_keeps_nothing(oauth: OAuthTestClient, client_id: str, audit_log: AuditLog) -> None:
    url = arrive(oauth, client_id)
    page = oauth.follow(url)
    answer = submit(oauth, page, decision="deny", GITHUB_TOKEN=TOKEN)
    assert answer.location.startswith(REDIRECT)
    assert parameters_of(answer) == {
        "error": "access_denied",
        "error_description": "the user declined",
        "state": "client-state",
        "iss": ISSUER,
    }
    assert values(oauth) == {}
    assert [event["client"] for event in audit_log.of(Event.CONSENT_DECLINED)] == [client_id]
    refused(oauth.follow(url), CANNOT_BE_CONTINUED)


def test_two_tabs_of_two_clients_go_on_one_after_the_other(oauth: OAuthTestClient, client_id: str) -> None:
    other_id = str(oauth.register(client_name="Cursor")["client_id"])
    one, two = arrive(oauth, client_id, state="one"), arrive(oauth, other_id, state="two")
    first_page, second_page = oauth.follow(one), oauth.follow(two)
    assert "Inspector" in first_page.text
    assert "Cursor" in second_page.text
    submit(oauth, second_page, GITHUB_TOKEN=TOKEN, WIKI_KEY=SEALED)
    assert parameters_of(oauth.follow(two))["state"] == "two"
    # The other tab's form is sent without values: what was missing is there now.
    assert submit(oauth, first_page).location == one
    answer = parameters_of(oauth.follow(one))
    assert answer["state"] == "one"
    assert oauth.redeem(client_id, answer["code"]).status_code == 200
    assert values(oauth) == {"GITHUB_TOKEN": TOKEN, "WIKI_KEY": SEALED}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        pytest.param("", "Nothing was entered", id="empty"),
        pytest.param("   ", "Nothing was entered", id="spaces"),
        pytest.param("x" * 4097, "too long", id="oversized"),
        pytest.param("ä" * 2049, "too long", id="oversized in UTF-8"),
        pytest.param("one\ntwo", "line breaks", id="several lines"),
        pytest.param("one\r\n", "line breaks", id="a line break at its end"),
        pytest.param("one\x00two", "control characters", id="NUL"),
        pytest.param("\x1b[2J", "control characters", id="escape"),
        pytest.param("one\u2028two", "line breaks", id="line separator"),
        pytest.param("one\u202etwo", "control characters", id="bidirectional control"),
    ],
)
def test_a_value_that_cannot_be_one_is_refused_without_being_shown(
    oauth: OAuthTestClient, client_id: str, value: str, problem: str
) -> None:
    url = arrive(oauth, client_id)
    answer = submit(oauth, oauth.follow(url), GITHUB_TOKEN=TOKEN, WIKI_KEY=value)
    assert answer.status_code == 400
    assert problem in answer.text
    if value.strip():
        assert value not in answer.text
    assert "Check what is marked below.</strong> The rest of what you entered is saved." in answer.text
    # What was right need not be entered again.
    assert values(oauth) == {"GITHUB_TOKEN": TOKEN}
    assert answer.text.count('type="password"') == 1
    assert submit(oauth, answer, WIKI_KEY="x" * 4096).location == url
    assert "code" in parameters_of(oauth.follow(url))


def test_a_value_unlike_the_pattern_is_refused_with_a_reason(oauth: OAuthTestClient, client_id: str) -> None:
    url = arrive(oauth, client_id)
    answer = submit(oauth, oauth.follow(url), GITHUB_TOKEN="gho_ABCDEFGHIJKLMN", WIKI_KEY=SEALED)
    assert answer.status_code == 400
    assert "does not look as it should" in answer.text
    assert "gho_ABC" not in answer.text
    assert 'aria-invalid="true"' in answer.text
    assert values(oauth) == {"WIKI_KEY": SEALED}
    assert submit(oauth, answer, GITHUB_TOKEN=f"  {TOKEN} ").location == url
    assert values(oauth) == {"GITHUB_TOKEN": TOKEN, "WIKI_KEY": SEALED}


def test_a_page_on_which_nothing_was_right_says_that_nothing_was_saved(oauth: OAuthTestClient, client_id: str) -> None:
    answer = submit(oauth, oauth.follow(arrive(oauth, client_id)), GITHUB_TOKEN="x", WIKI_KEY="")
    assert (
        '<p class="notice fault" role="alert"><strong>Check what is marked below.</strong> Nothing was' in answer.text
    )
    assert values(oauth) == {}


def test_a_form_sets_no_variable_that_it_did_not_ask_for(oauth: OAuthTestClient, client_id: str) -> None:
    parts_of(oauth).user_credentials.put("time", OCTOCAT, {"WIKI_KEY": Secret(value="of before")})
    page = oauth.follow(arrive(oauth, client_id))
    submit(oauth, page, GITHUB_TOKEN=TOKEN, WIKI_KEY="forged", LD_PRELOAD="/tmp/x.so", PATH="/tmp")
    assert values(oauth) == {"GITHUB_TOKEN": TOKEN, "WIKI_KEY": "of before"}


# Attacks


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_website_can_not_send_the_form(oauth: OAuthTestClient, client_id: str, site: str) -> None:
    page = oauth.follow(arrive(oauth, client_id))
    answer = submit(oauth, page, headers={"Sec-Fetch-Site": site}, GITHUB_TOKEN=TOKEN, WIKI_KEY=SEALED)
    refused(answer, "Another website tried to answer for you")
    assert values(oauth) == {}


@pytest.mark.parametrize("forged", ["", "made.up.token"])
def test_a_form_without_its_token_sets_nothing(oauth: OAuthTestClient, client_id: str, forged: str) -> None:
    arrive(oauth, client_id)
    data = {"ticket": forged, "decision": "approve", "value:GITHUB_TOKEN": TOKEN}
    refused(oauth.browser.post("/provide", data=data, base_url=ISSUER), "This form was not made here")
    assert values(oauth) == {}


def test_the_form_token_of_another_page_is_refused(oauth: OAuthTestClient, client_id: str) -> None:
    arrive(oauth, client_id)
    consent = Form(oauth.authorize(client_id).text).fields
    data = consent | {"decision": "approve", "value:GITHUB_TOKEN": TOKEN}
    refused(oauth.browser.post("/provide", data=data, base_url=ISSUER), "This form was not made here")


def test_the_form_token_is_no_consent(oauth: OAuthTestClient, client_id: str) -> None:
    page = oauth.follow(arrive(oauth, client_id))
    answer = oauth.browser.post("/consent", data=Form(page.text).fields | {"decision": "approve"}, base_url=ISSUER)
    refused(answer, "This form was not made here")


def test_a_link_to_an_attackers_login_does_not_work_in_another_browser(oauth: OAuthTestClient, client_id: str) -> None:
    """Login CSRF: the victim would store a secret under the attacker's account."""
    attack = arrive(oauth, client_id, login="hubot")
    attackers_page = oauth.follow(attack)
    attacker, oauth.browser = oauth.browser, oauth.new_browser()
    arrive(oauth, client_id)
    refused(oauth.follow(attack), CANNOT_BE_CONTINUED)
    refused(submit(oauth, attackers_page, GITHUB_TOKEN=TOKEN, WIKI_KEY=SEALED), CANNOT_BE_CONTINUED)
    assert values(oauth, HUBOT) == values(oauth) == {}
    # The attempt has not used the attacker's own login up.
    assert attacker.get(attack, base_url=ISSUER).status_code == 200


def test_a_browser_without_cookies_is_told_so(oauth: OAuthTestClient, client_id: str) -> None:
    url = arrive(oauth, client_id)
    page = oauth.follow(url)
    oauth.browser = oauth.new_browser()
    refused(oauth.follow(url), "This browser sent no cookie")
    refused(submit(oauth, page, GITHUB_TOKEN=TOKEN, WIKI_KEY=SEALED), "This browser sent no cookie")


def test_the_page_of_one_login_can_not_finish_that_of_another_client(oauth: OAuthTestClient, client_id: str) -> None:
    hostile_id = str(oauth.register(client_name="Hostile", redirect_uris=["https://evil.example/cb"])["client_id"])
    honest = arrive(oauth, client_id)
    hostile = arrive(oauth, hostile_id, redirect_uri="https://evil.example/cb")
    data = Form(oauth.follow(honest).text).fields | {
        "decision": "approve",
        "login": hostile.partition("login=")[2],
        "value:GITHUB_TOKEN": TOKEN,
        "value:WIKI_KEY": SEALED,
    }
    kept = oauth.browser.post("/provide", query_string={"login": data["login"]}, data=data, base_url=ISSUER)
    assert kept.location == honest
    assert oauth.follow(honest).location.startswith(REDIRECT)


def test_another_user_in_the_same_browser_can_not_go_on_with_it(oauth: OAuthTestClient, client_id: str) -> None:
    url = arrive(oauth, client_id)
    page = oauth.follow(url)
    arrive(oauth, client_id, login="hubot")
    refused(oauth.follow(url), NO_LONGER)
    refused(submit(oauth, page, GITHUB_TOKEN=TOKEN, WIKI_KEY=SEALED), NO_LONGER)
    assert values(oauth) == values(oauth, HUBOT) == {}


@pytest.mark.parametrize("end", ["signs out", "is revoked"])
def test_the_login_ends_with_the_session(oauth: OAuthTestClient, client_id: str, end: str) -> None:
    url = arrive(oauth, client_id)
    page = oauth.follow(url)
    if end == "signs out":
        account = oauth.browser.get("/account", base_url=ISSUER)
        (form,) = (each for each in account.text.split("<form") if 'value="sign-out"' in each)
        signed_out = Form(f"<form{form}").fields | {"action": "sign-out"}
        assert oauth.browser.post("/account", data=signed_out, base_url=ISSUER).status_code == 303
    else:
        oauth.revocation.end_user(OCTOCAT, by="operator")
    refused(oauth.follow(url), NO_LONGER)
    refused(submit(oauth, page, GITHUB_TOKEN=TOKEN, WIKI_KEY=SEALED), NO_LONGER)
    assert values(oauth) == {}


def test_a_user_who_is_revoked_while_the_code_is_issued_gets_no_grant(
    oauth: OAuthTestClient, client_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = arrive(oauth, client_id)
    submit(oauth, oauth.follow(url), GITHUB_TOKEN=TOKEN, WIKI_KEY=SEALED)
    server = parts_of(oauth).server
    issue = server.issue_code

    def issue_after_the_revocation(*args: Any, **named: Any) -> Any:
        oauth.revocation.end_user(OCTOCAT, by="operator")
        return issue(*args, **named)

    monkeypatch.setattr(server, "issue_code", issue_after_the_revocation)
    refused(oauth.follow(url), NO_LONGER)
    assert oauth.store.grants.find_of_user(OCTOCAT) == []
    assert not list(oauth.store.redis.scan_iter(match="consents-of-user:*"))


def test_nothing_is_kept_for_a_user_who_is_revoked_meanwhile(
    oauth: OAuthTestClient, client_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(oauth)
    put = parts.user_credentials.put

    def put_after_the_revocation(*args: Any, **named: Any) -> set[str]:
        parts.revocation.end_user(OCTOCAT, by="operator")
        parts.credential_changes.remove_all(OCTOCAT, by="operator")
        return put(*args, **named)

    page = oauth.follow(arrive(oauth, client_id))
    monkeypatch.setattr(parts.user_credentials, "put", put_after_the_revocation)
    refused(submit(oauth, page, GITHUB_TOKEN=TOKEN, WIKI_KEY=SEALED), NO_LONGER)
    assert values(oauth) == {}


def test_an_expired_login_can_not_go_on(oauth: OAuthTestClient, client_id: str) -> None:
    url = arrive(oauth, client_id)
    page = oauth.follow(url)
    oauth.store.redis.delete(*oauth.store.redis.scan_iter(match="waiting-login:*"))
    refused(oauth.follow(url), CANNOT_BE_CONTINUED)
    refused(submit(oauth, page, GITHUB_TOKEN=TOKEN, WIKI_KEY=SEALED), CANNOT_BE_CONTINUED)
    assert values(oauth) == {}


def test_the_waiting_login_ends_by_itself(oauth: OAuthTestClient, client_id: str) -> None:
    arrive(oauth, client_id)
    (key,) = oauth.store.redis.scan_iter(match="waiting-login:*")
    left = oauth.store.redis.ttl(key)
    assert isinstance(left, int)
    assert WAIT_SECONDS - 60 < left <= WAIT_SECONDS


def test_a_form_that_is_too_old_sets_nothing(oauth: OAuthTestClient, client_id: str) -> None:
    url = arrive(oauth, client_id)
    page = oauth.follow(url)
    with time_machine.travel(time.time() + WAIT_SECONDS + 60):
        refused(submit(oauth, page, GITHUB_TOKEN=TOKEN, WIKI_KEY=SEALED), CANNOT_BE_CONTINUED)
    assert values(oauth) == {}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"GITHUB_TOKEN": {"label": "Password of your bank"}}, id="label"),
        pytest.param({"GITHUB_TOKEN": {"help": "Anything goes."}}, id="help"),
        pytest.param({"GITHUB_TOKEN": {"pattern": ".*"}}, id="pattern"),
        pytest.param({"WIKI_KEY": None}, id="one fewer"),
    ],
)
def test_a_page_whose_questions_have_changed_is_shown_again(
    oauth: OAuthTestClient, client_id: str, changes: dict[str, Any]
) -> None:
    url = arrive(oauth, client_id)
    page = oauth.follow(url)
    oauth.reload(resources={"time": {"user_credentials": changes}})
    again = submit(oauth, page, GITHUB_TOKEN=TOKEN, WIKI_KEY=SEALED)
    assert again.status_code == 200
    assert "has changed what it needs" in again.text
    assert values(oauth) == {}
    assert submit(oauth, again, GITHUB_TOKEN=TOKEN, WIKI_KEY=SEALED).location == url


def test_a_client_that_has_changed_is_asked_about_again(oauth: OAuthTestClient) -> None:
    registered = oauth.register()
    url = arrive(oauth, registered["client_id"])
    page = oauth.follow(url)
    oauth.change_registration(registered, client_name="Somebody else")
    submit(oauth, page, GITHUB_TOKEN=TOKEN, WIKI_KEY=SEALED)
    assert values(oauth) == {}
    submit(oauth, oauth.follow(url), GITHUB_TOKEN=TOKEN, WIKI_KEY=SEALED)
    asked = oauth.follow(url)
    assert asked.status_code == 200
    assert "Somebody else" in asked.text
    assert Form(asked.text).action == f"{ISSUER}/consent"


def test_texts_of_the_operator_are_escaped_and_only_plain_https_urls_are_links(
    oauth: OAuthTestClient, client_id: str
) -> None:
    hostile = (
        '<script>alert(1)</script> "><img src=x> \u202ejavascript:alert(1) http://plain.example/ '
        "https://github.com@evil.example/ https://xn--githb-mva.com/ https://good.example/tokens?new=1. "
        '[x](https://evil.example) https://10.0.0.1/ https://evil.example/"onclick=x'
    )
    oauth.reload(resources={"time": {"user_credentials": {"GITHUB_TOKEN": {"label": "<b>T</b>", "help": hostile}}}})
    page = oauth.follow(arrive(oauth, client_id)).text
    assert "<script" not in page
    assert "<img" not in page
    assert "<b>T</b>" not in page
    assert "&lt;b&gt;T&lt;/b&gt;" in page
    assert "\u202e" not in page
    links = re.findall(r'<a href="([^"]+)" target="_blank" rel="noopener noreferrer">([^<]+)</a>', page)
    assert links == [("https://good.example/tokens?new=1", "https://good.example/tokens?new=1")]


def test_the_page_has_the_headers_of_all_pages(oauth: OAuthTestClient, client_id: str) -> None:
    url = arrive(oauth, client_id)
    page = oauth.follow(url)
    kept = submit(oauth, page, GITHUB_TOKEN=TOKEN, WIKI_KEY=SEALED)
    for answer in (page, kept):
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["X-Frame-Options"] == "DENY"
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'; ")
    # The answer to the form leads to the client.
    targets = page.headers["Content-Security-Policy"].partition("form-action ")[2].split()
    assert targets[0] == "'self'"
    assert "http://127.0.0.1:*" in targets
    assert 'autocomplete="new-password"' in page.text


def test_no_value_is_in_a_log_url_page_or_event(
    oauth: OAuthTestClient, client_id: str, audit_log: AuditLog, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = f"wrong-{secrets.token_hex(8)}"
    url = arrive(oauth, client_id)
    refused_page = submit(oauth, oauth.follow(url), GITHUB_TOKEN=wrong, WIKI_KEY=SEALED)
    kept = submit(oauth, refused_page, GITHUB_TOKEN=TOKEN)
    done = oauth.follow(url)
    account = oauth.browser.get("/account", base_url=ISSUER)
    shown = [refused_page.text, kept.text, done.text, account.text, kept.location, done.location]
    for text in (*shown, caplog.text, str(audit_log.entries)):
        for value in (wrong, TOKEN, SEALED):
            assert value not in text
    events = audit_log.of(Event.CREDENTIAL_SET)
    assert [event["credential"] for event in events] == ["WIKI_KEY", "GITHUB_TOKEN"]
    assert all(event["user"] == OCTOCAT and event["name"] == "octocat" for event in events)


def test_an_unexpected_error_does_not_show_a_value(
    oauth: OAuthTestClient,
    client_id: str,
    audit_log: AuditLog,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = oauth.follow(arrive(oauth, client_id))
    oauth.app.config["PROPAGATE_EXCEPTIONS"] = False
    monkeypatch.setattr(parts_of(oauth).user_credentials, "put", lambda *arguments, **_: arguments[9])
    answer = submit(oauth, page, GITHUB_TOKEN=TOKEN, WIKI_KEY=SEALED)
    assert answer.status_code == 500
    assert "IndexError" in caplog.text
    for value in (TOKEN, SEALED):
        assert value not in answer.text + caplog.text + str(audit_log.entries)
