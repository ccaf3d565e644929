"""The audit log tells each flow's story: who, which client, which server, and why not."""

from __future__ import annotations

import base64
import time
from dataclasses import replace
from functools import partial

import pytest
import time_machine

from auth_service.ops.audit import Event
from auth_service.settings import Settings
from local import github

from .conftest import ISSUER, RESOURCE, AuditLog, OAuthTestClient

USER = {"user": "github:583231", "name": "octocat"}
ADDRESS = "192.0.2.7"


@pytest.fixture
def oauth(oauth: OAuthTestClient) -> OAuthTestClient:
    """Calls arrive through a router, which names the address that it saw."""
    forwarded = {"HTTP_X_REAL_IP": ADDRESS}
    inner = oauth.app.wsgi_app
    oauth.app.wsgi_app = lambda environ, start: inner({**environ, **forwarded}, start)  # type: ignore[assignment,method-assign]
    return oauth


def test_the_events_of_a_login_from_registration_to_refresh(oauth: OAuthTestClient, audit_log: AuditLog) -> None:
    client_id = oauth.register()["client_id"]
    issued = oauth.redeem(client_id, oauth.obtain_code(client_id)).get_json()
    refreshed = oauth.token(grant_type="refresh_token", client_id=client_id, refresh_token=issued["refresh_token"])
    assert refreshed.status_code == 200
    assert audit_log.names == [
        "client.registered",
        "consent.given",
        "login.accepted",
        "code.issued",
        "code.redeemed",
        "token.issued",
        "token.refreshed",
    ]
    asked = {"client": client_id, "resource": RESOURCE}
    granted = {**asked, **USER, "grant": audit_log.of(Event.CODE_ISSUED)[0]["grant"]}
    redirect = "http://127.0.0.1/callback"
    assert audit_log.of(Event.CLIENT_REGISTERED) == [{"client": client_id, "name": "Inspector", "address": ADDRESS}]
    assert audit_log.of(Event.CONSENT_GIVEN) == [{**asked, "scope": "mcp", "redirect": redirect, "address": ADDRESS}]
    assert audit_log.of(Event.LOGIN_ACCEPTED) == [{**asked, **USER, "address": ADDRESS}]
    assert audit_log.of(Event.CODE_ISSUED) == [{**granted, "scope": "mcp", "redirect": redirect}]
    assert audit_log.of(Event.CODE_REDEEMED) == [granted]
    assert audit_log.of(Event.TOKEN_ISSUED) == audit_log.of(Event.TOKEN_REFRESHED) == [{**granted, "scope": "mcp"}]


def test_what_the_user_declines_and_what_was_not_asked_are_told_apart(
    oauth: OAuthTestClient, audit_log: AuditLog
) -> None:
    client_id = oauth.register()["client_id"]
    oauth.decide(oauth.authorize(client_id), "decline")
    assert audit_log.of(Event.CONSENT_DECLINED) == [{"client": client_id, "resource": RESOURCE, "address": ADDRESS}]
    oauth.browser.post("/consent", data={"ticket": "forged", "decision": "approve"}, base_url=ISSUER)
    assert audit_log.of(Event.CONSENT_REFUSED)[0]["reason"].startswith("This form was not made here")
    oauth.authorize(client_id, scope="admin")
    oauth.authorize("mcp_gone")
    with_bad_scope, of_unknown_client = audit_log.of(Event.AUTHORIZATION_REFUSED)
    assert (with_bad_scope["client"], with_bad_scope["reason"].partition(":")[0]) == (client_id, "invalid_scope")
    assert of_unknown_client["client"] == "mcp_gone"


def test_a_refused_login_says_who_and_why(oauth: OAuthTestClient, audit_log: AuditLog) -> None:
    client_id = oauth.register()["client_id"]
    oauth.follow(oauth.log_in(oauth.decide(oauth.authorize(client_id)), "stranger"))
    (refused,) = audit_log.of(Event.LOGIN_REFUSED)
    assert (refused["name"], refused["client"], refused["resource"]) == ("stranger", client_id, RESOURCE)
    assert "may not use this server" in refused["reason"]
    assert Event.LOGIN_ACCEPTED not in audit_log.names


def test_a_login_that_the_provider_refused_says_what_the_provider_said(
    oauth: OAuthTestClient, audit_log: AuditLog
) -> None:
    callback = oauth.log_in(oauth.decide(oauth.authorize(oauth.register()["client_id"])))
    oauth.stand_in.faults["/user"] = github.Fault(401, "{}")
    oauth.follow(callback)
    (refused,) = audit_log.of(Event.LOGIN_REFUSED)
    assert "the login at GitHub failed: " in refused["reason"]


def test_a_callback_in_another_browser_is_a_refused_login(oauth: OAuthTestClient, audit_log: AuditLog) -> None:
    callback = oauth.log_in(oauth.decide(oauth.authorize(oauth.register()["client_id"])))
    oauth.browser = oauth.new_browser()
    oauth.follow(callback)
    assert "sent no cookie" in audit_log.of(Event.LOGIN_REFUSED)[-1]["reason"]
    oauth.authorize(oauth.register()["client_id"])  # gives it a cookie of its own
    oauth.follow(callback)
    assert "began in another browser" in audit_log.of(Event.LOGIN_REFUSED)[-1]["reason"]


