"""Grants and tokens of workloads and declared clients after the operator has changed the settings."""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from collections.abc import MutableMapping
from typing import Any, cast

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from werkzeug.test import TestResponse

from auth_service.app.composition import Parts
from auth_service.app.flask_app import create_app
from auth_service.app.verify.endpoint import Verifier
from auth_service.app.verify.grant_liveness import GrantWatch
from auth_service.oauth.client_authentication import JWT_BEARER
from auth_service.oauth.settings_trust import end_untrusted
from auth_service.ops.audit import Event
from auth_service.protocol import jwk_sets
from auth_service.protocol.clients import JWT_BEARER_GRANT, hash_secret
from auth_service.settings import Credentials, DeclaredClient, Settings
from auth_service.storage.created_clients import CreatedClient
from auth_service.storage.grants import Grant
from auth_service.storage.key_names import GRANT_PREFIX

from .conftest import ISSUER, REDIRECT, RESOURCE, AuditLog, OAuthTestClient, declared_secret, make_parts

CI = "https://ci.example.com"
SUBJECT = "repo:acme/app:ref:refs/heads/main"
KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
OTHER_REDIRECT = "http://127.0.0.1:33418/other"


def jwk(number: int, **members: Any) -> dict[str, Any]:
    return {**ECAlgorithm.to_jwk(KEYS[number].public_key(), as_dict=True), "kid": str(number), **members}


