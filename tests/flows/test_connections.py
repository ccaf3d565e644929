"""Connecting an account at another service during a login, and every way in which someone else may try to."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import requests
from flask import make_response, redirect
from flask.testing import FlaskClient
from flask.typing import ResponseReturnValue
from werkzeug.test import TestResponse

from auth_service.app.composition import Parts
from auth_service.ops.audit import Event
from auth_service.settings import Credentials, Settings
from auth_service.storage.user_credentials import Secret
from tests.browser import Form
from tests.connected_service import CLIENT_ID, CLIENT_SECRET, ORIGIN, StandIn, create_app, query_of
from tests.in_process import InProcess

from .conftest import ISSUER, REDIRECT, AuditLog, OAuthTestClient, merged, parameters_of

OCTOCAT, HUBOT = "github:583231", "github:480938"
CALLBACK = f"{ISSUER}/connections/callback/time/DRIVE_TOKEN"
OTHER = "https://other.example.com"
CANNOT = "This account cannot be connected now"
OAUTH: dict[str, Any] = {
    "authorization_endpoint": f"{ORIGIN}/authorize",
    "token_endpoint": f"{ORIGIN}/token",
    "revocation_endpoint": f"{ORIGIN}/revoke",
    "client_id": CLIENT_ID,
    "scopes": ["files.read"],
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Two users, a server that needs an account of each, and one that needs an account elsewhere."""
    elsewhere = OAUTH | {"authorization_endpoint": f"{OTHER}/authorize", "token_endpoint": f"{OTHER}/token"}
    changes = {
        "allowed": {"users": ["octocat", "hubot"]},
        "resources": {
            "time": {"user_credentials": {"DRIVE_TOKEN": {"label": "Drive <b>", "oauth": OAUTH}}},
            "fetch": {"user_credentials": {"OTHER_TOKEN": {"label": "Other", "oauth": elsewhere}}},
        },
    }
    return Settings.model_validate(merged(settings.model_dump(exclude_unset=True, mode="json"), changes))


@pytest.fixture
def credentials(credentials: Credentials) -> Credentials:
    """As usual, with the secrets of the applications at these services."""
    held = {"time.DRIVE_TOKEN": CLIENT_SECRET, "fetch.OTHER_TOKEN": CLIENT_SECRET}
    return Credentials(client_secret=credentials.client_secret, master_key=b"m" * 32, connections=held)


@pytest.fixture
def drive(oauth: OAuthTestClient, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """The other service."""
    made = StandIn(redirect_uris=[CALLBACK])
    adapter, others = InProcess(create_app(made)), requests.Session.get_adapter

    def find(session: requests.Session, url: str) -> Any:
        return adapter if url.startswith(ORIGIN) else others(session, url)

    monkeypatch.setattr(requests.Session, "get_adapter", find)
    return made


@pytest.fixture
def client_id(oauth: OAuthTestClient) -> str:
    return str(oauth.register()["client_id"])


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture, audit_log: AuditLog) -> Iterator[None]:
    """Fail where a token or code of the other service is in a log."""
    with caplog.at_level(logging.DEBUG):
        yield
    logged = caplog.text + str(audit_log.entries)
    for secret in ("code-", "access-", "refresh-", CLIENT_SECRET):
        assert secret not in logged


def parts_of(oauth: OAuthTestClient) -> Parts:
    parts = oauth.app.extensions["gateway"]
    assert isinstance(parts, Parts)
    return parts


def held(oauth: OAuthTestClient, sub: str = OCTOCAT) -> dict[str, Secret]:
    return {name: stored.secret for name, stored in parts_of(oauth).user_credentials.read_all("time", sub).items()}


def arrive(oauth: OAuthTestClient, client_id: str, *, login: str = "octocat", **changes: str | None) -> TestResponse:
    """Log in up to the page that asks for the account."""
    approved = oauth.decide(oauth.authorize(client_id, **changes))
    answer = oauth.follow(oauth.log_in(approved, login))
    if answer.status_code == 200:  # the page was for another user
        answer = oauth.follow(oauth.log_in(oauth.decide(answer), login))
    return oauth.follow(answer.location)


def leave(oauth: OAuthTestClient, page: TestResponse, variable: str = "DRIVE_TOKEN") -> str:
    """Press the button; return where the browser is sent."""
    data = Form(page.text).fields | {"connect": variable}
    answer = oauth.browser.post("/provide", data=data, base_url=ISSUER)
    assert answer.status_code == 303, answer.text
    return answer.location


