"""Users see which of their credentials are kept, replace and remove them, and no page shows a value."""

from __future__ import annotations

import re
from html import unescape
from typing import Any, NoReturn

import pytest
from werkzeug.test import TestResponse

from auth_service.app.composition import Parts
from auth_service.ops.audit import Event
from auth_service.settings import Settings
from auth_service.storage.key_names import CREDENTIAL_SERVERS, login_key, user_credentials_key
from auth_service.storage.user_credentials import KEPT_SECONDS, Secret
from tests.browser import Form

from .conftest import ISSUER, RESOURCE, AuditLog, OAuthTestClient, merged

OCTOCAT, HUBOT = "github:583231", "github:480938"
TOKEN = "ghp_ABCDEFGHIJKLMNOPQRSTUVWXYZ"
KEY = user_credentials_key("time", OCTOCAT)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Two users, and a server that needs two things of each."""
    wanted = {
        "GITHUB_TOKEN": {"label": "GitHub token", "pattern": "ghp_[A-Z]{10,}"},
        "WIKI_KEY": {"label": "Wiki key"},
    }
    changes = {
        "allowed": {"users": ["octocat", "hubot"]},
        "resources": {"time": {"title": "Tickets", "user_credentials": wanted}},
    }
    return Settings.model_validate(merged(settings.model_dump(exclude_unset=True, mode="json"), changes))


def parts_of(oauth: OAuthTestClient) -> Parts:
    parts = oauth.app.extensions["gateway"]
    assert isinstance(parts, Parts)
    return parts


def give(oauth: OAuthTestClient, sub: str = OCTOCAT) -> None:
    """Keep both credentials for a user."""
    secrets = {"GITHUB_TOKEN": Secret(value=TOKEN), "WIKI_KEY": Secret(value="of-the-wiki")}
    parts_of(oauth).user_credentials.put("time", sub, secrets)


def values(oauth: OAuthTestClient, sub: str = OCTOCAT) -> dict[str, str]:
    held = parts_of(oauth).user_credentials.read_all("time", sub)
    return {variable: stored.secret.value for variable, stored in held.items()}


def open_account(oauth: OAuthTestClient) -> TestResponse:
    return oauth.browser.get("/account", base_url=ISSUER)


def sign_in(oauth: OAuthTestClient, login: str = "octocat") -> TestResponse:
    """Sign in on the account page and return the page then."""
    sent = oauth.browser.post("/account", data=Form(open_account(oauth).text).fields, base_url=ISSUER)
    assert oauth.follow(oauth.log_in(sent, login)).status_code == 303
    return open_account(oauth)


def fields_of(page: TestResponse, variable: str) -> dict[str, str]:
    """Return the hidden fields of the card of this variable."""
    card = re.search(rf'<li id="time-{variable}">.*?</li>', page.text, re.DOTALL)
    assert card is not None, page.text
    return Form(card[0]).fields


def ticket_of_sign_out(page: TestResponse) -> str:
    """Return the form token of the page's last form."""
    return unescape(re.findall(r'name="ticket" value="([^"]+)"', page.text)[-1])


def act(oauth: OAuthTestClient, fields: dict[str, str], action: str, **entered: str) -> TestResponse:
    data = fields | {"action": action} | {f"value:{name}": value for name, value in entered.items()}
    return oauth.browser.post("/account", data=data, base_url=ISSUER)


def obtain_tokens(oauth: OAuthTestClient, resource: str = RESOURCE) -> tuple[str, dict[str, Any]]:
    client_id = str(oauth.register()["client_id"])
    answer = oauth.redeem(client_id, oauth.obtain_code(client_id, resource=resource))
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.get_json()
    return client_id, document


def refresh(oauth: OAuthTestClient, client_id: str, tokens: dict[str, Any]) -> TestResponse:
    return oauth.token(grant_type="refresh_token", client_id=client_id, refresh_token=tokens["refresh_token"])


