"""Metadata: where it is, and that it says what is enforced."""

from __future__ import annotations

import pytest

from auth_service.app.traefik import dynamic_configuration
from auth_service.settings import Settings

from .conftest import ISSUER, REDIRECT, RESOURCE, OAuthTestClient


def test_every_endpoint_of_the_service_can_be_reached_through_the_router(
    oauth: OAuthTestClient, settings: Settings
) -> None:
    paths = {rule.rule for rule in oauth.app.url_map.iter_rules()}
    routed = "".join(router["rule"] for router in dynamic_configuration(settings)["http"]["routers"].values())
    assert {path for path in paths if f"`{path}`" not in routed} == {
        "/connections/callback/<resource_name>/<variable>",
        "/credentials/<name>",
        "/register/<client_id>",
        "/refusals/<group>/<status>",
        "/visits/<name>/<status>",
    }
    assert "PathRegexp(`^/register/[^/]+$`)" in routed


@pytest.mark.parametrize("host", [ISSUER, "https://time.example.com"])
@pytest.mark.parametrize("name", ["oauth-authorization-server", "openid-configuration"])
def test_the_same_server_metadata_stands_on_every_host(oauth: OAuthTestClient, host: str, name: str) -> None:
    document = oauth.browser.get(f"/.well-known/{name}", base_url=host).get_json()
    assert document["issuer"] == ISSUER
    assert document["code_challenge_methods_supported"] == ["S256"]
    assert document["authorization_response_iss_parameter_supported"] is True


def test_offline_access_is_a_scope_of_the_authorization_server_and_of_no_resource(oauth: OAuthTestClient) -> None:
    server = oauth.browser.get("/.well-known/oauth-authorization-server", base_url=ISSUER).get_json()
    assert server["scopes_supported"] == ["mcp", "offline_access"]
    resource = oauth.browser.get("/.well-known/oauth-protected-resource", base_url="https://time.example.com")
    assert resource.get_json()["scopes_supported"] == ["mcp"]


@pytest.mark.parametrize("path", ["", "/mcp"])
def test_a_resource_is_described_at_its_host_and_no_other(oauth: OAuthTestClient, path: str) -> None:
    url = f"/.well-known/oauth-protected-resource{path}"
    document = oauth.browser.get(url, base_url="https://time.example.com").get_json()
    assert (document["resource"], document["authorization_servers"]) == (RESOURCE, [ISSUER])
    other = oauth.browser.get(url, base_url="https://fetch.example.com").get_json()
    assert other["resource"] == "https://fetch.example.com/mcp"
    assert oauth.browser.get(url, base_url="https://evil.example").status_code == 404


def test_the_keys_that_sign_tokens_are_published(oauth: OAuthTestClient) -> None:
    (key,) = oauth.browser.get("/jwks", base_url=ISSUER).get_json()["keys"]
    assert key["alg"] == "ES256"
    assert "d" not in key


def test_each_way_to_authenticate_that_is_advertised_can_be_registered_and_no_other(oauth: OAuthTestClient) -> None:
    document = oauth.browser.get("/.well-known/oauth-authorization-server", base_url=ISSUER).get_json()
    methods = document["token_endpoint_auth_methods_supported"]
    key = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    for method in [*methods, "client_secret_jwt", "tls_client_auth", "self_signed_tls_client_auth"]:
        body = {"redirect_uris": [REDIRECT], "token_endpoint_auth_method": method, "jwks": {"keys": [key]}}
        status = oauth.browser.post("/register", json=body, base_url=ISSUER).status_code
        assert status == (201 if method in methods else 400), method


def test_every_endpoint_that_is_advertised_is_there(oauth: OAuthTestClient) -> None:
    document = oauth.browser.get("/.well-known/oauth-authorization-server", base_url=ISSUER).get_json()
    endpoints = {name: url for name, url in document.items() if name.endswith(("_endpoint", "_uri"))}
    assert {"introspection_endpoint", "revocation_endpoint", "registration_endpoint", "jwks_uri"} <= endpoints.keys()
    for url in endpoints.values():
        response = oauth.browser.post(url.removeprefix(ISSUER), base_url=ISSUER)
        assert response.status_code in {400, 401, 405}, url
    assert not any(name.startswith("HS") for name in document["token_endpoint_auth_signing_alg_values_supported"])
