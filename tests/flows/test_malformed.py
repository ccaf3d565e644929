"""Input that no client would send: the error of its RFC, never a 500."""

from __future__ import annotations

import pytest

from .conftest import ISSUER, OAuthTestClient


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"grant_type": "password"},
        {"grant_type": 'x"\\\n\u202e'},
        {"grant_type": "authorization_code", "client_id": "\x00\n"},
        {"grant_type": "refresh_token", "client_id": "x" * 5000},
        {"grant_type": ["refresh_token", "refresh_token"]},
    ],
)
def test_a_malformed_token_request_gets_an_oauth_error(oauth: OAuthTestClient, form: dict[str, str]) -> None:
    response = oauth.browser.post("/token", data=form, base_url=ISSUER)
    assert response.status_code in {400, 401}
    assert response.get_json()["error"]


@pytest.mark.parametrize("path", ["/token", "/revoke", "/introspect"])
@pytest.mark.parametrize(
    "header", ["Basic", "Basic !!!", "Basic /w==", "Basic YQ==", "Basic OjpiOg==", "Basic \xff\xe9", "basic \x80"]
)
def test_malformed_basic_authentication_is_invalid_client(oauth: OAuthTestClient, header: str, path: str) -> None:
    response = oauth.browser.post(
        path,
        data={"grant_type": "authorization_code"},
        headers={"Authorization": header},
        base_url=ISSUER,
    )
    assert (response.status_code, response.get_json()["error"]) == (401, "invalid_client")
    assert response.headers["WWW-Authenticate"].startswith("Basic ")


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Bearer \xff", "Basic YTpi", "Basic \xff", "Digest a=b"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_registration_is_not_managed_without_its_token(oauth: OAuthTestClient, header: str, method: str) -> None:
    registered = oauth.register()
    path = f"/register/{registered['client_id']}"
    response = oauth.browser.open(path, method=method, headers={"Authorization": header}, base_url=ISSUER)
    assert (response.status_code, response.get_json()["error"]) == (401, "invalid_token")
    own = {"Authorization": f"bearer  {registered['registration_access_token']}"}
    assert oauth.browser.get(path, headers=own, base_url=ISSUER).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"redirect_uris": []}',
        b'{"redirect_uris": ["javascript:alert(1)"]}',
        b'{"redirect_uris": ["http://localhost.evil.com/"]}',
        b'{"redirect_uris": ["https://user@example.com/"]}',
        b'{"redirect_uris": ["https://example.com/#x"]}',
        b'{"redirect_uris": ["https://*.example.com/"]}',
        b'{"redirect_uris": ["https://[bad/"]}',
        b'{"redirect_uris": [1], "client_name": {}}',
    ],
)
def test_a_bad_registration_is_refused_and_nothing_is_stored(oauth: OAuthTestClient, body: bytes) -> None:
    response = oauth.browser.post("/register", data=body, content_type="application/json", base_url=ISSUER)
    assert response.status_code == 400
    assert response.get_json()["error"] in {"invalid_client_metadata", "invalid_redirect_uri"}


def test_a_repeated_parameter_is_refused_with_a_page(oauth: OAuthTestClient) -> None:
    response = oauth.browser.get("/authorize?client_id=a&client_id=b", base_url=ISSUER)
    assert response.status_code == 400
    assert response.location is None
    assert response.mimetype == "text/html"