def test_the_account_page_shows_when_and_never_what(oauth: OAuthTestClient) -> None:
    page = sign_in(oauth)
    assert "What servers use in your name" not in page.text
    give(oauth)
    parts_of(oauth).user_credentials.note_use("time", OCTOCAT, ["WIKI_KEY"])
    page = open_account(oauth)
    for text in ("GitHub token", "Wiki key", "Tickets", "Never", "Replace", "Remove"):
        assert text in page.text
    assert page.text.count("<dt>Last used</dt><dd><time ") == 1
    for value in (TOKEN, "of-the-wiki"):
        assert value not in page.text


def test_the_home_page_shows_them_with_the_server(oauth: OAuthTestClient) -> None:
    visitor = oauth.browser.get("/", base_url=ISSUER)
    assert "GitHub token" not in visitor.text
    sign_in(oauth)
    page = unescape(oauth.browser.get("/", base_url=ISSUER).text)
    assert page.count("Not set: the login of a client asks for it") == 2
    assert page.count("Your credentials") == 1
    assert f'href="{ISSUER}/account#time-GITHUB_TOKEN">Set it now' in page
    give(oauth)
    page = unescape(oauth.browser.get("/", base_url=ISSUER).text)
    assert "Not set" not in page
    assert page.count("never used") == 2
    assert f'href="{ISSUER}/account#time-GITHUB_TOKEN"' in page
    assert TOKEN not in page


def test_other_users_credentials_are_not_shown(oauth: OAuthTestClient) -> None:
    give(oauth, HUBOT)
    page = sign_in(oauth)
    assert "remove-credential" not in page.text
    assert page.text.count("set-credential") == 2
    assert "never used" not in oauth.browser.get("/", base_url=ISSUER).text


def test_what_is_missing_is_set_on_the_account_page(oauth: OAuthTestClient, audit_log: AuditLog) -> None:
    page = sign_in(oauth)
    answer = act(oauth, fields_of(page, "GITHUB_TOKEN"), "set-credential", GITHUB_TOKEN=TOKEN, WIKI_KEY="unasked")
    assert answer.location == f"{ISSUER}/account?notice=credential-set"
    page = oauth.follow(answer.location)
    assert "Saved." in page.text
    assert TOKEN not in page.text
    assert values(oauth) == {"GITHUB_TOKEN": TOKEN}
    assert values(oauth, HUBOT) == {}
    (event,) = audit_log.of(Event.CREDENTIAL_SET)
    assert (event["user"], event["resource"], event["credential"]) == (OCTOCAT, RESOURCE, "GITHUB_TOKEN")
    assert 'value="replace-credential"' in page.text
    assert page.text.count('value="set-credential"') == 1


def test_a_missing_value_unlike_the_pattern_is_not_kept(oauth: OAuthTestClient) -> None:
    page = sign_in(oauth)
    answer = act(oauth, fields_of(page, "GITHUB_TOKEN"), "set-credential", GITHUB_TOKEN="gho_of-another-kind")
    assert answer.status_code == 400
    assert "does not look as it should" in answer.text
    assert "gho_of-another-kind" not in answer.text
    assert values(oauth) == {}


def test_what_was_set_in_another_tab_is_not_replaced_by_a_form_for_what_is_missing(oauth: OAuthTestClient) -> None:
    fields = fields_of(sign_in(oauth), "WIKI_KEY")
    give(oauth)
    for action in ("set-credential", "replace-credential", "remove-credential", "connect-credential"):
        assert act(oauth, fields, action, WIKI_KEY="late").status_code == 400
    assert values(oauth)["WIKI_KEY"] == "of-the-wiki"


@pytest.mark.parametrize("action", ["replace-credential", "remove-credential", "connect-credential", "end-all", ""])
def test_a_form_for_what_is_missing_does_nothing_else(oauth: OAuthTestClient, action: str) -> None:
    assert act(oauth, fields_of(sign_in(oauth), "WIKI_KEY"), action, WIKI_KEY="other").status_code == 400
    assert values(oauth) == {}


