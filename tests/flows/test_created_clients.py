"""Clients that the operator creates by command, without new settings."""

from __future__ import annotations

import time
from typing import Any

import pytest
from werkzeug.test import TestResponse

from auth_service.oauth import machine_tokens
from auth_service.ops.audit import Event
from auth_service.protocol.clients import hash_secret
from auth_service.settings import DeclaredClient, Settings
from auth_service.storage.created_clients import CreatedClient

from .conftest import FETCH, ISSUER, REDIRECT, RESOURCE, AuditLog, OAuthTestClient, claims_of

SECRET = "created-secret".ljust(43, "x")


def create(oauth: OAuthTestClient, name: str = "nightly", *, of_secret: str = SECRET, **declared: Any) -> bool:
    usual = {"secret": True, "servers": ["time"], "lifetime": 600}
    return oauth.store.created_clients.add(
        CreatedClient(
            name=name,
            declared=DeclaredClient.model_validate(declared or usual),
            secret_hash=hash_secret(of_secret),
            created_at=int(time.time()),
            server_urls={"time": RESOURCE, "fetch": FETCH},
        )
    )


def ask(oauth: OAuthTestClient, client_id: str = "nightly", *, secret: str = SECRET, **form: str) -> TestResponse:
    return oauth.token_with_basic(client_id, secret, grant_type="client_credentials", **form)


def test_a_created_machine_gets_tokens_at_once(oauth: OAuthTestClient) -> None:
    assert ask(oauth).status_code == 401
    assert create(oauth)
    response = ask(oauth)
    assert (claims_of(response)["sub"], claims_of(response)["aud"]) == ("client:nightly", RESOURCE)
    assert response.get_json()["expires_in"] == 600
    assert "refresh_token" not in response.get_json()


def test_its_secret_is_required_and_not_stored(oauth: OAuthTestClient) -> None:
    create(oauth)
    for wrong in ("x" * 40, hash_secret(SECRET), ""):
        assert ask(oauth, secret=wrong).status_code == 401
    assert oauth.token(grant_type="client_credentials", client_id="nightly").status_code == 401
    assert SECRET not in str(oauth.store.redis.hgetall("created-clients"))


def test_a_name_is_created_once(oauth: OAuthTestClient) -> None:
    assert create(oauth)
    assert not create(oauth, of_secret="another-secret".ljust(43, "x"))
    assert ask(oauth).status_code == 200


def test_a_removed_client_is_unknown_and_its_tokens_end(oauth: OAuthTestClient, audit_log: AuditLog) -> None:
    create(oauth)
    sid = claims_of(ask(oauth))["sid"]
    oauth.revocation.remove_client("nightly", by="operator")
    assert oauth.store.grants.find(sid) is None
    assert ask(oauth).status_code == 401
    (deleted,) = audit_log.of(Event.CLIENT_DELETED)
    assert deleted == {"client": "nightly", "by": "operator"}


def test_a_client_that_is_deleted_during_its_request_keeps_no_token(
    oauth: OAuthTestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(oauth)
    choose_target = machine_tokens.choose_target

    def delete_first(*arguments: Any) -> machine_tokens.Target:
        oauth.revocation.remove_client("nightly", by="operator")
        return choose_target(*arguments)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(machine_tokens, "choose_target", delete_first)
        answer = ask(oauth)
    assert (answer.status_code, answer.get_json()["error"]) == (401, "invalid_client")
    assert list(oauth.store.grants.find_of_user("client:nightly", client_id="nightly")) == []
    assert create(oauth)
    assert ask(oauth).status_code == 200


def test_a_server_that_is_gone_is_no_longer_open_to_it(oauth: OAuthTestClient) -> None:
    create(oauth, secret=True, servers=["time", "fetch"])
    assert ask(oauth).get_json()["error"] == "invalid_target"
    oauth.reload(resources={"fetch": None})
    assert claims_of(ask(oauth))["aud"] == RESOURCE
    assert ask(oauth, resource="https://fetch.example.com/mcp").get_json()["error"] == "invalid_target"
    assert ask(oauth, scope="admin").get_json()["error"] == "invalid_scope"


def test_another_server_of_the_same_name_is_not_open_to_it(oauth: OAuthTestClient) -> None:
    create(oauth, "fetcher", secret=True, servers=["fetch"])
    create(oauth, secret=True, servers=["time", "fetch"])
    assert claims_of(ask(oauth, "fetcher"))["aud"] == FETCH
    other = "https://payroll.example.com/mcp"
    oauth.reload(resources={"fetch": {"url": other}})
    assert ask(oauth, "fetcher").get_json()["error"] == "unauthorized_client"
    assert ask(oauth, resource=other).get_json()["error"] == "invalid_target"
    assert claims_of(ask(oauth))["aud"] == RESOURCE
    oauth.reload(resources={"fetch": {"url": FETCH}})
    assert claims_of(ask(oauth, "fetcher"))["aud"] == FETCH


def test_the_settings_decide_about_a_name_that_both_have(settings: Settings, oauth: OAuthTestClient) -> None:
    create(oauth)
    document = settings.model_dump(exclude_unset=True)
    declared = {"redirect_uris": [REDIRECT]}
    oauth.settings = Settings.model_validate({**document, "declared_clients": {"nightly": declared}})
    oauth.__post_init__()
    assert ask(oauth).status_code == 401


def test_a_created_program_logs_users_in_and_is_no_machine(oauth: OAuthTestClient) -> None:
    create(oauth, "portal", secret=True, redirect_uris=[REDIRECT], title="Portal")
    assert "Portal" in oauth.authorize("portal").text
    code = oauth.obtain_code("portal")
    assert oauth.redeem("portal", code).status_code == 401
    assert claims_of(oauth.redeem("portal", code, client_secret=SECRET))["sub"] == "github:583231"
    assert ask(oauth, "portal").get_json()["error"] == "unauthorized_client"


def test_a_created_client_can_not_be_managed_as_a_registration(oauth: OAuthTestClient) -> None:
    create(oauth)
    for token in (SECRET, "None", ""):
        response = oauth.browser.get("/register/nightly", headers={"Authorization": f"Bearer {token}"}, base_url=ISSUER)
        assert response.status_code == 401


def test_metadata_offers_client_credentials_while_a_machine_is_there(oauth: OAuthTestClient) -> None:
    def offered() -> list[str]:
        document = oauth.browser.get("/.well-known/oauth-authorization-server", base_url=ISSUER).get_json()
        return list(document["grant_types_supported"])

    create(oauth, "portal", secret=True, redirect_uris=[REDIRECT])
    assert "client_credentials" not in offered()
    create(oauth)
    assert "client_credentials" in offered()
    oauth.revocation.remove_client("nightly", by="operator")
    assert "client_credentials" not in offered()


def test_a_server_that_needs_credentials_of_its_users_is_not_open_to_it(oauth: OAuthTestClient) -> None:
    """Else it would ask for a token again and again, as no process starts without them."""
    create(oauth, secret=True, servers=["time", "fetch"])
    oauth.reload(resources={"fetch": {"user_credentials": {"TOKEN": {"label": "Token"}}}})
    refused = ask(oauth, resource="https://fetch.example.com/mcp")
    assert (refused.status_code, refused.get_json()["error"]) == (400, "invalid_target")
    assert "credentials that only a user can provide" in refused.get_json()["error_description"]
    assert list(oauth.store.grants.find_of_user("client:nightly")) == []
    assert claims_of(ask(oauth, resource=RESOURCE))["aud"] == RESOURCE
