"""Introspection (RFC 7662) and revocation (RFC 7009) of tokens, and which clients may use them."""

from __future__ import annotations

import time
from typing import Any

import pytest
import time_machine
from werkzeug.test import TestResponse

from auth_service.cli import main as gatewayctl
from auth_service.oauth.server import ON_THE_WAY_SECONDS
from auth_service.settings import Credentials

from .conftest import ISSUER, RESOURCE, OAuthTestClient

CREDENTIALS = Credentials(client_secret="upstream-secret", master_key=b"m" * 32)
INACTIVE = {"active": False}


def server_key(name: str) -> str:
    return CREDENTIALS.derive_key(f"introspection-key:{name}").decode()


def introspect(
    oauth: OAuthTestClient,
    token: str | None,
    proof: dict[str, str] | None = None,
    *,
    basic: tuple[str, str] | None = None,
) -> TestResponse:
    data = (proof or {}) | ({} if token is None else {"token": token})
    return oauth.app.test_client().post("/introspect", data=data, auth=basic, base_url=ISSUER)


def log_in(oauth: OAuthTestClient, **metadata: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a confidential client's registration and the tokens of one login."""
    client = oauth.register(**({"token_endpoint_auth_method": "client_secret_post"} | metadata))
    secret = {"client_secret": client["client_secret"]} if "client_secret" in client else {}
    tokens = oauth.redeem(client["client_id"], oauth.obtain_code(client["client_id"]), **secret).get_json()
    return client, tokens


def own(client: dict[str, Any]) -> dict[str, str]:
    return {"client_id": client["client_id"], "client_secret": client["client_secret"]}


def test_a_confidential_client_learns_all_about_its_own_tokens(oauth: OAuthTestClient) -> None:
    client, tokens = log_in(oauth)
    response = introspect(oauth, tokens["access_token"], own(client))
    assert response.headers["Cache-Control"] == "no-store"
    about = response.get_json()
    assert about | {"jti": "", "iat": 0, "exp": 0} == {
        "active": True,
        "iss": ISSUER,
        "sub": "github:583231",
        "username": "octocat",
        "aud": RESOURCE,
        "client_id": client["client_id"],
        "scope": "mcp",
        "token_type": "Bearer",
        "jti": "",
        "iat": 0,
        "exp": 0,
    }
    assert tokens["expires_in"] == 3600
    assert about["exp"] > time.time() + tokens["expires_in"], "good for longer than its client believes"
    about = introspect(oauth, tokens["refresh_token"], own(client)).get_json()
    assert (about["active"], about["sub"], about["client_id"]) == (True, "github:583231", client["client_id"])
    assert about["exp"] > time.time() + 3600


def test_a_client_that_authenticates_by_http_basic_may_ask_so_and_in_no_other_way(oauth: OAuthTestClient) -> None:
    client = oauth.register(token_endpoint_auth_method="client_secret_basic")
    basic = (client["client_id"], client["client_secret"])
    assert introspect(oauth, "x", basic=basic).get_json() == INACTIVE
    assert introspect(oauth, "x", own(client)).status_code == 401


def test_a_resources_server_learns_about_access_tokens_for_it_and_nothing_else(oauth: OAuthTestClient) -> None:
    _, tokens = log_in(oauth)
    basic = ("time", server_key("time"))
    assert introspect(oauth, tokens["access_token"], basic=basic).get_json()["sub"] == "github:583231"
    assert introspect(oauth, tokens["refresh_token"], basic=basic).get_json() == INACTIVE
    assert introspect(oauth, tokens["access_token"], basic=("fetch", server_key("fetch"))).get_json() == INACTIVE


def test_the_printed_key_is_the_one(oauth: OAuthTestClient, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "master").write_text("m" * 32)
    assert gatewayctl(["keys", "introspection", "time", "--master-key", str(tmp_path / "master")]) == 0
    assert capsys.readouterr().out.strip() == server_key("time")
    assert gatewayctl(["keys", "introspection", "../time", "--master-key", str(tmp_path / "master")]) == 2


@pytest.mark.parametrize(
    "basic",
    [
        None,
        ("time", ""),
        ("time", "wrong"),
        ("time", server_key("fetch")),
        ("time", CREDENTIALS.derive_key("identity-key:time").decode()),
        ("wiki", server_key("wiki")),
        ("", server_key("time")),
    ],
)
def test_a_stranger_learns_nothing(oauth: OAuthTestClient, basic: tuple[str, str] | None) -> None:
    _, tokens = log_in(oauth)
    for token in (tokens["access_token"], tokens["refresh_token"], "nonsense"):
        response = introspect(oauth, token, basic=basic)
        assert (response.status_code, response.get_json()["error"]) == (401, "invalid_client")
        assert response.headers["WWW-Authenticate"].startswith("Basic")


def test_a_public_client_can_not_ask_even_about_its_own(oauth: OAuthTestClient) -> None:
    client, tokens = log_in(oauth, token_endpoint_auth_method="none")
    response = introspect(oauth, tokens["access_token"], {"client_id": client["client_id"]})
    assert (response.status_code, response.get_json()["error"]) == (401, "invalid_client")


def test_another_clients_tokens_look_like_none(oauth: OAuthTestClient) -> None:
    _, tokens = log_in(oauth)
    other = oauth.register(token_endpoint_auth_method="client_secret_post")
    for token in (tokens["access_token"], tokens["refresh_token"]):
        assert introspect(oauth, token, own(other)).get_json() == INACTIVE


@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
def test_a_revoked_token_is_inactive(oauth: OAuthTestClient, kind: str) -> None:
    client, tokens = log_in(oauth)
    oauth.browser.post("/revoke", data={"token": tokens["access_token"], **own(client)}, base_url=ISSUER)
    assert introspect(oauth, tokens[kind], own(client)).get_json() == INACTIVE


def test_a_rotated_refresh_token_is_inactive_and_its_successor_active(oauth: OAuthTestClient) -> None:
    client, tokens = log_in(oauth)
    successor = oauth.token(
        grant_type="refresh_token", refresh_token=tokens["refresh_token"], **own(client)
    ).get_json()["refresh_token"]
    assert introspect(oauth, tokens["refresh_token"], own(client)).get_json() == INACTIVE
    assert introspect(oauth, successor, own(client)).get_json()["active"] is True


def test_an_expired_tampered_or_foreign_token_is_inactive(oauth: OAuthTestClient) -> None:
    client, tokens = log_in(oauth)
    header, payload, signature = tokens["access_token"].split(".")
    tampered = f"{header}.{payload}.{signature[::-1]}"
    for token in ("", "x", "a.b.c", f"{header}..{signature}", tampered, "x" * 4000):
        expected = 400 if not token else 200
        response = introspect(oauth, token, own(client))
        assert response.status_code == expected
        assert response.get_json().get("active") is not True
    with time_machine.travel(time.time() + 3600 + ON_THE_WAY_SECONDS + 1):
        assert introspect(oauth, tokens["access_token"], own(client)).get_json() == INACTIVE


def test_a_token_must_be_given(oauth: OAuthTestClient) -> None:
    client, _ = log_in(oauth)
    response = introspect(oauth, None, own(client))
    assert (response.status_code, response.get_json()["error"]) == (400, "invalid_request")


def test_only_post_is_answered(oauth: OAuthTestClient) -> None:
    assert oauth.browser.get("/introspect?token=x", base_url=ISSUER).status_code == 405


def test_what_the_metadata_advertises_is_what_works(oauth: OAuthTestClient) -> None:
    metadata = oauth.browser.get("/.well-known/oauth-authorization-server", base_url=ISSUER).get_json()
    assert metadata["introspection_endpoint"] == f"{ISSUER}/introspect"
    assert "none" not in metadata["introspection_endpoint_auth_methods_supported"]
    assert "none" in metadata["revocation_endpoint_auth_methods_supported"]


@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
def test_revoking_anothers_token_looks_done_and_does_nothing(oauth: OAuthTestClient, kind: str) -> None:
    client, tokens = log_in(oauth)
    stranger = oauth.register()
    response = oauth.browser.post(
        "/revoke", data={"token": tokens[kind], "client_id": stranger["client_id"]}, base_url=ISSUER
    )
    assert (response.status_code, response.get_json()) == (200, {})
    assert introspect(oauth, tokens["access_token"], own(client)).get_json()["active"] is True


def test_revoking_nonsense_looks_done(oauth: OAuthTestClient) -> None:
    stranger = oauth.register()
    for token in ("x", "a.b.c", "x" * 4000, "sid.0.mac"):
        form = {"token": token, "client_id": stranger["client_id"], "token_type_hint": "nonsense"}
        assert oauth.browser.post("/revoke", data=form, base_url=ISSUER).status_code == 200


def test_a_confidential_client_must_prove_itself_to_revoke(oauth: OAuthTestClient) -> None:
    client, tokens = log_in(oauth)
    for secret in ({}, {"client_secret": "wrong"}):
        form = {"token": tokens["access_token"], "client_id": client["client_id"], **secret}
        assert oauth.browser.post("/revoke", data=form, base_url=ISSUER).status_code == 401
    assert introspect(oauth, tokens["access_token"], own(client)).get_json()["active"] is True