def test_a_form_for_what_is_missing_is_of_one_user_and_browser(oauth: OAuthTestClient) -> None:
    fields = fields_of(sign_in(oauth), "WIKI_KEY") | {"action": "set-credential", "value:WIKI_KEY": "forged"}
    stranger = oauth.new_browser()
    assert stranger.post("/account", data=fields, base_url=ISSUER).status_code == 400
    oauth.browser = stranger
    sign_in(oauth, "hubot")
    assert oauth.browser.post("/account", data=fields, base_url=ISSUER).status_code == 400
    assert values(oauth) == values(oauth, HUBOT) == {}


def test_nothing_can_be_set_for_a_server_that_the_user_may_not_use(oauth: OAuthTestClient) -> None:
    fields = fields_of(sign_in(oauth), "WIKI_KEY")
    oauth.reload(resources={"time": {"allowed": {"users": ["hubot"]}}})
    assert "Wiki key" not in open_account(oauth).text
    assert act(oauth, fields, "set-credential", WIKI_KEY="late").status_code == 400
    assert values(oauth) == {}


def test_a_form_for_what_is_missing_is_shown_again_if_its_texts_have_changed(oauth: OAuthTestClient) -> None:
    fields = fields_of(sign_in(oauth), "WIKI_KEY")
    oauth.reload(resources={"time": {"user_credentials": {"WIKI_KEY": {"label": "Another key"}}}})
    assert act(oauth, fields, "set-credential", WIKI_KEY="of-the-wiki").status_code == 400
    assert values(oauth) == {}


def test_what_is_removed_with_the_last_grant_can_be_set_again_at_once(oauth: OAuthTestClient) -> None:
    give(oauth)
    obtain_tokens(oauth)
    page = oauth.follow(act(oauth, fields_of(open_account(oauth), "WIKI_KEY"), "remove-credential").location)
    assert "Removed." in page.text
    assert "No application has access." in page.text
    assert "Sign in again" not in page.text
    assert act(oauth, fields_of(page, "WIKI_KEY"), "set-credential", WIKI_KEY="new").status_code == 303
    assert values(oauth) == {"GITHUB_TOKEN": TOKEN, "WIKI_KEY": "new"}


def test_after_the_profile_has_gone_a_user_signs_in_again_to_see_what_is_missing(oauth: OAuthTestClient) -> None:
    sign_in(oauth)
    fields = fields_of(open_account(oauth), "WIKI_KEY")
    oauth.store.redis.delete(login_key(OCTOCAT))
    oauth.store.sessions.forget_profile(OCTOCAT)
    assert act(oauth, fields, "set-credential", WIKI_KEY="late").status_code == 400
    assert values(oauth) == {}
    page = open_account(oauth)
    assert "Sign in again to see what they need" in page.text
    assert "https://github.com" in page.headers["Content-Security-Policy"].partition("form-action ")[2]
    (form,) = (each for each in page.text.split("<form") if 'value="sign-in"' in each)
    data = Form(f"<form{form}").fields | {"action": "sign-in"}
    sent = oauth.browser.post("/account", data=data, base_url=ISSUER)
    assert oauth.follow(oauth.log_in(sent)).status_code == 303
    page = open_account(oauth)
    assert act(oauth, fields_of(page, "WIKI_KEY"), "set-credential", WIKI_KEY="new").status_code == 303
    assert values(oauth) == {"WIKI_KEY": "new"}


def test_removing_ends_the_grants_at_that_server_alone(oauth: OAuthTestClient, audit_log: AuditLog) -> None:
    give(oauth)
    client_id, tokens = obtain_tokens(oauth)
    other_id, other_tokens = obtain_tokens(oauth, "https://fetch.example.com/mcp")
    page = open_account(oauth)
    answer = act(oauth, fields_of(page, "WIKI_KEY"), "remove-credential")
    assert answer.location == f"{ISSUER}/account?notice=credential-removed"
    assert "Removed." in oauth.follow(answer.location).text
    assert values(oauth) == {"GITHUB_TOKEN": TOKEN}
    assert refresh(oauth, client_id, tokens).get_json()["error"] == "invalid_grant"
    assert refresh(oauth, other_id, other_tokens).status_code == 200
    (event,) = audit_log.of(Event.CREDENTIAL_REMOVED)
    assert event["user"] == OCTOCAT
    assert (event["resource"], event["credential"], event["by"]) == (RESOURCE, "WIKI_KEY", "user")
    assert [each["by"] for each in audit_log.of(Event.GRANT_REVOKED)] == ["user"]


