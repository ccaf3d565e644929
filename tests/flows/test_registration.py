"""Registration (RFC 7591): required members, ignored members, and the answer, which says what is registered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from auth_service.ops.audit import Event

from .conftest import ISSUER, REDIRECT, AuditLog, OAuthTestClient

REGISTERED = {
    "redirect_uris": [REDIRECT],
    "token_endpoint_auth_method": "none",
    "grant_types": ["authorization_code"],
    "response_types": ["code"],
    "application_type": "web",
}
"""All that is registered of a client that says nothing else of use."""
OWN = {"client_id", "client_id_issued_at", "registration_client_uri", "registration_access_token"}


def registered(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata in an answer."""
    return {name: value for name, value in answer.items() if name not in OWN}


@pytest.mark.parametrize(
    "members",
    [
        {},
        dict.fromkeys(("client_name", "client_uri", "logo_uri", "tos_uri", "policy_uri", "scope", "jwks_uri"), ""),
        {"grant_types": [], "response_types": [], "contacts": []},
        dict.fromkeys(("client_name", "grant_types", "scope", "jwks"), None),
        {"jwks": {}, "application_type": ""},
        {"jwks": {"keys": []}},
        {"jwks": {"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}},
        {"jwks": "nonsense", "jwks_uri": "https://client.example.com/jwks"},
        {"token_endpoint_auth_signing_alg": "HS256"},
        {"logo_uri": "data:image/png;base64,AAAA"},
        {"client_uri": "client.example.com", "tos_uri": 5, "policy_uri": ["https://client.example.com/"]},
        {"contacts": "dev@client.example.com"},
        {"contacts": [{"email": "dev@client.example.com"}]},
        {"client_name": "  "},
        {"client_name": {"en": "Name"}},
        {"client_name": "x" * 201, "software_version": 1.5},
        {"application_type": "browser"},
        {"scope": ["mcp"]},
        {"scope": "openid profile"},
        {"unknown": {"nested": []}},
    ],
)
def test_optional_members_that_are_empty_or_of_no_use_are_ignored(
    oauth: OAuthTestClient, members: dict[str, Any]
) -> None:
    body = {"redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none"} | members
    answer = oauth.browser.post("/register", json=body, base_url=ISSUER)
    assert answer.status_code == 201, answer.text
    assert registered(answer.get_json()) == REGISTERED
    headers = {"Authorization": f"Bearer {answer.get_json()['registration_access_token']}"}
    path = f"/register/{answer.get_json()['client_id']}"
    again = oauth.browser.put(path, json={**body, "client_id": answer.get_json()["client_id"]}, headers=headers)
    assert again.status_code == 200, again.text
    assert registered(again.get_json()) == REGISTERED


def test_members_of_use_are_registered_beside_others(oauth: OAuthTestClient) -> None:
    useful = {"client_name": "Name", "client_uri": "https://client.example.com/", "contacts": ["dev@example.com"]}
    answer = oauth.register(**useful, logo_uri="data:,", grant_types=["authorization_code", "implicit"])
    assert registered(answer) == REGISTERED | useful


@pytest.mark.parametrize(
    ("asked", "kept"),
    [("mcp", "mcp"), ("openid mcp offline_access", "mcp offline_access"), ("mcp admin", "mcp"), ("mcp mcp", "mcp")],
)
def test_the_answer_names_the_scopes_that_there_are(oauth: OAuthTestClient, asked: str, kept: str) -> None:
    assert oauth.register(scope=asked)["scope"] == kept


@pytest.mark.parametrize("method", [None, "", "absent"])
def test_a_client_that_names_no_way_to_authenticate_is_told_which_one_it_has(
    oauth: OAuthTestClient, method: str | None
) -> None:
    members = {} if method == "absent" else {"token_endpoint_auth_method": method}
    answer = oauth.browser.post("/register", json={"redirect_uris": [REDIRECT], **members}, base_url=ISSUER).get_json()
    assert answer["token_endpoint_auth_method"] == "client_secret_basic"
    assert answer["client_secret"]
    assert answer["client_secret_expires_at"] == 0


@pytest.mark.parametrize(
    ("members", "error", "text"),
    [
        ({"redirect_uris": None}, "invalid_redirect_uri", "redirect_uris: must be an array"),
        ({"redirect_uris": []}, "invalid_redirect_uri", "redirect_uris: must name at least one"),
        ({"redirect_uris": [REDIRECT] * 21}, "invalid_redirect_uri", "redirect_uris: must name no more than 20"),
        ({"redirect_uris": REDIRECT}, "invalid_redirect_uri", "redirect_uris: must be an array"),
        ({"redirect_uris": [1]}, "invalid_redirect_uri", "redirect_uris: must be a string"),
        ({"grant_types": ["implicit"]}, "invalid_client_metadata", "grant_types: must contain authorization_code"),
        ({"grant_types": "authorization_code"}, "invalid_client_metadata", "grant_types: must be an array"),
        ({"response_types": ["token"]}, "invalid_client_metadata", "response_types: must contain code"),
        ({"token_endpoint_auth_method": 1}, "invalid_client_metadata", "token_endpoint_auth_method: must be a string"),
        (
            {"token_endpoint_auth_method": "client_secret_jwt"},
            "invalid_client_metadata",
            "token_endpoint_auth_method must be one of none, client_secret_post, client_secret_basic, private_key_jwt",
        ),
        (
            {"token_endpoint_auth_method": "private_key_jwt", "jwks": []},
            "invalid_client_metadata",
            "private_key_jwt needs the client's public keys in jwks",
        ),
        (
            {"client_name": {}, "logo_uri": 5, "redirect_uris": []},
            "invalid_redirect_uri",
            "redirect_uris: must name at least one",
        ),
    ],
)
def test_a_member_that_decides_something_is_refused_by_name_if_it_is_not_valid(
    oauth: OAuthTestClient, members: dict[str, Any], error: str, text: str
) -> None:
    body = {"redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none"} | members
    answer = oauth.browser.post("/register", json=body, base_url=ISSUER)
    assert answer.status_code == 400
    assert answer.get_json() == {"error": error, "error_description": text}


BODY = json.dumps({"redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none"})


@pytest.mark.parametrize("content_type", [None, "application/json", "application/json; charset=utf-8"])
def test_a_body_that_names_no_type_is_read_as_json(oauth: OAuthTestClient, content_type: str | None) -> None:
    answer = oauth.browser.post("/register", data=BODY, content_type=content_type, base_url=ISSUER)
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        (BODY, "text/plain", "send the metadata as application/json, not as text/plain"),
        (BODY, "application/x-www-form-urlencoded", "not as application/x-www-form-urlencoded"),
        ("redirect_uris=x", "application/json", "the body must be a JSON object"),
        ("", None, "the body must be a JSON object"),
        ("[]", None, "the body must be a JSON object"),
    ],
)
def test_a_body_of_another_type_is_told_which_is_needed(
    oauth: OAuthTestClient, body: str, content_type: str | None, text: str
) -> None:
    answer = oauth.browser.post("/register", data=body, content_type=content_type, base_url=ISSUER)
    assert (answer.status_code, answer.get_json()["error"]) == (400, "invalid_client_metadata")
    assert text in answer.get_json()["error_description"]