def open_in(browser: FlaskClient, url: str, **query: str) -> TestResponse:
    return browser.get(f"{url}&{urlencode(query)}" if query else url, base_url=ISSUER)


def refused(oauth: OAuthTestClient, answer: TestResponse, title: str, *, status: int = 400) -> None:
    assert answer.status_code == status, answer.status
    assert title in answer.text
    assert "location" not in answer.headers
    assert held(oauth) == held(oauth, HUBOT) == {}


def test_an_account_is_connected_during_the_login_and_the_client_gets_its_code(
    oauth: OAuthTestClient, drive: StandIn, client_id: str, audit_log: AuditLog
) -> None:
    page = arrive(oauth, client_id)
    assert "Drive &lt;b&gt;" in page.text
    url = leave(oauth, page)
    assert url.startswith(f"{ORIGIN}/authorize?")
    assert query_of(url)["redirect_uri"] == CALLBACK
    back = oauth.follow(drive.approve(url))
    assert back.status_code == 303
    assert back.location.startswith(f"{ISSUER}/provide?login=")
    answer = parameters_of(oauth.follow(back.location))
    assert oauth.redeem(client_id, answer["code"]).status_code == 200
    secret = held(oauth)["DRIVE_TOKEN"]
    assert drive.access_tokens[secret.value] == "ada"
    assert secret.refresh_token in drive.refresh_tokens
    (event,) = audit_log.of(Event.CREDENTIAL_SET)
    assert (event["user"], event["credential"]) == (OCTOCAT, "DRIVE_TOKEN")
    # The next login asks for nothing.
    assert oauth.redeem(client_id, oauth.obtain_code(client_id)).status_code == 200


@pytest.mark.parametrize("dialect", ["standard", "github", "google", "slack"])
def test_it_works_with_each_kind_of_service(
    oauth: OAuthTestClient, drive: StandIn, client_id: str, dialect: str
) -> None:
    drive.dialect = dialect
    back = oauth.follow(drive.approve(leave(oauth, arrive(oauth, client_id))))
    assert "code" in parameters_of(oauth.follow(back.location))
    assert held(oauth)["DRIVE_TOKEN"].value in drive.access_tokens


def test_the_browser_may_follow_the_form_to_the_other_service(
    oauth: OAuthTestClient, drive: StandIn, client_id: str
) -> None:
    policy = arrive(oauth, client_id).headers["Content-Security-Policy"]
    assert f" {ORIGIN} https:" in policy.partition("form-action")[2]


def test_the_button_is_of_one_browser_and_one_user(oauth: OAuthTestClient, drive: StandIn, client_id: str) -> None:
    page = arrive(oauth, client_id)
    fields = Form(page.text).fields
    for browser, sent in (
        (oauth.new_browser(), fields | {"connect": "DRIVE_TOKEN"}),
        (oauth.browser, {"connect": "DRIVE_TOKEN"}),
        (oauth.browser, fields | {"connect": "DRIVE_TOKEN", "ticket": fields["ticket"][:-2]}),
    ):
        answer = browser.post("/provide", data=sent, base_url=ISSUER)
        assert answer.status_code == 400
        assert "location" not in answer.headers
    # Of another user, after a sign-in in the same browser.
    arrive(oauth, client_id, login="hubot")
    answer = oauth.browser.post("/provide", data=fields | {"connect": "DRIVE_TOKEN"}, base_url=ISSUER)
    assert answer.status_code == 400


@pytest.mark.parametrize("variable", ["OTHER_TOKEN", "PATH", "", "DRIVE_TOKEN\n"])
def test_only_what_the_page_asks_for_can_be_connected(
    oauth: OAuthTestClient, drive: StandIn, client_id: str, variable: str
) -> None:
    url = leave(oauth, arrive(oauth, client_id), variable)
    assert url.startswith(f"{ISSUER}/provide?login="), "the page again"