def test_a_replayed_code_and_a_reused_refresh_token_raise_the_alarm_and_end_the_grant(
    oauth: OAuthTestClient, audit_log: AuditLog
) -> None:
    client_id = oauth.register()["client_id"]
    code = oauth.obtain_code(client_id)
    oauth.redeem(client_id, code)
    oauth.redeem(client_id, code)
    (replayed,), (revoked,) = audit_log.of(Event.CODE_REPLAYED), audit_log.of(Event.GRANT_REVOKED)
    assert replayed == {**USER, "client": client_id, "resource": RESOURCE, "grant": replayed["grant"]}
    assert revoked == {**replayed, "by": "gateway", "reason": "its code was replayed"}

    issued = oauth.redeem(client_id, oauth.obtain_code(client_id)).get_json()
    refresh = {"grant_type": "refresh_token", "client_id": client_id, "refresh_token": issued["refresh_token"]}
    oauth.token(**refresh)
    successor = oauth.token(**refresh).get_json()["refresh_token"]
    assert Event.TOKEN_REUSED not in audit_log.names, "a repeat before its successor is used is no reuse"
    oauth.token(**refresh | {"refresh_token": successor})
    with time_machine.travel(time.time() + 61):
        oauth.token(**refresh)
    sid = issued["refresh_token"].partition(".")[0]
    assert audit_log.of(Event.TOKEN_REUSED)[0]["grant"] == sid
    assert audit_log.of(Event.GRANT_REVOKED)[1]["grant"] == sid
    assert {"token.refused"} == {name for name in audit_log.names if name.endswith(".refused")}


def test_a_refused_token_request_names_the_client_as_it_named_itself(
    oauth: OAuthTestClient, audit_log: AuditLog
) -> None:
    oauth.redeem("mcp_gone", "code")
    basic = base64.b64encode(b"mcp_other:secret").decode()
    oauth.app.test_client().post("/token", headers={"Authorization": f"Basic {basic}"}, base_url=ISSUER)
    oauth.app.test_client().post("/revoke", data={"client_id": "mcp_third"}, base_url=ISSUER)
    assert [entry["client"] for entry in audit_log.of(Event.TOKEN_REFUSED)] == ["mcp_gone", "mcp_other"]
    assert audit_log.of(Event.REVOCATION_REFUSED)[0]["client"] == "mcp_third"


def test_the_event_names_who_ended_a_grant(oauth: OAuthTestClient, audit_log: AuditLog) -> None:
    client = oauth.register()
    token = oauth.redeem(client["client_id"], oauth.obtain_code(client["client_id"])).get_json()["access_token"]
    revocation = {"client_id": client["client_id"], "token": token}
    oauth.app.test_client().post("/revoke", data=revocation, base_url=ISSUER)
    (revoked,) = audit_log.of(Event.GRANT_REVOKED)
    assert revoked["by"] == "client"

    oauth.redeem(client["client_id"], oauth.obtain_code(client["client_id"]))
    authorization = {"Authorization": f"Bearer {client['registration_access_token']}"}
    path = f"/register/{client['client_id']}"
    oauth.app.test_client().delete(path, headers=authorization, base_url=ISSUER)
    assert audit_log.of(Event.CLIENT_DELETED) == [{"client": client["client_id"], "by": "client"}]
    assert audit_log.of(Event.GRANT_REVOKED)[1]["reason"] == "the client was deleted"
    oauth.app.test_client().get(path, headers=authorization, base_url=ISSUER)
    assert audit_log.of(Event.REGISTRATION_REFUSED)[0]["client"] == client["client_id"]


def test_the_event_names_who_introspected_a_token(oauth: OAuthTestClient, audit_log: AuditLog) -> None:
    client = oauth.register(token_endpoint_auth_method="client_secret_post")
    secrets = {"client_id": client["client_id"], "client_secret": client["client_secret"]}
    token = oauth.redeem(code=oauth.obtain_code(client["client_id"]), **secrets).get_json()["access_token"]
    ask = partial(oauth.app.test_client().post, "/introspect", base_url=ISSUER)
    ask(data={**secrets, "token": token})
    ask(data={**secrets, "token": "x"})
    asked = {"client": client["client_id"], "by": "client"}
    assert audit_log.of(Event.TOKEN_INTROSPECTED) == [
        {**asked, **USER, "resource": RESOURCE},
        {**asked, "reason": "not active"},
    ]
    ask(data={**secrets, "client_secret": "wrong", "token": token})
    assert audit_log.of(Event.INTROSPECTION_REFUSED)[0]["client"] == client["client_id"]


class TestMembership:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        """Members of one organization may come in."""
        return Settings.model_validate({**settings.model_dump(), "allowed": {"organizations": ["acme"]}})

    def test_a_user_who_lost_access_is_refused_at_the_refresh(
        self, oauth: OAuthTestClient, audit_log: AuditLog
    ) -> None:
        client_id = oauth.register()["client_id"]
        issued = oauth.redeem(client_id, oauth.obtain_code(client_id, login="hubot")).get_json()
        oauth.stand_in.users[:] = [replace(user, organizations=(), teams=()) for user in oauth.stand_in.users]
        oauth.token(grant_type="refresh_token", client_id=client_id, refresh_token=issued["refresh_token"])
        (revoked,) = audit_log.of(Event.GRANT_REVOKED)
        assert (revoked["name"], revoked["by"]) == ("hubot", "gateway")
        assert revoked["reason"] == "the user may no longer use this resource"