@pytest.mark.parametrize("method", ["none", "client_secret_post"])
@pytest.mark.parametrize("left_out", [{}, {"token_endpoint_auth_method": ""}, {"token_endpoint_auth_method": None}])
def test_an_update_that_leaves_the_way_to_authenticate_out_changes_nothing_about_it(
    oauth: OAuthTestClient, method: str, left_out: dict[str, Any]
) -> None:
    client = oauth.register(token_endpoint_auth_method=method)
    answer = oauth.browser.put(
        f"/register/{client['client_id']}",
        json={"client_id": client["client_id"], "redirect_uris": [REDIRECT], **left_out},
        headers={"Authorization": f"Bearer {client['registration_access_token']}"},
    )
    assert answer.status_code == 200, answer.text
    assert answer.get_json()["token_endpoint_auth_method"] == method


def test_redirect_uris_that_are_missing_are_named(oauth: OAuthTestClient) -> None:
    answer = oauth.browser.post("/register", json={"client_name": "Name"}, base_url=ISSUER)
    assert answer.get_json()["error_description"] == "redirect_uris: is missing"


def test_the_audit_log_says_a_reason_once(oauth: OAuthTestClient, audit_log: AuditLog) -> None:
    oauth.browser.post("/register", json={"redirect_uris": []}, base_url=ISSUER)
    (refused,) = audit_log.of(Event.REGISTRATION_REFUSED)
    assert refused["reason"] == "invalid_redirect_uri: redirect_uris: must name at least one"
    for url in ("https://127.0.0.1/client.json", "https://x@client.example.com/x"):
        oauth.authorize(url)
        oauth.redeem(url, "code")
    reasons = [
        entry["reason"] for event in (Event.AUTHORIZATION_REFUSED, Event.TOKEN_REFUSED) for entry in audit_log.of(event)
    ]
    assert len(reasons) == 4
    assert all(reason.count("the URL must be https://HOST/PATH") == 1 for reason in reasons), reasons