def test_replacing_keeps_the_grants(oauth: OAuthTestClient, audit_log: AuditLog) -> None:
    give(oauth)
    client_id, tokens = obtain_tokens(oauth)
    page = open_account(oauth)
    answer = act(oauth, fields_of(page, "GITHUB_TOKEN"), "replace-credential", GITHUB_TOKEN="ghp_ZZZZZZZZZZ")
    assert answer.location == f"{ISSUER}/account?notice=credential-replaced"
    assert values(oauth) == {"GITHUB_TOKEN": "ghp_ZZZZZZZZZZ", "WIKI_KEY": "of-the-wiki"}
    assert refresh(oauth, client_id, tokens).status_code == 200
    (event,) = audit_log.of(Event.CREDENTIAL_REPLACED)
    assert (event["user"], event["name"], event["credential"]) == (OCTOCAT, "octocat", "GITHUB_TOKEN")
    assert "ghp_ZZ" not in str(audit_log.entries)


@pytest.mark.parametrize("variable", ["GITHUB_TOKEN", "WIKI_KEY"])
def test_nothing_is_kept_for_a_user_who_is_revoked_meanwhile(
    oauth: OAuthTestClient, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    parts = parts_of(oauth)
    parts.user_credentials.put("time", OCTOCAT, {"GITHUB_TOKEN": Secret(value=TOKEN)})
    page = sign_in(oauth)
    put = parts.user_credentials.put

    def put_after_the_revocation(*args: Any, **named: Any) -> set[str]:
        parts.revocation.end_user(OCTOCAT, by="operator")
        parts.credential_changes.remove_all(OCTOCAT, by="operator")
        return put(*args, **named)

    monkeypatch.setattr(parts.user_credentials, "put", put_after_the_revocation)
    action = "replace-credential" if variable == "GITHUB_TOKEN" else "set-credential"
    answer = act(oauth, fields_of(page, variable), action, **{variable: "ghp_NEWNEWNEWNEW"})
    assert answer.status_code == 400, "the user is signed out, and nothing was changed"
    assert values(oauth) == {}


def test_all_credentials_of_a_user_are_removed_without_a_look_at_those_of_others(
    oauth: OAuthTestClient, monkeypatch: pytest.MonkeyPatch, audit_log: AuditLog
) -> None:
    parts = parts_of(oauth)
    secret = {"GITHUB_TOKEN": Secret(value=TOKEN)}
    for server, sub in [("time", OCTOCAT), ("removed", OCTOCAT), ("time", "github:7"), ("removed", "github:7")]:
        parts.user_credentials.put(server, sub, secret)

    def scan(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("all keys are scanned")

    with monkeypatch.context() as here:
        here.setattr(type(parts.store.redis), "scan_iter", scan)
        here.setattr(type(parts.store.redis), "scan", scan)
        parts.credential_changes.remove_all(OCTOCAT, by="operator")
    for server in ("time", "removed"):
        assert parts.user_credentials.read_all(server, OCTOCAT) == {}
        assert parts.user_credentials.read_all(server, "github:7") != {}
    assert sorted(entry["resource"] for entry in audit_log.of(Event.CREDENTIAL_REMOVED)) == [RESOURCE, "removed"]


def test_credentials_of_an_earlier_version_are_removed_too(oauth: OAuthTestClient) -> None:
    parts = parts_of(oauth)
    parts.user_credentials.put("time", OCTOCAT, {"GITHUB_TOKEN": Secret(value=TOKEN)})
    parts.store.redis.delete(CREDENTIAL_SERVERS)  # which that version did not keep
    parts.credential_changes.remove_all(OCTOCAT, by="operator")
    assert parts.user_credentials.read_all("time", OCTOCAT) == {}


@pytest.mark.parametrize("value", ["", "ghp_short", "ghp_ABCDEFGHIJ\n", "x" * 5000])
def test_a_replacement_that_cannot_be_one_changes_nothing(oauth: OAuthTestClient, value: str) -> None:
    give(oauth)
    page = sign_in(oauth)
    answer = act(oauth, fields_of(page, "GITHUB_TOKEN"), "replace-credential", GITHUB_TOKEN=value)
    assert answer.status_code == 400
    assert 'class="problem"' in answer.text
    assert '<details class="replace" open>' in answer.text
    assert values(oauth)["GITHUB_TOKEN"] == TOKEN


@pytest.mark.parametrize("action", ["remove-credential", "replace-credential"])
def test_a_form_changes_its_own_credential_only(oauth: OAuthTestClient, action: str) -> None:
    give(oauth)
    page = sign_in(oauth)
    act(oauth, fields_of(page, "GITHUB_TOKEN"), action, WIKI_KEY="forged")
    assert values(oauth)["WIKI_KEY"] == "of-the-wiki"


@pytest.mark.parametrize("action", ["remove-credential", "replace-credential"])
def test_other_forms_of_the_page_change_no_credential(oauth: OAuthTestClient, action: str) -> None:
    give(oauth)
    page = sign_in(oauth)
    fields = {"ticket": ticket_of_sign_out(page), "credential": "time:WIKI_KEY"}
    answer = act(oauth, fields, action, WIKI_KEY="forged")
    assert answer.status_code == 400
    assert values(oauth) == {"GITHUB_TOKEN": TOKEN, "WIKI_KEY": "of-the-wiki"}


@pytest.mark.parametrize("action", ["remove-credential", "replace-credential"])
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_website_can_not_send_the_form(oauth: OAuthTestClient, site: str, action: str) -> None:
    give(oauth)
    fields = fields_of(sign_in(oauth), "WIKI_KEY")
    answer = oauth.browser.post(
        "/account",
        data=fields | {"action": action, "value:WIKI_KEY": "forged"},
        headers={"Sec-Fetch-Site": site},
        base_url=ISSUER,
    )
    assert answer.status_code == 400
    assert "Another website tried to answer for you" in answer.text
    assert values(oauth)["WIKI_KEY"] == "of-the-wiki"


@pytest.mark.parametrize("action", ["remove-credential", "replace-credential"])
def test_another_user_or_browser_can_not_use_the_form(oauth: OAuthTestClient, action: str) -> None:
    give(oauth)
    give(oauth, HUBOT)
    fields = fields_of(sign_in(oauth), "WIKI_KEY")
    # Another browser, signed in as another user, as the same user, and not signed in.
    for login in ("hubot", "octocat", None):
        oauth.browser = oauth.new_browser()
        if login is not None:
            sign_in(oauth, login)
        assert act(oauth, fields, action, WIKI_KEY="forged").status_code == 400
    for sub in (OCTOCAT, HUBOT):
        assert values(oauth, sub)["WIKI_KEY"] == "of-the-wiki"


def test_the_form_of_one_user_is_of_no_use_to_the_next_in_the_same_browser(oauth: OAuthTestClient) -> None:
    give(oauth)
    give(oauth, HUBOT)
    page = sign_in(oauth)
    fields = fields_of(page, "WIKI_KEY")
    assert act(oauth, {"ticket": ticket_of_sign_out(page)}, "sign-out").status_code == 303
    sign_in(oauth, "hubot")
    assert act(oauth, fields, "remove-credential").status_code == 400
    assert values(oauth) == values(oauth, HUBOT) == {"GITHUB_TOKEN": TOKEN, "WIKI_KEY": "of-the-wiki"}


def test_what_was_removed_in_another_tab_is_not_set_again(oauth: OAuthTestClient) -> None:
    give(oauth)
    fields = fields_of(sign_in(oauth), "WIKI_KEY")
    act(oauth, fields, "remove-credential")
    assert act(oauth, fields, "replace-credential", WIKI_KEY="late").status_code == 400
    assert act(oauth, fields, "remove-credential").status_code == 400
    assert values(oauth) == {"GITHUB_TOKEN": TOKEN}


def test_a_form_whose_texts_have_changed_is_shown_again(oauth: OAuthTestClient) -> None:
    give(oauth)
    fields = fields_of(sign_in(oauth), "WIKI_KEY")
    oauth.reload(resources={"time": {"user_credentials": {"WIKI_KEY": {"label": "Password of your bank"}}}})
    assert act(oauth, fields, "replace-credential", WIKI_KEY="of the bank").status_code == 400
    assert values(oauth)["WIKI_KEY"] == "of-the-wiki"


def test_what_a_server_does_not_need_any_more_can_be_removed_and_not_replaced(oauth: OAuthTestClient) -> None:
    give(oauth)
    oauth.reload(resources={"time": {"user_credentials": {"WIKI_KEY": None}}})
    page = sign_in(oauth)
    assert "Not any more" in page.text
    fields = fields_of(page, "WIKI_KEY")
    assert act(oauth, fields, "replace-credential", WIKI_KEY="new").status_code == 400
    assert values(oauth)["WIKI_KEY"] == "of-the-wiki"
    assert act(oauth, fields, "remove-credential").status_code == 303
    assert values(oauth) == {"GITHUB_TOKEN": TOKEN}


@pytest.fixture
def connected(oauth: OAuthTestClient) -> OAuthTestClient:
    """The service with an account that the user connects in place of a key, and octocat signed in."""
    account = {
        "authorization_endpoint": "https://wiki.example.com/authorize",
        "token_endpoint": "https://wiki.example.com/token",
        "client_id": "gateway",
        "scopes": [],
    }
    oauth.reload(resources={"time": {"user_credentials": {"WIKI_KEY": {"oauth": account}}}})
    give(oauth)
    sign_in(oauth)
    return oauth


def test_an_account_is_connected_again_from_the_account_page(connected: OAuthTestClient) -> None:
    page = open_account(connected)
    assert "https://wiki.example.com" in page.headers["Content-Security-Policy"].partition("form-action ")[2].split()
    sent = act(connected, fields_of(page, "WIKI_KEY"), "connect-credential")
    assert sent.status_code == 303
    assert sent.location.startswith("https://wiki.example.com/authorize?")
    # Nothing is lost until the user comes back.
    assert values(connected)["WIKI_KEY"] == "of-the-wiki"


def test_no_value_can_be_entered_for_an_account_and_no_account_connected_for_a_value(
    connected: OAuthTestClient,
) -> None:
    page = open_account(connected)
    assert page.text.count('type="password"') == 1
    for fields, action in (
        (fields_of(page, "WIKI_KEY"), "replace-credential"),
        (fields_of(page, "GITHUB_TOKEN"), "connect-credential"),
    ):
        assert act(connected, fields, action, WIKI_KEY="forged", GITHUB_TOKEN="ghp_ZZZZZZZZZZ").status_code == 400
    assert values(connected) == {"GITHUB_TOKEN": TOKEN, "WIKI_KEY": "of-the-wiki"}


def test_a_login_and_each_refresh_keep_the_credentials_for_longer_than_the_grant(oauth: OAuthTestClient) -> None:
    give(oauth)
    ends: list[int] = []
    client_id, tokens = obtain_tokens(oauth)
    for _ in range(2):
        ends.append(int(str(oauth.store.redis.ttl(KEY))))
        oauth.store.redis.expire(KEY, 100)
        tokens = refresh(oauth, client_id, tokens).get_json()
    ends.append(int(str(oauth.store.redis.ttl(KEY))))
    lifetime = oauth.settings.lifetimes.refresh_token
    assert all(end > lifetime + KEPT_SECONDS - 60 for end in ends), ends
