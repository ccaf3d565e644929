"""The account page: what users see of what they granted, how they end it, and that nobody else can."""

from __future__ import annotations

import re
from html import unescape

import pytest
from werkzeug.test import TestResponse

from auth_service.ops.audit import Event
from auth_service.settings import Settings
from local import github
from tests.browser import Form

from .conftest import GITHUB, ISSUER, RESOURCE, AuditLog, World

FETCH = "https://fetch.example.com/mcp"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Two users."""
    return Settings.model_validate({**settings.model_dump(), "allowed": {"users": ["octocat", "hubot"]}})


def open_account(world: World) -> TestResponse:
    return world.browser.get("/account", base_url=ISSUER)


def submit(world: World, page: TestResponse, **changes: str) -> TestResponse:
    """Submit the page's first form, as it stands but for the changes."""
    return world.browser.post("/account", data=Form(page.text).fields | changes, base_url=ISSUER)


def sign_in(world: World, login: str = "octocat") -> TestResponse:
    """Sign in from the account page and return the page then."""
    response = world.follow(world.log_in(submit(world, open_account(world)), login))
    assert (response.status_code, response.location) == (303, f"{ISSUER}/account")
    return open_account(world)


def grant(world: World, *, name: str = "Inspector", resource: str = RESOURCE, login: str = "octocat") -> dict[str, str]:
    """Log in with a client in a browser of its own; return its token response and id."""
    browser, world.browser = world.browser, world.new_browser()
    client_id = world.register(client_name=name)["client_id"]
    tokens = world.redeem(client_id, world.obtain_code(client_id, resource=resource, login=login)).get_json()
    world.browser = browser
    return {**tokens, "client_id": client_id}


def is_alive(world: World, tokens: dict[str, str]) -> bool:
    response = world.token(
        grant_type="refresh_token", client_id=tokens["client_id"], refresh_token=tokens["refresh_token"]
    )
    tokens.update(response.get_json())
    return response.status_code == 200


def test_a_stranger_sees_how_to_sign_in_and_nothing_else(world: World) -> None:
    grant(world)
    page = open_account(world)
    assert "Sign in with GitHub" in page.text
    assert "Inspector" not in page.text


def test_users_see_their_own_grants_and_no_others(world: World) -> None:
    grant(world, name="Mine")
    grant(world, name="Mine too", resource=FETCH)
    grant(world, name="Theirs", login="hubot")
    page = sign_in(world)
    assert {"Mine", "Mine too"} <= set(re.findall(r'<bdi class="name">([^<]+)</bdi>', page.text))
    assert RESOURCE in page.text
    assert FETCH in page.text
    assert "Theirs" not in page.text


def test_logging_in_twice_with_one_client_is_one_access(world: World) -> None:
    client_id = world.register(client_name="Twice")["client_id"]
    for _ in range(2):
        world.redeem(client_id, world.obtain_code(client_id))
    assert open_account(world).text.count("<li>") == 1


def test_a_login_for_a_client_is_a_sign_in_to_the_account_page(world: World) -> None:
    world.obtain_code(world.register()["client_id"])
    assert "Sign out" in open_account(world).text


def test_ending_one_access_ends_its_tokens_and_no_others(world: World) -> None:
    ended, kept = grant(world, name="Ended"), grant(world, name="Kept", resource=FETCH)
    page = sign_in(world)
    response = submit(world, page, action="end", client_id=ended["client_id"], resource=RESOURCE)
    assert response.location == f"{ISSUER}/account?notice=ended"
    assert not is_alive(world, ended)
    assert is_alive(world, kept)
    assert "Ended" not in open_account(world).text


def test_ending_all_access_ends_the_users_and_nobody_elses(world: World) -> None:
    mine = [grant(world), grant(world, resource=FETCH)]
    theirs = grant(world, login="hubot")
    submit(world, sign_in(world), action="end-all")
    assert not any(is_alive(world, each) for each in mine)
    assert is_alive(world, theirs)


def test_users_can_not_end_the_access_of_others(world: World) -> None:
    theirs = grant(world, login="hubot")
    submit(world, sign_in(world), action="end", client_id=theirs["client_id"], resource=RESOURCE)
    assert is_alive(world, theirs)


@pytest.mark.parametrize("form", [{}, {"action": "end"}, {"action": "end", "client_id": "x"}, {"action": "nonsense"}])
def test_an_incomplete_form_changes_nothing(world: World, form: dict[str, str]) -> None:
    mine = grant(world)
    page = sign_in(world)
    response = world.browser.post("/account", data={"ticket": Form(page.text).fields["ticket"]} | form, base_url=ISSUER)
    assert response.status_code == 400
    assert is_alive(world, mine)


def test_signing_out_ends_the_session_on_the_server_too(world: World) -> None:
    page = sign_in(world)
    cookie = world.browser.get_cookie("__Host-mcp-gateway-session", domain="auth.example.com")
    assert cookie is not None
    submit(world, page, action="sign-out")
    world.browser.set_cookie("__Host-mcp-gateway-session", cookie.value, domain="auth.example.com", secure=True)
    assert "Sign in with GitHub" in open_account(world).text