def test_an_answer_in_another_browser_is_refused_and_ends_the_attempt(
    oauth: OAuthTestClient, drive: StandIn, client_id: str, audit_log: AuditLog
) -> None:
    """Login CSRF: an attacker would have the victim's browser connect the attacker's account, or the reverse."""
    url = drive.approve(leave(oauth, arrive(oauth, client_id)))
    refused(oauth, open_in(oauth.new_browser(), url), "This browser sent no cookie")
    # The attacker may have read the victim's address bar.
    refused(oauth, oauth.follow(url), CANNOT)
    # One with a page of its own, and one that is signed in.
    victim = OAuthTestClient(oauth.settings, oauth.make_app, oauth.store, oauth.stand_in)
    arrive(victim, client_id, login="hubot")
    url = drive.approve(leave(oauth, arrive(oauth, client_id)))
    refused(oauth, open_in(victim.browser, url), CANNOT)
    refused(oauth, oauth.follow(url), CANNOT)
    assert len(audit_log.of(Event.CONNECTION_REFUSED)) == 4
    assert drive.requests == [], "no code was redeemed"
    # Another attempt is not concerned.
    assert oauth.follow(drive.approve(leave(oauth, arrive(oauth, client_id)))).status_code == 303
    assert set(held(oauth)) == {"DRIVE_TOKEN"}
    assert held(oauth, HUBOT) == {}


def test_an_answer_is_good_once(oauth: OAuthTestClient, drive: StandIn, client_id: str) -> None:
    url = drive.approve(leave(oauth, arrive(oauth, client_id)))
    assert oauth.follow(url).status_code == 303
    parts_of(oauth).user_credentials.remove("time", OCTOCAT, ["DRIVE_TOKEN"])
    refused(oauth, oauth.follow(url), CANNOT)
    assert len(drive.requests) == 1


def test_a_head_request_ends_no_attempt(oauth: OAuthTestClient, drive: StandIn, client_id: str) -> None:
    url = drive.approve(leave(oauth, arrive(oauth, client_id)))
    assert oauth.browser.head(url, base_url=ISSUER).data == b""
    assert drive.requests == []
    assert oauth.follow(url).status_code == 303


@pytest.mark.parametrize("state", ["", "x", "x" * 5000, "\x00"])
def test_an_invented_state_is_refused(oauth: OAuthTestClient, drive: StandIn, client_id: str, state: str) -> None:
    arrive(oauth, client_id)
    refused(oauth, open_in(oauth.browser, f"{CALLBACK}?code=x", state=state), CANNOT)
    assert drive.requests == []


def test_the_state_of_a_login_is_no_state_of_a_connection(
    oauth: OAuthTestClient, drive: StandIn, client_id: str
) -> None:
    state = query_of(oauth.decide(oauth.authorize(client_id)).location)["state"]
    refused(oauth, open_in(oauth.browser, f"{CALLBACK}?code=x", state=state), CANNOT)
    state = query_of(leave(oauth, arrive(oauth, client_id)))["state"]
    answer = open_in(oauth.browser, f"{ISSUER}/callback?code=x", state=state)
    assert answer.status_code == 400
    assert "This sign-in cannot be continued" in answer.text


def test_a_code_of_another_attempt_is_refused_by_the_other_service(
    oauth: OAuthTestClient, drive: StandIn, client_id: str
) -> None:
    """An attacker's code, brought with a state of the victim's own browser: PKCE binds a code to its state."""
    attacker = OAuthTestClient(oauth.settings, oauth.make_app, oauth.store, oauth.stand_in)
    drive.account = "mallory"
    code = query_of(drive.approve(leave(attacker, arrive(attacker, client_id, login="hubot"))))["code"]
    state = query_of(leave(oauth, arrive(oauth, client_id)))["state"]
    answer = open_in(oauth.browser, f"{CALLBACK}?code={code}", state=state)
    refused(oauth, answer, "Drive &lt;b&gt; could not be connected")


def test_an_answer_at_the_callback_of_another_account_is_refused(
    oauth: OAuthTestClient, drive: StandIn, client_id: str
) -> None:
    """Mix-up: a service that the operator uses for one server would get codes of another service."""
    url = urlsplit(drive.approve(leave(oauth, arrive(oauth, client_id))))
    for path in ("/connections/callback/fetch/OTHER_TOKEN", "/connections/callback/time/OTHER_TOKEN"):
        state = query_of(leave(oauth, arrive(oauth, client_id)))["state"]
        query = urlencode(query_of(url.geturl()) | {"state": state})
        refused(oauth, oauth.follow(f"{ISSUER}{path}?{query}"), "not of the service that you were sent to")
    assert drive.requests == []


