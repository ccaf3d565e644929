"""Metadata: where it stands, and that it says what is enforced."""

from __future__ import annotations

import pytest

from .conftest import ISSUER, RESOURCE, World


@pytest.mark.parametrize("host", [ISSUER, "https://time.example.com"])
@pytest.mark.parametrize("name", ["oauth-authorization-server", "openid-configuration"])
def test_the_same_server_metadata_stands_on_every_host(world: World, host: str, name: str) -> None:
    document = world.browser.get(f"/.well-known/{name}", base_url=host).get_json()
    assert document["issuer"] == ISSUER
    assert document["code_challenge_methods_supported"] == ["S256"]
    assert document["authorization_response_iss_parameter_supported"] is True


@pytest.mark.parametrize("path", ["", "/mcp"])
def test_a_resource_is_described_at_its_host_and_no_other(world: World, path: str) -> None:
    url = f"/.well-known/oauth-protected-resource{path}"
    document = world.browser.get(url, base_url="https://time.example.com").get_json()
    assert (document["resource"], document["authorization_servers"]) == (RESOURCE, [ISSUER])
    other = world.browser.get(url, base_url="https://fetch.example.com").get_json()
    assert other["resource"] == "https://fetch.example.com/mcp"
    assert world.browser.get(url, base_url="https://evil.example").status_code == 404


def test_the_keys_that_sign_tokens_are_published(world: World) -> None:
    (key,) = world.browser.get("/jwks", base_url=ISSUER).get_json()["keys"]
    assert key["alg"] == "ES256"
    assert "d" not in key