def test_a_session_cookie_is_hidden_from_scripts_and_other_hosts_and_new_at_each_sign_in(world: World) -> None:
    values = set()
    for _ in range(2):
        response = world.follow(world.log_in(submit_sign_in(world)))
        cookie = next(each for each in response.headers.getlist("Set-Cookie") if "gateway-session" in each)
        assert cookie.startswith("__Host-")
        assert {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"} <= set(cookie.split("; "))
        assert "Domain" not in cookie
        values.add(cookie.split(";")[0])
    assert len(values) == 2


def submit_sign_in(world: World) -> TestResponse:
    """Start a sign-in as a browser without a session."""
    world.browser.delete_cookie("__Host-mcp-gateway-session", domain="auth.example.com")
    return submit(world, open_account(world))


def test_a_session_that_an_attacker_planted_is_not_adopted(world: World) -> None:
    planted = "p" * 43
    world.browser.set_cookie("__Host-mcp-gateway-session", planted, domain="auth.example.com", secure=True)
    sign_in(world)
    cookie = world.browser.get_cookie("__Host-mcp-gateway-session", domain="auth.example.com")
    assert cookie is not None
    assert cookie.value != planted
    assert world.store.sessions.find(planted) is None


def test_a_session_ends_with_the_user(world: World) -> None:
    sign_in(world)
    world.store.sessions.end_all("github:583231")
    assert "Sign in with GitHub" in open_account(world).text


# Attacks


def test_a_form_of_another_site_changes_nothing(world: World) -> None:
    mine = grant(world)
    page = sign_in(world)
    form = Form(page.text).fields | {"action": "end-all"}
    for site in ("cross-site", "same-site"):
        response = world.browser.post("/account", data=form, headers={"Sec-Fetch-Site": site}, base_url=ISSUER)
        assert response.status_code == 400
    assert is_alive(world, mine)


def test_a_ticket_of_another_browser_user_or_purpose_changes_nothing(world: World) -> None:
    mine = grant(world)
    consent = world.authorize(mine["client_id"])
    sign_in(world)
    tickets = ["", "x", Form(consent.text).fields["ticket"]]
    victim, world.browser = world.browser, world.new_browser()
    tickets.append(Form(sign_in(world, "hubot").text).fields["ticket"])
    world.browser = world.new_browser()
    tickets.append(Form(sign_in(world, "octocat").text).fields["ticket"])
    world.browser = victim
    for ticket in tickets:
        response = world.browser.post("/account", data={"ticket": ticket, "action": "end-all"}, base_url=ISSUER)
        assert response.status_code == 400
    assert is_alive(world, mine)


def test_a_ticket_of_the_session_before_changes_nothing(world: World) -> None:
    theirs = grant(world, login="hubot")
    page = sign_in(world, "octocat")
    submit(world, page, action="sign-out")
    sign_in(world, "hubot")
    assert submit(world, page, action="end-all").status_code == 400
    assert is_alive(world, theirs)


def test_a_foreign_callback_signs_nobody_in(world: World) -> None:
    """Login CSRF: the attacker's own login, finished in the victim's browser."""
    callback = world.log_in(submit(world, open_account(world)), "hubot")
    world.browser = world.new_browser()
    open_account(world)
    response = world.follow(callback)
    assert response.status_code == 400
    assert not any("gateway-session" in each for each in response.headers.getlist("Set-Cookie"))
    assert "Sign in with GitHub" in open_account(world).text


def test_a_callback_works_once(world: World) -> None:
    callback = world.log_in(submit(world, open_account(world)))
    assert world.follow(callback).status_code == 303
    assert world.follow(callback).status_code == 400


def test_signing_in_can_not_be_started_by_another_site(world: World) -> None:
    form = Form(open_account(world).text).fields
    response = world.browser.post("/account", data=form, headers={"Sec-Fetch-Site": "cross-site"}, base_url=ISSUER)
    assert response.status_code == 400
    assert response.location is None


def test_a_sign_in_that_github_or_the_user_refuses_ends_on_a_page(world: World) -> None:
    cancelled = world.follow(world.log_in(submit(world, open_account(world)), ""))
    assert cancelled.status_code == 400
    assert "You did not sign in" in cancelled.text
    callback = world.log_in(submit(world, open_account(world)))
    world.stand_in.faults["/login/oauth/access_token"] = github.Fault(500)
    down = world.follow(callback)
    assert down.status_code == 503
    assert "GitHub does not answer" in down.text


def test_another_account_can_be_chosen_after_signing_out(world: World) -> None:
    signed_out = world.follow(submit(world, sign_in(world), action="sign-out").location)
    response = submit(world, signed_out, account="other")
    assert response.location.startswith(GITHUB)
    assert "prompt=select_account" in unescape(response.location)


def test_signing_in_and_out_and_ending_access_is_written_down(world: World, audit_log: AuditLog) -> None:
    ended = grant(world)
    page = sign_in(world)
    submit(world, page, action="end", client_id=ended["client_id"], resource=RESOURCE)
    submit(world, open_account(world), action="sign-out")
    who = {"user": "github:583231", "name": "octocat"}
    for event in (Event.SESSION_STARTED, Event.SESSION_ENDED):
        (entry,) = audit_log.of(event)
        assert entry.items() >= who.items()
    (revoked,) = audit_log.of(Event.GRANT_REVOKED)
    assert revoked.items() >= {**who, "client": ended["client_id"], "by": "user"}.items()