@pytest.mark.parametrize("iss", [OTHER, f"{ORIGIN}:8443", "https://drive.example.com.evil.example"])
def test_an_answer_that_names_another_issuer_is_refused(
    oauth: OAuthTestClient, drive: StandIn, client_id: str, iss: str
) -> None:
    url = drive.approve(leave(oauth, arrive(oauth, client_id)))
    query = urlencode(query_of(url) | {"iss": iss})
    refused(oauth, oauth.follow(f"{CALLBACK}?{query}"), "names another service")
    assert drive.requests == []


def test_a_parameter_that_is_there_twice_is_refused(oauth: OAuthTestClient, drive: StandIn, client_id: str) -> None:
    url = drive.approve(leave(oauth, arrive(oauth, client_id)))
    answer = oauth.follow(f"{url}&code=x")
    assert answer.status_code == 400
    assert held(oauth) == {}
    assert drive.requests == []


def test_a_user_who_has_signed_in_as_another_one_meanwhile_connects_nothing(
    oauth: OAuthTestClient, drive: StandIn, client_id: str
) -> None:
    url = drive.approve(leave(oauth, arrive(oauth, client_id)))
    arrive(oauth, client_id, login="hubot")
    refused(oauth, oauth.follow(url), "no longer signed in as the same user")
    assert drive.requests == []


def test_a_user_who_has_signed_out_meanwhile_connects_nothing(
    oauth: OAuthTestClient, drive: StandIn, client_id: str
) -> None:
    url = drive.approve(leave(oauth, arrive(oauth, client_id)))
    account = oauth.browser.get("/account", base_url=ISSUER)
    (form,) = (each for each in account.text.split("<form") if 'value="sign-out"' in each)
    signed_out = Form(f"<form{form}").fields | {"action": "sign-out"}
    assert oauth.browser.post("/account", data=signed_out, base_url=ISSUER).status_code == 303
    refused(oauth, oauth.follow(url), "no longer signed in as the same user")


def test_a_user_who_declines_is_back_on_the_page(
    oauth: OAuthTestClient, drive: StandIn, client_id: str, audit_log: AuditLog
) -> None:
    url = leave(oauth, arrive(oauth, client_id))
    answer = open_in(oauth.browser, f"{CALLBACK}?error=access_denied", state=query_of(url)["state"])
    assert answer.status_code == 303
    page = oauth.follow(answer.location)
    assert "Connect" in page.text
    assert held(oauth) == {}
    assert audit_log.of(Event.CONNECTION_REFUSED)[0]["reason"] == "the user declined at the other service"
    # And can still do it.
    assert oauth.follow(drive.approve(leave(oauth, page))).status_code == 303


@pytest.mark.parametrize("error", ["server_error", "code-of-someone", "<script>", ""])
def test_an_error_of_the_other_service_is_told_without_what_it_says(
    oauth: OAuthTestClient, drive: StandIn, client_id: str, error: str, audit_log: AuditLog
) -> None:
    state = query_of(leave(oauth, arrive(oauth, client_id)))["state"]
    query = {"error": error, "error_description": "access-of-ada <b>"} if error else {}
    answer = open_in(oauth.browser, f"{CALLBACK}?state={state}", **query)
    refused(oauth, answer, "could not be connected")
    assert "access-of-ada" not in answer.text
    assert "<script>" not in answer.text
    assert 'href="https://auth.example.com/provide?login=' in answer.text, "the way back"
    (event,) = audit_log.of(Event.CONNECTION_REFUSED)
    assert event["credential"] == "DRIVE_TOKEN"


def server_error() -> ResponseReturnValue:
    return make_response('{"error": "access-of-ada"}', 500)


def elsewhere() -> ResponseReturnValue:
    return redirect("https://elsewhere.example/token", code=307)


def endless() -> ResponseReturnValue:
    return make_response('{"access_token": "access-' + "x" * (1 << 21) + '"}')


def quoting() -> ResponseReturnValue:
    return make_response('{"error": "access-of-ada", "error_description": "refresh-of-ada"}', 400)


def no_token() -> ResponseReturnValue:
    return make_response('{"access_token": "access-\\nof-ada"}')


@pytest.mark.parametrize("answer", [server_error, elsewhere, endless, quoting, no_token])
def test_an_answer_without_a_usable_token_is_temporary_and_shown_nowhere(
    oauth: OAuthTestClient, drive: StandIn, client_id: str, answer: Any
) -> None:
    url = drive.approve(leave(oauth, arrive(oauth, client_id)))
    drive.on_token = answer
    page = oauth.follow(url)
    refused(oauth, page, "cannot be connected at the moment", status=503)
    assert "of-ada" not in page.text
    assert len(drive.requests) == 1


