"""Consent: when the page is shown, what it covers, and that only the user in this browser can give it."""

from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import urlencode

import pytest
import time_machine
from werkzeug.test import TestResponse

from auth_service.ops.audit import Event
from auth_service.protocol import redirect_uris
from auth_service.protocol.consent import REMEMBERED_SECONDS, Consent
from auth_service.protocol.errors import ServiceUnavailable
from auth_service.protocol.parameters import MAX_URL_BYTES, MAX_VALUE_LENGTH
from auth_service.settings import Settings
from auth_service.storage.consents import MAX_CONSENTS
from auth_service.storage.sessions import MAX_SESSIONS
from local import github
from tests.browser import Form
from tests.conftest import RedisServer

from .conftest import GITHUB, ISSUER, REDIRECT, RESOURCE, AuditLog, OAuthTestClient, authorization_query, parameters_of

HTTPS_REDIRECT = "https://app.example.org/callback"
OTHER_REDIRECT = "https://app.example.org/other"
DIRECT = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Two users, and a server with scopes to choose from."""
    document = settings.model_dump(exclude={"resources"}, exclude_none=True)
    document["allowed"] = {"users": ["octocat", "hubot"]}
    document["resources"] = {
        name: resource.model_dump(exclude={"replicas", "title", "allowed"})
        for name, resource in settings.resources.items()
    }
    document["resources"]["time"]["scopes"] = {
        "mcp": {"description": "Read the clock", "required": True},
        "set": {"description": "Set the clock", "required": False},
        "stop": {"description": "Stop the clock", "required": False},
    }
    return Settings.model_validate(document)


@pytest.fixture
def client_id(oauth: OAuthTestClient) -> str:
    """A web application, whose answer goes to an https address."""
    return register(oauth)


def register(oauth: OAuthTestClient, **metadata: Any) -> str:
    return str(oauth.register(redirect_uris=[HTTPS_REDIRECT, OTHER_REDIRECT, REDIRECT], **metadata)["client_id"])


def open_page(oauth: OAuthTestClient, client_id: str, **changes: str | None) -> TestResponse:
    """Open the authorization page as a program on this computer makes the browser do it."""
    return open_page_with(oauth, client_id, DIRECT, **changes)


def open_page_with(
    oauth: OAuthTestClient, client_id: str, headers: dict[str, str], /, **changes: str | None
) -> TestResponse:
    """Open the authorization page with these headers."""
    query = authorization_query(client_id, **({"redirect_uri": HTTPS_REDIRECT} | changes))
    return oauth.browser.get("/authorize", query_string=query, headers=headers, base_url=ISSUER)


def approve(oauth: OAuthTestClient, client_id: str, *, login: str = "octocat", **changes: str | None) -> dict[str, str]:
    """Approve on the page and log in; return the answer that the client gets."""
    page = open_page(oauth, client_id, **changes)
    return parameters_of(oauth.follow(oauth.log_in(oauth.decide(page), login)))


def is_asked(response: TestResponse) -> bool:
    """Whether the user has to decide, rather than being sent on to the identity provider."""
    if response.status_code == 303:
        assert response.location.startswith(f"{GITHUB}/")
        return False
    assert response.status_code == 200
    assert Form(response.text).action == f"{ISSUER}/consent"
    return True


def test_a_consent_of_this_browser_is_remembered_and_yields_a_code(oauth: OAuthTestClient, client_id: str) -> None:
    approve(oauth, client_id)
    again = open_page(oauth, client_id)
    assert not is_asked(again)
    answer = parameters_of(oauth.follow(oauth.log_in(again)))
    assert answer["iss"] == ISSUER
    assert oauth.redeem(client_id, answer["code"], redirect_uri=HTTPS_REDIRECT).status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        {"redirect_uri": OTHER_REDIRECT},
        {"redirect_uri": REDIRECT},
        {"resource": "https://fetch.example.com/mcp"},
        {"scope": "mcp set"},
        {"scope": "set"},
        {"prompt": "consent"},
        {"prompt": "login"},
    ],
)
def test_another_redirect_resource_or_scope_is_asked_for(
    oauth: OAuthTestClient, client_id: str, change: dict[str, str]
) -> None:
    approve(oauth, client_id)
    assert is_asked(open_page(oauth, client_id, **change))
    assert not is_asked(open_page(oauth, client_id))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "none"},
        DIRECT | {"Sec-Fetch-Site": "cross-site"},
        DIRECT | {"Sec-Fetch-Site": "same-site"},
        DIRECT | {"Sec-Fetch-Site": "none, cross-site"},
        DIRECT | {"Sec-Fetch-Site": ""},
        DIRECT | {"Sec-Fetch-Mode": "no-cors"},
        DIRECT | {"Sec-Fetch-Dest": "iframe"},
    ],
)
def test_another_site_can_not_use_an_earlier_consent(
    oauth: OAuthTestClient, client_id: str, headers: dict[str, str]
) -> None:
    approve(oauth, client_id)
    assert is_asked(open_page_with(oauth, client_id, headers))


def test_this_gateways_own_pages_may_use_an_earlier_consent(oauth: OAuthTestClient, client_id: str) -> None:
    approve(oauth, client_id)
    assert not is_asked(open_page_with(oauth, client_id, DIRECT | {"Sec-Fetch-Site": "same-origin"}))


def test_changed_metadata_of_the_client_is_asked_about(oauth: OAuthTestClient) -> None:
    registered = oauth.register(redirect_uris=[HTTPS_REDIRECT])
    approve(oauth, registered["client_id"])
    changed = {
        "client_id": registered["client_id"],
        "client_name": "Another name",
        "redirect_uris": [HTTPS_REDIRECT],
        "token_endpoint_auth_method": "none",
    }
    headers = {"Authorization": f"Bearer {registered['registration_access_token']}"}
    response = oauth.browser.put(f"/register/{registered['client_id']}", json=changed, headers=headers, base_url=ISSUER)
    assert response.status_code == 200
    assert is_asked(open_page(oauth, registered["client_id"]))


def test_a_client_that_changes_while_the_user_logs_in_is_asked_about_again(oauth: OAuthTestClient) -> None:
    registered = oauth.register(redirect_uris=[HTTPS_REDIRECT])
    callback = oauth.log_in(oauth.decide(open_page(oauth, registered["client_id"])))
    changed = {
        "client_id": registered["client_id"],
        "client_name": "Another name",
        "redirect_uris": [HTTPS_REDIRECT],
        "token_endpoint_auth_method": "none",
    }
    headers = {"Authorization": f"Bearer {registered['registration_access_token']}"}
    oauth.browser.put(f"/register/{registered['client_id']}", json=changed, headers=headers, base_url=ISSUER)
    page = oauth.follow(callback)
    assert is_asked(page)
    assert "Another name" in page.text


def test_another_browser_has_approved_nothing(oauth: OAuthTestClient, client_id: str) -> None:
    approve(oauth, client_id)
    oauth.browser = oauth.new_browser()
    assert is_asked(open_page(oauth, client_id))


def test_another_client_of_the_same_name_has_no_consent(oauth: OAuthTestClient, client_id: str) -> None:
    approve(oauth, client_id)
    assert is_asked(open_page(oauth, register(oauth)))


def test_someone_else_at_the_same_browser_has_approved_nothing(oauth: OAuthTestClient, client_id: str) -> None:
    approve(oauth, client_id)
    again = open_page(oauth, client_id)
    page = oauth.follow(oauth.log_in(again, "hubot"))
    assert is_asked(page)
    assert "hubot" in page.text
    assert "octocat" not in page.text
    assert is_asked(open_page(oauth, client_id)), "the former user's session has ended"


def test_a_program_on_this_computer_is_asked_for_each_time(oauth: OAuthTestClient, client_id: str) -> None:
    approve(oauth, client_id, redirect_uri=REDIRECT)
    page = open_page(oauth, client_id, redirect_uri=REDIRECT)
    assert is_asked(page)
    assert "You have allowed this before" in page.text


def test_a_program_that_authenticates_is_not_asked_for_again(oauth: OAuthTestClient) -> None:
    client_id = register(oauth, token_endpoint_auth_method="client_secret_post")
    approve(oauth, client_id, redirect_uri=REDIRECT)
    assert not is_asked(open_page(oauth, client_id, redirect_uri=REDIRECT))


def test_membership_is_checked_although_the_consent_is_remembered(oauth: OAuthTestClient, client_id: str) -> None:
    approve(oauth, client_id)
    again = open_page(oauth, client_id)
    oauth.stand_in.users[:] = [user for user in oauth.stand_in.users if user.login != "octocat"]
    oauth.stand_in.users.append(type(oauth.stand_in.users[0])("octocat", 424242))
    response = oauth.follow(oauth.log_in(again))
    assert "code" not in (response.location or "")
    assert is_asked(response), "who took over the login is someone else"


def test_a_consent_and_a_session_are_not_kept_for_ever(
    oauth: OAuthTestClient, client_id: str, redis_server: RedisServer
) -> None:
    with time_machine.travel(0, tick=True) as clock:
        approve(oauth, client_id)
        clock.shift(REMEMBERED_SECONDS - 60)
        assert not is_asked(open_page(oauth, client_id))
        clock.shift(61)
        assert is_asked(open_page(oauth, client_id))
    with redis_server.client() as redis:
        lifetimes = [redis.ttl(key) for key in redis.scan_iter("*") if key.startswith(("session", "approvals"))]
    assert len(lifetimes) == 3
    assert all(0 < lifetime <= REMEMBERED_SECONDS for lifetime in lifetimes)


def test_ending_access_forgets_the_consent(oauth: OAuthTestClient, client_id: str) -> None:
    approve(oauth, client_id)
    assert oauth.revocation.revoke_access("github:583231", by="operator", client_id=client_id, resource_url=RESOURCE)
    assert is_asked(open_page(oauth, client_id))


def test_ending_access_while_the_user_logs_in_by_a_remembered_consent_asks_again(
    oauth: OAuthTestClient, client_id: str
) -> None:
    approve(oauth, client_id)
    callback = oauth.log_in(open_page(oauth, client_id))
    oauth.revocation.revoke_access("github:583231", by="operator")
    assert is_asked(oauth.follow(callback))


@pytest.mark.parametrize("state", ["x", "\u00e9"])
def test_the_longest_request_that_is_read_can_be_approved(oauth: OAuthTestClient, state: str) -> None:
    start = "https://app.example.org/"
    longest = start + secrets.token_urlsafe(redirect_uris.MAX_LENGTH)[: redirect_uris.MAX_LENGTH - len(start)]
    client_id = oauth.register(redirect_uris=[longest])["client_id"]
    room = (MAX_URL_BYTES - 1024) // len(urlencode({"": state}))
    noise = secrets.token_urlsafe(MAX_VALUE_LENGTH) if state == "x" else state * MAX_VALUE_LENGTH
    sent = noise[: min(MAX_VALUE_LENGTH, room)]
    answer = parameters_of(oauth.decide(oauth.authorize(client_id, redirect_uri=None, state=sent), "deny"))
    assert (answer["error"], answer["state"]) == ("access_denied", sent)


def test_what_means_nothing_in_a_request_is_not_kept(oauth: OAuthTestClient, redis_server: RedisServer) -> None:
    page = oauth.browser.get(
        "/authorize",
        query_string={**authorization_query(oauth.register()["client_id"]), "unknown": "noise" * 100},
        base_url=ISSUER,
    )
    oauth.decide(page)
    with redis_server.client() as redis:
        (login,) = [str(redis.get(key)) for key in redis.scan_iter("login:*")]
    assert "noise" not in login


def test_declining_is_not_remembered_as_consent(oauth: OAuthTestClient, client_id: str) -> None:
    approve(oauth, client_id, scope="mcp set")
    page = open_page(oauth, client_id)
    assert parameters_of(oauth.decide(page, "deny"))["error"] == "access_denied"
    assert is_asked(open_page(oauth, client_id))


# Scopes


def granted_scope(oauth: OAuthTestClient, client_id: str, code: str) -> str:
    return str(oauth.redeem(client_id, code, redirect_uri=HTTPS_REDIRECT).get_json()["scope"])


def test_optional_scopes_are_the_users_choice_and_required_ones_are_not(oauth: OAuthTestClient, client_id: str) -> None:
    page = open_page(oauth, client_id, scope="mcp set stop")
    form = Form(page.text)
    assert {name for name in form.fields if name.startswith("scope:")} == {"scope:set", "scope:stop"}
    fields = {name: value for name, value in form.fields.items() if name != "scope:stop"}
    approved = oauth.browser.post("/consent", data=fields | {"decision": "approve"}, base_url=ISSUER)
    code = parameters_of(oauth.follow(oauth.log_in(approved)))["code"]
    assert granted_scope(oauth, client_id, code) == "mcp set"
    assert is_asked(open_page(oauth, client_id, scope="mcp set stop")), "the choice is offered again"


def test_a_form_can_not_add_scopes_that_were_not_asked_for(oauth: OAuthTestClient, client_id: str) -> None:
    page = open_page(oauth, client_id, scope="mcp")
    forged = Form(page.text).fields | {"scope:set": "on", "scope:root": "on", "decision": "approve"}
    approved = oauth.browser.post("/consent", data=forged, base_url=ISSUER)
    code = parameters_of(oauth.follow(oauth.log_in(approved)))["code"]
    assert granted_scope(oauth, client_id, code) == "mcp"


def test_ticking_nothing_asks_again(oauth: OAuthTestClient, client_id: str) -> None:
    page = open_page(oauth, client_id, scope="set")
    form = {"ticket": Form(page.text).fields["ticket"], "decision": "approve"}
    response = oauth.browser.post("/consent", data=form, base_url=ISSUER)
    assert response.status_code == 400
    assert Form(response.text).action == f"{ISSUER}/consent"


def test_a_step_up_shows_which_scopes_are_new(oauth: OAuthTestClient, client_id: str) -> None:
    approve(oauth, client_id)
    page = open_page(oauth, client_id, scope="mcp set")
    assert page.text.count('class="badge"') == 1
    assert "Set the clock <strong" in page.text
    oauth.browser = oauth.new_browser()
    assert "badge" not in open_page(oauth, client_id, scope="mcp set").text


def test_remembered_and_withdrawn_consent_is_written_down(
    oauth: OAuthTestClient, client_id: str, audit_log: AuditLog
) -> None:
    approve(oauth, client_id)
    open_page(oauth, client_id)
    oauth.revocation.revoke_access("github:583231", by="operator", client_id=client_id, resource_url=RESOURCE)
    asked = {"client": client_id, "resource": RESOURCE}
    (remembered,) = audit_log.of(Event.CONSENT_REMEMBERED)
    assert remembered.items() >= {**asked, "user": "github:583231", "scope": "mcp"}.items()
    (withdrawn,) = audit_log.of(Event.CONSENT_WITHDRAWN)
    assert withdrawn.items() >= {**asked, "user": "github:583231", "by": "operator"}.items()


def test_the_remembered_consents_of_a_user_are_limited(oauth: OAuthTestClient, redis_server: RedisServer) -> None:
    client = oauth.store.clients.find(register(oauth))
    assert client is not None
    consents = [
        Consent(client=client, redirect_uri=f"https://{number}.example/", resource_url="x", server="x", scopes={})
        for number in range(MAX_CONSENTS + 20)
    ]
    for number, consent in enumerate(consents):
        with time_machine.travel(1_800_000_000 + number):
            oauth.store.consents.remember("github:1", consent)
    sessions = oauth.store.sessions
    secrets = [
        sessions.start(sub="github:1", name="x", sealed_profile=None, lifetime=60) for _ in range(MAX_SESSIONS + 5)
    ]
    with redis_server.client() as redis:
        assert redis.hlen("approvals-of-user:github:1") == MAX_CONSENTS
        assert redis.zcard("sessions-of-user:github:1") == MAX_SESSIONS
    assert sum(sessions.find(secret) is not None for secret in secrets) == MAX_SESSIONS
    with time_machine.travel(1_800_000_000 + MAX_CONSENTS):
        remembered = [oauth.store.consents.is_remembered("github:1", each) for each in consents]
    assert remembered == [False] * 20 + [True] * MAX_CONSENTS
    sessions.end_all("github:1")
    assert not any(sessions.find(secret) for secret in secrets)


def test_an_identity_provider_that_was_never_reached_costs_a_page_with_another_try(
    oauth: OAuthTestClient, client_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: str) -> str:
        raise ServiceUnavailable("GitHub")

    provider = oauth.app.extensions["gateway"].provider
    with monkeypatch.context() as patch:
        patch.setattr(provider, "authorization_url", fail)
        page = open_page(oauth, client_id, scope="mcp set")
        assert is_asked(page), "the user may decide meanwhile"
        down = oauth.decide(page)
        assert down.status_code == 503
        assert "GitHub does not answer" in down.text
        account = oauth.browser.get("/account", base_url=ISSUER)
        response = oauth.browser.post("/account", data=Form(account.text).fields, base_url=ISSUER)
        assert (response.status_code, "GitHub does not answer" in response.text) == (503, True)
    again = oauth.browser.post("/consent", data=Form(down.text).fields | {"decision": "approve"}, base_url=ISSUER)
    code = parameters_of(oauth.follow(oauth.log_in(again)))["code"]
    assert granted_scope(oauth, client_id, code) == "mcp set"


def test_trying_again_keeps_a_remembered_consent_to_its_user(oauth: OAuthTestClient, client_id: str) -> None:
    approve(oauth, client_id)
    callback = oauth.log_in(open_page(oauth, client_id))
    oauth.stand_in.faults["/user"] = github.Fault(503)
    down = oauth.follow(callback)
    oauth.stand_in.faults.clear()
    retry = Form(down.text).fields | {"decision": "approve"}
    assert is_asked(oauth.follow(oauth.log_in(oauth.browser.post("/consent", data=retry, base_url=ISSUER), "hubot")))


def test_another_account_after_a_remembered_consent_is_asked(oauth: OAuthTestClient, client_id: str) -> None:
    approve(oauth, client_id)
    callback = oauth.log_in(open_page(oauth, client_id))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oauth.app.extensions["gateway"].user_access, "may_use", lambda *_: False)
        refused = oauth.follow(callback)
    assert refused.status_code == 403
    other = Form(refused.text).fields | {"decision": "approve"}
    assert other["account"] == "other"
    assert is_asked(oauth.browser.post("/consent", data=other, base_url=ISSUER))


def test_no_other_clients_answer_can_come_back_as_a_request_of_this_gateways_own(
    oauth: OAuthTestClient, client_id: str
) -> None:
    """A browser calls a redirect from this gateway to itself `same-origin`, even if an attacker chose its target."""
    approve(oauth, client_id)
    query = urlencode(authorization_query(client_id, redirect_uri=HTTPS_REDIRECT))
    for origin in (ISSUER, f"{ISSUER}:443"):
        back = f"{origin}/authorize?{query}"
        hostile = oauth.register(redirect_uris=[back])["client_id"]
        page = open_page(oauth, hostile, redirect_uri=back, state=None)
        assert page.status_code == 400
        assert "at this gateway itself" in page.text
    elsewhere = f"{ISSUER}:8443/authorize"
    other = oauth.register(redirect_uris=[elsewhere])["client_id"]
    assert is_asked(open_page(oauth, other, redirect_uri=elsewhere))
