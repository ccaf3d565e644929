"""Token requests in the forms that clients send, and the errors for those that are refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from werkzeug.test import TestResponse

from .conftest import ISSUER, REDIRECT, VERIFIER, OAuthTestClient

FORM = "application/x-www-form-urlencoded"


def post(
    oauth: OAuthTestClient, body: bytes | str, content_type: str | None, path: str = "/token", **headers: str
) -> TestResponse:
    return oauth.app.test_client().post(path, data=body, content_type=content_type, headers=headers, base_url=ISSUER)


def grant(oauth: OAuthTestClient, client_id: str) -> dict[str, str]:
    """Return the parameters that redeem a new code."""
    return {
        "grant_type": "authorization_code",
        "client_id": client_id,
        "code": oauth.obtain_code(client_id),
        "redirect_uri": REDIRECT,
        "code_verifier": VERIFIER,
    }


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
def test_a_json_object_of_strings_is_read_as_a_form_is(oauth: OAuthTestClient, content_type: str) -> None:
    client_id = oauth.register()["client_id"]
    body = json.dumps(grant(oauth, client_id) | {"scope": None, "resource": ""})
    answer = post(oauth, body, content_type)
    assert answer.status_code == 200, answer.text
    tokens = answer.get_json()
    body = json.dumps({"grant_type": "refresh_token", "client_id": client_id, "refresh_token": tokens["refresh_token"]})
    assert post(oauth, body, content_type).status_code == 200
    body = json.dumps({"token": tokens["access_token"], "client_id": client_id})
    assert post(oauth, body, content_type, "/revoke").status_code == 200
    assert oauth.store.grants.find(tokens["refresh_token"].partition(".")[0]) is None


def test_a_form_that_names_no_type_is_read(oauth: OAuthTestClient) -> None:
    client_id = oauth.register()["client_id"]
    body = "&".join(f"{name}={value}" for name, value in grant(oauth, client_id).items())
    assert post(oauth, body, None).status_code == 200


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        (b'{"grant_type": "refresh_token", "grant_type": "refresh_token"}', "application/json", "is repeated"),
        (b'{"grant_type": "a", "grant_type": null}', "application/json", "is repeated"),
        (b'{"grant_type": ["refresh_token"]}', "application/json", "grant_type must be a string"),
        (b'{"grant_type": {"a": "b"}}', "application/json", "grant_type must be a string"),
        (b'{"client_id": 5}', "application/json", "client_id must be a string"),
        (b'{"client_id": true}', "application/json", "client_id must be a string"),
        (b'{"client_id": NaN}', "application/json", "client_id must be a string"),
        (b'{"client_id": "\\ud800"}', "application/json", "client_id must be a string"),
        (b'{"\\ud800": "x"}', "application/json", "must be a string"),
        (b'["grant_type"]', "application/json", "must be a JSON object"),
        (b'[["grant_type", "refresh_token"]]', "application/json", "must be a JSON object"),
        (b'"grant_type"', "application/json", "must be a JSON object"),
        (b"grant_type=refresh_token", "application/json", "is not JSON"),
        (b"\xff", "application/json", "is not JSON"),
        (b"[" * 60_000, "application/json", "is not JSON"),
        (b"", "application/json", "is not JSON"),
        (b"grant_type=refresh_token", "text/plain", "as application/x-www-form-urlencoded, not as text/plain"),
        (b"<grant_type/>", "application/xml", "as application/x-www-form-urlencoded, not as application/xml"),
        (b"\xff", None, "not a form"),
        (b"&".join(b"%d=1" % number for number in range(70)), None, "not a form"),
        (b'{"grant_type": "refresh_token"}', FORM, "as application/x-www-form-urlencoded"),
        (b"", FORM, "grant_type is missing"),
    ],
)
@pytest.mark.parametrize("path", ["/token", "/revoke", "/introspect"])
def test_a_body_in_another_form_is_refused_and_told_which_is_needed(
    oauth: OAuthTestClient, path: str, body: bytes, content_type: str | None, text: str
) -> None:
    answer = post(oauth, body, content_type, path)
    assert answer.status_code in {400, 401}
    if path == "/token" or content_type != FORM:
        assert (answer.status_code, answer.get_json()["error"]) == (400, "invalid_request")
        assert text in answer.get_json()["error_description"]


def test_json_is_for_programs_and_no_way_past_a_pages_form(oauth: OAuthTestClient) -> None:
    page = oauth.authorize(oauth.register()["client_id"])
    assert page.status_code == 200
    answer = oauth.browser.post("/consent", json={"ticket": "x", "decision": "approve"}, base_url=ISSUER)
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("registered", "sent"),
    [
        ("client_secret_basic", "client_secret_post"),
        ("client_secret_basic", "none"),
        ("client_secret_post", "client_secret_basic"),
        ("client_secret_post", "none"),
        ("none", "client_secret_post"),
        ("none", "client_secret_basic"),
    ],
)
def test_a_client_is_told_how_it_authenticates(oauth: OAuthTestClient, registered: str, sent: str) -> None:
    client = oauth.register(token_endpoint_auth_method=registered)
    identifier, secret = client["client_id"], client.get("client_secret", "x")
    form: dict[str, str] = {"grant_type": "refresh_token", "refresh_token": "x"}
    headers: dict[str, str] = {}
    if sent == "client_secret_basic":
        headers["Authorization"] = "Basic " + base64.b64encode(f"{identifier}:{secret}".encode()).decode()
    else:
        form["client_id"] = identifier
    if sent == "client_secret_post":
        form["client_secret"] = secret
    answer = oauth.app.test_client().post("/token", data=form, headers=headers, base_url=ISSUER)
    assert (answer.status_code, answer.get_json()["error"]) == (401, "invalid_client")
    text = f"this client authenticates with {registered}, but the request does with {sent}"
    assert answer.get_json()["error_description"] == text


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"grant_type": "password"},
        {"grant_type": "client_credentials"},
        {"grant_type": "authorization_code"},
        {"grant_type": "authorization_code", "code": "x"},
        {"grant_type": "authorization_code", "code": "x", "code_verifier": VERIFIER},
        {"grant_type": "refresh_token"},
        {"grant_type": "refresh_token", "refresh_token": "x"},
        {"grant_type": "refresh_token", "refresh_token": "a.0.x"},
    ],
)
@pytest.mark.parametrize("grant_types", [["authorization_code"], ["authorization_code", "refresh_token"]])
def test_every_refusal_has_a_description(oauth: OAuthTestClient, form: dict[str, str], grant_types: list[str]) -> None:
    client_id = oauth.register(grant_types=grant_types)["client_id"]
    for own in ({"client_id": client_id}, {"client_id": "mcp_unknown"}, {}):
        answer = oauth.token(**form, **own)
        assert answer.status_code in {400, 401}
        document: dict[str, Any] = answer.get_json()
        assert len(document["error_description"]) > 10, document


@pytest.mark.parametrize("path", ["/token", "/revoke", "/introspect"])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic " + base64.b64encode(b":x").decode()}])
def test_a_request_that_names_no_client_is_told_so(oauth: OAuthTestClient, path: str, headers: dict[str, str]) -> None:
    form = {"grant_type": "refresh_token", "refresh_token": "x", "token": "x"}
    answer = oauth.app.test_client().post(path, data=form, headers=headers, base_url=ISSUER)
    assert (answer.status_code, answer.get_json()["error"]) == (401, "invalid_client")
    assert answer.get_json()["error_description"] == "client_id is missing: the request names no client"


@pytest.mark.parametrize("client_id", [None, ""])
def test_a_link_that_names_no_client_is_told_so(oauth: OAuthTestClient, client_id: str | None) -> None:
    query = {"response_type": "code"} if client_id is None else {"response_type": "code", "client_id": client_id}
    page = oauth.browser.get("/authorize", query_string=query, base_url=ISSUER)
    assert page.status_code == 400
    assert "Its client_id is missing" in page.text
    assert "expired" not in page.text