def test_a_server_that_asks_for_the_account_no_more_gets_none(
    oauth: OAuthTestClient, drive: StandIn, client_id: str
) -> None:
    url = drive.approve(leave(oauth, arrive(oauth, client_id)))
    oauth.reload(resources={"time": {"user_credentials": None}})
    refused(oauth, oauth.follow(url), "does not ask for this account any more")
    assert drive.requests == []


@pytest.mark.parametrize(
    ("change", "is_asked"),
    [
        ({"token_endpoint": f"{OTHER}/token"}, True),
        ({"client_id": "another-application"}, True),
        ({"authorization_endpoint": f"{ORIGIN}/login"}, False),
        ({"revocation_endpoint": f"{ORIGIN}/end"}, False),
        ({"scopes": ["files.write"]}, False),
        ({"token_endpoint_auth_method": "client_secret_post"}, False),
    ],
)
def test_an_account_of_another_service_or_application_is_to_be_connected_again(
    oauth: OAuthTestClient, drive: StandIn, client_id: str, change: dict[str, Any], is_asked: bool
) -> None:
    oauth.follow(drive.approve(leave(oauth, arrive(oauth, client_id))))
    assert held(oauth)
    oauth.reload(resources={"time": {"user_credentials": {"DRIVE_TOKEN": {"oauth": change}}}})
    assert bool(held(oauth)) is not is_asked
    returned = oauth.follow(oauth.log_in(oauth.decide(oauth.authorize(client_id))))
    assert urlsplit(returned.location).path == ("/provide" if is_asked else urlsplit(REDIRECT).path)
    # The record stays until it is replaced or removed, or the user has no grant for a while.
    assert len(parts_of(oauth).user_credentials.find_states(OCTOCAT, ["time"])) == 1


def test_a_replaced_account_is_noted_as_that(
    oauth: OAuthTestClient, drive: StandIn, client_id: str, audit_log: AuditLog
) -> None:
    first = drive.approve(leave(oauth, arrive(oauth, client_id)))
    second = drive.approve(leave(oauth, arrive(oauth, client_id)))
    assert oauth.follow(first).status_code == oauth.follow(second).status_code == 303
    assert len(audit_log.of(Event.CREDENTIAL_SET)) == len(audit_log.of(Event.CREDENTIAL_REPLACED)) == 1


def test_a_removed_account_is_revoked_at_the_other_service(
    oauth: OAuthTestClient, drive: StandIn, client_id: str
) -> None:
    oauth.follow(drive.approve(leave(oauth, arrive(oauth, client_id))))
    parts = parts_of(oauth)
    assert parts.credential_changes.remove("time", OCTOCAT, ["DRIVE_TOKEN"], by="user").variables == ["DRIVE_TOKEN"]
    parts.connections.close()
    assert drive.access_tokens == drive.refresh_tokens == {}


def open_account(oauth: OAuthTestClient) -> tuple[TestResponse, dict[str, str]]:
    """Return the account page, and the fields of the form with its button to connect again."""
    page = oauth.browser.get("/account", base_url=ISSUER)
    (form,) = (each for each in page.text.split("<form") if "Connect again</button>" in each)
    return page, Form(f"<form{form}").fields | {"action": "connect-credential"}


def test_an_account_is_replaced_on_the_account_page(
    oauth: OAuthTestClient, drive: StandIn, client_id: str, audit_log: AuditLog
) -> None:
    oauth.follow(drive.approve(leave(oauth, arrive(oauth, client_id))))
    first = held(oauth)["DRIVE_TOKEN"]
    page, fields = open_account(oauth)
    assert f" {ORIGIN} https:" in page.headers["Content-Security-Policy"].partition("form-action")[2]
    sent = oauth.browser.post("/account", data=fields, base_url=ISSUER)
    drive.account = "grace"
    back = oauth.follow(drive.approve(sent.location))
    assert back.location == f"{ISSUER}/account?notice=credential-replaced"
    assert "Replaced." in oauth.follow(back.location).text
    second = held(oauth)["DRIVE_TOKEN"]
    assert drive.access_tokens[second.value] == "grace"
    assert second.value != first.value
    assert len(audit_log.of(Event.CREDENTIAL_REPLACED)) == 1