JWKS = {"keys": [jwk(0)]}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A job of a repository, machines with a key and with a secret, and programs that log users in."""
    document = settings.model_dump(exclude_unset=True)
    for server in ("time", "fetch"):
        document["resources"][server]["scopes"] = {
            "read": {"description": "Read", "required": True},
            "write": {"description": "Write", "required": False},
        }
    document["trusted_issuers"] = {
        "ci": {
            "issuer": CI,
            "audience": "mcp",
            "subjects": ["repo:acme/*:ref:refs/heads/main"],
            "claims": {"owner": "42"},
            "jwks": JWKS,
            "servers": ["time", "fetch"],
            "scopes": ["write"],
        }
    }
    document["declared_clients"] = {
        "keyed": {"jwks": JWKS, "servers": ["time", "fetch"], "scopes": ["write"]},
        "nightly": {"secret": True, "servers": ["time"]},
        "editor": {"redirect_uris": [REDIRECT, OTHER_REDIRECT]},
        "portal": {"secret": True, "redirect_uris": [REDIRECT]},
    }
    return Settings.model_validate(document)


def parts_of(oauth: OAuthTestClient) -> Parts:
    return cast(Parts, oauth.app.extensions["gateway"])


def verify(oauth: OAuthTestClient, token: str) -> int:
    """Return the status with which a worker that has loaded the present settings answers the router."""
    parts = parts_of(oauth)
    watch = GrantWatch(oauth.settings.redis_url, parts.denials)
    verifier = Verifier(oauth.settings, parts.credentials, parts.signing_keys, watch)
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        raise AssertionError("the body is never read")

    async def ask() -> None:
        forwarded = [(b"x-forwarded-method", b"POST"), (b"x-forwarded-uri", b"/mcp")]
        headers = [(b"authorization", f"Bearer {token}".encode()), *forwarded]
        try:
            await verifier({"path": "/verify/time", "headers": headers}, receive, send)
        finally:
            await watch.close()

    asyncio.run(ask())
    return int(sent[0]["status"])


def job(*, key: int = 0, **claims: Any) -> str:
    now = int(time.time())
    usual = {"iss": CI, "aud": "mcp", "sub": SUBJECT, "exp": now + 300, "iat": now, "jti": str(uuid.uuid4())}
    return jwt.encode({**usual, "owner": "42", **claims}, KEYS[key], "ES256", headers={"kid": str(key)})


def ask_as_job(oauth: OAuthTestClient, assertion: str | None = None, **form: str) -> TestResponse:
    return oauth.token(
        grant_type=JWT_BEARER_GRANT,
        assertion=job() if assertion is None else assertion,
        **{"resource": RESOURCE} | form,
    )


def ask_with_key(oauth: OAuthTestClient, *, key: int = 0, **form: str) -> TestResponse:
    now = int(time.time())
    claims = {"iss": "keyed", "sub": "keyed", "aud": ISSUER, "exp": now + 60, "iat": now, "jti": str(uuid.uuid4())}
    assertion = jwt.encode(claims, KEYS[key], "ES256", headers={"kid": str(key)})
    return oauth.token(
        grant_type="client_credentials",
        client_assertion_type=JWT_BEARER,
        client_assertion=assertion,
        **{"resource": RESOURCE} | form,
    )


def ask_with_secret(oauth: OAuthTestClient, client_id: str = "nightly", secret: str | None = None) -> TestResponse:
    credentials = base64.b64encode(f"{client_id}:{secret or declared_secret(client_id)}".encode()).decode()
    return oauth.browser.post(
        "/token",
        data={"grant_type": "client_credentials"},
        headers={"Authorization": f"Basic {credentials}"},
        base_url=ISSUER,
    )


def token_of(response: TestResponse) -> str:
    assert response.status_code == 200, response.text
    return str(response.get_json()["access_token"])


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def load_secrets(oauth: OAuthTestClient, **secrets: str) -> None:
    """Go on with other secrets of declared clients, as after SIGHUP."""
    usual = {name: declared_secret(name) for name in ("nightly", "portal")}
    credentials = Credentials(client_secret="upstream-secret", master_key=b"m" * 32, declared_clients=usual | secrets)
    oauth.make_app = lambda settings: create_app(make_parts(settings, credentials, oauth.store))
    oauth.reload()


def sid_of(token: str) -> str:
    return str(claims_of(token)["sid"])


def end(oauth: OAuthTestClient) -> None:
    """Do what a worker does after it has loaded the settings."""
    end_untrusted(parts_of(oauth).trust, oauth.store, oauth.revocation)


def introspect(oauth: OAuthTestClient, token: str) -> bool:
    server = base64.b64encode(b"time:" + parts_of(oauth).credentials.derive_key("introspection-key:time")).decode()
    response = oauth.browser.post(
        "/introspect", data={"token": token}, headers={"Authorization": f"Basic {server}"}, base_url=ISSUER
    )
    return bool(response.get_json()["active"])


def assert_ended(oauth: OAuthTestClient, token: str) -> None:
    """Assert that a token is refused before its grant has ended, and that its grant ends, once."""
    assert oauth.store.grants.find(sid_of(token)) is not None
    assert verify(oauth, token) == 401
    assert not introspect(oauth, token)
    end(oauth)
    assert oauth.store.grants.find(sid_of(token)) is None


def assert_live(oauth: OAuthTestClient, token: str) -> None:
    """Assert that a token passes, also after grants have ended that are allowed no more."""
    end(oauth)
    assert verify(oauth, token) == 200
    assert introspect(oauth, token)


# Workloads


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "https://other.example.com"},
        {"audience": "other"},
        {"subjects": ["repo:acme/other:ref:refs/heads/main"]},
        {"subjects": ["repo:acme-evil/*:ref:refs/heads/main"]},
        {"claims": {"owner": "43"}},
        {"claims": {"owner": 42}},
        {"claims": {"environment": "production"}},
        {"servers": ["fetch"]},
        {"scopes": []},
        {"jwks": {"keys": [jwk(1)]}},
        {"jwks": {"keys": [jwk(1, kid="0")]}},
    ],
)
def test_a_grant_of_a_workload_that_the_settings_allow_no_more_ends_at_once(
    oauth: OAuthTestClient, audit_log: AuditLog, change: dict[str, Any]
) -> None:
    token = token_of(ask_as_job(oauth))
    assert_live(oauth, token)
    oauth.reload(trusted_issuers={"ci": change})
    assert_ended(oauth, token)
    (revoked,) = audit_log.of(Event.GRANT_REVOKED)
    assert (revoked["grant"], revoked["by"]) == (sid_of(token), "gateway")
    end(oauth)
    assert len(audit_log.of(Event.GRANT_REVOKED)) == 1


@pytest.mark.parametrize("change", [{"ci": None}, {"ci": None, "other": {"audience": "mcp"}}])
def test_grants_of_workloads_end_with_their_entry_or_its_name(oauth: OAuthTestClient, change: dict[str, Any]) -> None:
    token = token_of(ask_as_job(oauth))
    entry = oauth.settings.model_dump(exclude_unset=True, mode="json")["trusted_issuers"]["ci"]
    oauth.reload(trusted_issuers={name: None if each is None else entry | each for name, each in change.items()})
    assert_ended(oauth, token)


@pytest.mark.parametrize(
    "change",
    [
        {"subjects": ["repo:acme/*:ref:refs/heads/main", "repo:acme/*:environment:production"]},
        {"claims": None},
        {"servers": ["time"]},
        {"jwks": {"keys": [jwk(0, kid="renamed"), jwk(1)]}},
        {"jwks": None},
        {"lifetime": 60},
    ],
)
def test_a_grant_of_a_workload_that_the_settings_still_allow_goes_on(
    oauth: OAuthTestClient, change: dict[str, Any]
) -> None:
    token = token_of(ask_as_job(oauth))
    oauth.reload(trusted_issuers={"ci": change})
    assert_live(oauth, token)


def test_a_claim_that_is_demanded_no_more_does_not_stand_for_another(oauth: OAuthTestClient) -> None:
    oauth.reload(trusted_issuers={"ci": {"claims": {"owner": "42", "environment": "production"}}})
    token = token_of(ask_as_job(oauth, job(environment="production")))
    for demanded, status in [({"environment": "production"}, 200), ({"production": "environment"}, 401)]:
        oauth.reload(trusted_issuers={"ci": {"claims": {"owner": None, "environment": None, **demanded}}})
        assert verify(oauth, token) == status


def test_one_entry_of_the_settings_does_not_vouch_for_the_workloads_of_another(oauth: OAuthTestClient) -> None:
    entry = oauth.settings.model_dump(exclude_unset=True, mode="json")["trusted_issuers"]["ci"]
    oauth.reload(trusted_issuers={"other": entry | {"audience": "other"}})
    token, kept = token_of(ask_as_job(oauth)), token_of(ask_as_job(oauth, job(aud="other")))
    oauth.reload(trusted_issuers={"ci": {"servers": ["fetch"]}})
    assert_ended(oauth, token)
    assert_live(oauth, kept)


def test_a_token_by_the_new_rule_is_of_another_grant_than_those_by_the_former(oauth: OAuthTestClient) -> None:
    former = token_of(ask_as_job(oauth))
    oauth.reload(trusted_issuers={"ci": {"claims": {"environment": "production"}}})
    newer = token_of(ask_as_job(oauth, job(environment="production")))
    assert sid_of(newer) != sid_of(former)
    assert_ended(oauth, former)
    assert_live(oauth, newer)


def test_a_worker_that_has_still_the_former_settings_agrees_as_soon_as_it_has_the_new_ones(
    oauth: OAuthTestClient,
) -> None:
    """A worker that ends issues a token after the others have looked for grants to end."""
    former = oauth.app
    oauth.reload(trusted_issuers={"ci": {"claims": {"owner": "43"}}})
    end(oauth)
    form = {"grant_type": JWT_BEARER_GRANT, "assertion": job(), "resource": RESOURCE}
    late = token_of(former.test_client().post("/token", data=form, base_url=ISSUER))
    assert_ended(oauth, late)


def test_a_token_shows_no_claim_of_the_workload(oauth: OAuthTestClient) -> None:
    oauth.reload(trusted_issuers={"ci": {"claims": {"owner": "secret-of-the-platform"}}})
    token = token_of(ask_as_job(oauth, job(owner="secret-of-the-platform")))
    assert "secret-of-the-platform" not in json.dumps(claims_of(token))
    assert "secret-of-the-platform" not in str(oauth.store.redis.get(GRANT_PREFIX + sid_of(token)))


# Machines


@pytest.mark.parametrize(
    "change",
    [
        None,
        {"servers": ["fetch"]},
        {"scopes": []},
        {"jwks": {"keys": [jwk(1)]}},
        {"jwks": {"keys": [jwk(1, kid="0")]}},
        {"jwks": None, "secret": True},
        {"jwks": None, "jwks_url": "https://keyed.example.com/jwks"},
        {"servers": [], "scopes": [], "redirect_uris": [REDIRECT]},
    ],
)
def test_a_grant_of_a_machine_that_the_settings_allow_no_more_ends_at_once(
    oauth: OAuthTestClient, audit_log: AuditLog, change: dict[str, Any] | None
) -> None:
    load_secrets(oauth, keyed=declared_secret("keyed"))  # for the case in which it has one later
    token = token_of(ask_with_key(oauth))
    assert_live(oauth, token)
    oauth.reload(declared_clients={"keyed": change})
    assert_ended(oauth, token)
    (revoked,) = audit_log.of(Event.GRANT_REVOKED)
    assert (revoked["grant"], revoked["by"]) == (sid_of(token), "gateway")


@pytest.mark.parametrize(
    "change",
    [
        {"servers": ["time"]},
        {"jwks": {"keys": [jwk(0, kid="renamed"), jwk(1)]}},
        {"lifetime": 60},
        {"title": "Renamed"},
    ],
)
def test_a_grant_of_a_machine_that_the_settings_still_allow_goes_on(
    oauth: OAuthTestClient, change: dict[str, Any]
) -> None:
    token = token_of(ask_with_key(oauth))
    oauth.reload(declared_clients={"keyed": change})
    assert_live(oauth, token)


def test_a_machine_loses_a_scope_that_not_every_request_needs_any_more(oauth: OAuthTestClient) -> None:
    token = token_of(ask_with_secret(oauth))
    assert claims_of(token)["scope"] == "read"
    oauth.reload(resources={"time": {"scopes": {"read": {"required": False}}}})
    assert_ended(oauth, token)


def test_removing_one_of_two_keys_ends_the_tokens_of_that_key_alone(oauth: OAuthTestClient) -> None:
    oauth.reload(declared_clients={"keyed": {"jwks": {"keys": [jwk(0), jwk(1)]}}})
    former, newer = token_of(ask_with_key(oauth)), token_of(ask_with_key(oauth, key=1))
    oauth.reload(declared_clients={"keyed": {"jwks": {"keys": [jwk(1)]}}})
    assert_ended(oauth, former)
    assert_live(oauth, newer)


def test_a_new_secret_ends_the_tokens_of_the_former_one(oauth: OAuthTestClient) -> None:
    token = token_of(ask_with_secret(oauth))
    assert_live(oauth, token)
    load_secrets(oauth, nightly="x" * 40)
    assert_ended(oauth, token)
    assert_live(oauth, token_of(ask_with_secret(oauth, secret="x" * 40)))


def test_another_url_of_keys_ends_the_tokens_of_the_former_ones(oauth: OAuthTestClient) -> None:
    url = "https://keyed.example.com/jwks"
    oauth.reload(declared_clients={"keyed": {"jwks": None, "jwks_url": url}})
    client = parts_of(oauth).clients.find("keyed")
    assert client is not None
    grant = Grant(
        sid="a-grant",
        sub="client:keyed",
        name="keyed",
        client_id="keyed",
        client_name="keyed",
        resource=RESOURCE,
        scope="read",
        redirect="",
        created_at=0,
        basis=parts_of(oauth).trust.basis_of_machine(client, jwk_sets.parse(JWKS)[0]),
    )
    oauth.reload(declared_clients={"keyed": {"title": "Renamed"}})
    assert parts_of(oauth).trust.allows_grant(grant)
    oauth.reload(declared_clients={"keyed": {"jwks_url": f"{url}/other"}})
    assert not parts_of(oauth).trust.allows_grant(grant)


def test_a_machine_that_was_created_by_command_is_not_held_to_settings(oauth: OAuthTestClient) -> None:
    create(oauth, "weekly")
    token = token_of(ask_with_secret(oauth, "weekly", secret="c" * 40))
    assert_live(oauth, token)
    oauth.reload(declared_clients=None, trusted_issuers=None)
    end(oauth)
    assert verify(oauth, token) == 200


def test_a_declaration_takes_the_place_of_a_client_that_was_created_by_command(oauth: OAuthTestClient) -> None:
    create(oauth, "weekly")
    token = token_of(ask_with_secret(oauth, "weekly", secret="c" * 40))
    oauth.reload(declared_clients={"weekly": {"servers": ["time"], "jwks": JWKS}})
    assert verify(oauth, token) == 401
    oauth.reload(declared_clients={"weekly": None})
    assert_live(oauth, token)


def create(oauth: OAuthTestClient, name: str) -> None:
    assert oauth.store.created_clients.add(
        CreatedClient(
            name=name,
            declared=DeclaredClient.model_validate({"secret": True, "servers": ["time"]}),
            secret_hash=hash_secret("c" * 40),
            created_at=int(time.time()),
            server_urls={"time": RESOURCE},
        )
    )


# Programs that log users in


def log_in(oauth: OAuthTestClient, client_id: str, **secret: str) -> dict[str, Any]:
    response = oauth.redeem(client_id, oauth.obtain_code(client_id), **secret)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.get_json()
    return body


def refresh(oauth: OAuthTestClient, client_id: str, tokens: dict[str, Any], **secret: str) -> TestResponse:
    form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"], "client_id": client_id}
    return oauth.token(**form, **secret)


@pytest.mark.parametrize(
    "change",
    [
        None,
        {"redirect_uris": [OTHER_REDIRECT]},
        {"redirect_uris": None, "jwks": JWKS, "servers": ["time"]},
    ],
)
def test_a_grant_of_a_user_ends_if_the_program_can_not_log_in_so_any_more(
    oauth: OAuthTestClient, change: dict[str, Any] | None
) -> None:
    tokens = log_in(oauth, "editor")
    assert_live(oauth, tokens["access_token"])
    oauth.reload(declared_clients={"editor": change})
    assert_ended(oauth, tokens["access_token"])


@pytest.mark.parametrize("change", [{"redirect_uris": [REDIRECT]}, {"title": "Renamed"}])
def test_a_grant_of_a_user_goes_on_if_the_program_can_still_log_in_so(
    oauth: OAuthTestClient, change: dict[str, Any]
) -> None:
    tokens = log_in(oauth, "editor")
    oauth.reload(declared_clients={"editor": change})
    assert_live(oauth, tokens["access_token"])
    assert_live(oauth, refresh(oauth, "editor", tokens).get_json()["access_token"])


def test_a_grant_that_the_settings_do_not_allow_ends_at_its_refresh(oauth: OAuthTestClient) -> None:
    tokens = log_in(oauth, "editor")
    oauth.reload(declared_clients={"editor": {"redirect_uris": [OTHER_REDIRECT]}})
    answer = refresh(oauth, "editor", tokens)
    assert (answer.status_code, answer.get_json()["error"]) == (400, "invalid_grant")
    assert oauth.store.grants.find(sid_of(tokens["access_token"])) is None


def test_a_program_refreshes_with_its_new_secret_only(oauth: OAuthTestClient) -> None:
    """The user has allowed the program, not its secret: what it has got stays until it must prove itself again."""
    former = {"client_secret": declared_secret("portal")}
    tokens = log_in(oauth, "portal", **former)
    load_secrets(oauth, portal="x" * 40)
    assert refresh(oauth, "portal", tokens, **former).status_code == 401
    assert_live(oauth, tokens["access_token"])
    assert_live(oauth, token_of(refresh(oauth, "portal", tokens, client_secret="x" * 40)))


def test_users_of_programs_that_register_are_not_concerned(oauth: OAuthTestClient) -> None:
    client_id = oauth.register()["client_id"]
    tokens = log_in(oauth, client_id)
    oauth.reload(declared_clients=None, trusted_issuers=None)
    end(oauth)
    assert verify(oauth, tokens["access_token"]) == 200
    assert refresh(oauth, client_id, tokens).status_code == 200


# Grants and tokens of earlier versions, which have no basis


@pytest.mark.parametrize("ask", [ask_as_job, ask_with_key, ask_with_secret])
def test_grants_of_machines_from_an_earlier_version_end_and_new_tokens_are_good(
    oauth: OAuthTestClient, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = earlier(oauth, lambda: token_of(ask(oauth)), monkeypatch)
    assert_ended(oauth, token)
    newer = token_of(ask(oauth))
    assert sid_of(newer) != sid_of(token)
    assert_live(oauth, newer)


def test_users_of_a_declared_program_of_an_earlier_version_log_in_again(
    oauth: OAuthTestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = earlier(oauth, lambda: log_in(oauth, "editor"), monkeypatch)
    assert refresh(oauth, "editor", tokens).get_json()["error"] == "invalid_grant"
    assert_live(oauth, log_in(oauth, "editor")["access_token"])


def earlier(oauth: OAuthTestClient, do: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Do something as a version without bases would."""
    trust = type(parts_of(oauth).trust)
    with monkeypatch.context() as former:
        for name in ("basis_of_workload", "basis_of_machine", "basis_of_login"):
            former.setattr(trust, name, lambda *_: "")
        former.setattr(trust, "allows_grant", lambda *_: True)
        return do()