def test_a_missing_account_is_connected_on_the_account_page(oauth: OAuthTestClient, drive: StandIn) -> None:
    visited = oauth.browser.get("/account", base_url=ISSUER)
    oauth.follow(oauth.log_in(oauth.browser.post("/account", data=Form(visited.text).fields, base_url=ISSUER)))
    page = oauth.browser.get("/account", base_url=ISSUER)
    assert f" {ORIGIN} " in page.headers["Content-Security-Policy"].partition("form-action")[2]
    (form,) = (each for each in page.text.split("<form") if "Connect Drive" in each)
    data = Form(f"<form{form}").fields | {"action": "connect-credential"}
    sent = oauth.browser.post("/account", data=data, base_url=ISSUER)
    back = oauth.follow(drive.approve(sent.location))
    assert back.location == f"{ISSUER}/account?notice=credential-connected"
    assert "Connected." in oauth.follow(back.location).text
    assert held(oauth).keys() == {"DRIVE_TOKEN"}


def test_the_page_says_that_an_account_is_connected_while_something_is_missing(
    oauth: OAuthTestClient, drive: StandIn, client_id: str
) -> None:
    oauth.reload(resources={"time": {"user_credentials": {"WIKI_KEY": {"label": "Wiki key"}}}})
    page = arrive(oauth, client_id)
    assert "Connect first" in page.text
    back = oauth.follow(drive.approve(leave(oauth, page)))
    page = oauth.follow(back.location)
    assert "<strong>Connected.</strong>" in page.text
    assert "<dt>Already there</dt><dd><bdi>Drive &lt;b&gt;</bdi></dd>" in page.text
    assert "Connect first" not in page.text
    for other in ("WIKI_KEY", "x"):
        url = back.location.replace("connected=DRIVE_TOKEN", f"connected={other}")
        assert "<strong>Connected.</strong>" not in oauth.follow(url).text


def test_an_account_stays_if_the_user_declines_to_replace_it(
    oauth: OAuthTestClient, drive: StandIn, client_id: str
) -> None:
    oauth.follow(drive.approve(leave(oauth, arrive(oauth, client_id))))
    first = held(oauth)
    sent = oauth.browser.post("/account", data=open_account(oauth)[1], base_url=ISSUER)
    state = query_of(sent.location)["state"]
    back = open_in(oauth.browser, f"{CALLBACK}?error=access_denied", state=state)
    assert back.location == f"{ISSUER}/account"
    assert held(oauth) == first


def test_the_button_of_the_account_page_is_of_one_browser_and_what_it_showed(
    oauth: OAuthTestClient, drive: StandIn, client_id: str
) -> None:
    oauth.follow(drive.approve(leave(oauth, arrive(oauth, client_id))))
    _, fields = open_account(oauth)
    for browser, sent in (
        (oauth.new_browser(), fields),
        (oauth.browser, {"action": "connect-credential"}),
        (oauth.browser, fields | {"ticket": fields["ticket"][:-2]}),
    ):
        answer = browser.post("/account", data=sent, base_url=ISSUER)
        assert answer.status_code == 400
        assert "location" not in answer.headers
    oauth.reload(resources={"time": {"user_credentials": {"DRIVE_TOKEN": {"oauth": {"client_id": "another"}}}}})
    answer = oauth.browser.post("/account", data=fields, base_url=ISSUER)
    assert answer.status_code == 400, "the operator has changed where it leads"


@pytest.mark.parametrize("moment", ["redeem", "put"])
def test_nothing_is_kept_for_a_user_who_is_revoked_meanwhile(
    oauth: OAuthTestClient, drive: StandIn, client_id: str, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    parts = parts_of(oauth)
    url = drive.approve(leave(oauth, arrive(oauth, client_id)))
    owner: Any = parts.connections if moment == "redeem" else parts.user_credentials
    act = getattr(owner, moment)

    def act_while_the_user_is_revoked(*args: Any, **named: Any) -> Any:
        found = act(*args, **named) if moment == "redeem" else None
        parts.revocation.end_user(OCTOCAT, by="operator")
        parts.credential_changes.remove_all(OCTOCAT, by="operator")
        return act(*args, **named) if moment == "put" else found

    monkeypatch.setattr(owner, moment, act_while_the_user_is_revoked)
    refused(oauth, oauth.follow(url), "You are no longer signed in as the same user")
