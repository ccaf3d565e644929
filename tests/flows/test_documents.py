"""Every document that we serve validates against the schema of its specification."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from werkzeug.test import TestResponse

from auth_service.app.verify.endpoint import Verifier
from auth_service.app.verify.grant_liveness import GrantWatch
from auth_service.keys.signing_keys import SigningKeys
from auth_service.settings import Credentials, Settings
from auth_service.storage.denials import Denials
from tests.schemas import check

from .conftest import ISSUER, REDIRECT, VERIFIER, OAuthTestClient

AUTHORIZATION_SERVER = "/.well-known/oauth-authorization-server"
OPENID_CONFIGURATION = "/.well-known/openid-configuration"
JWK = {**ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True), "kid": "1"}


def get(oauth: OAuthTestClient, path: str, base_url: str = ISSUER) -> Any:
    answer = oauth.browser.get(path, base_url=base_url)
    assert (answer.status_code, answer.mimetype) == (200, "application/json"), answer.text
    return answer.get_json()


def test_server_metadata_is_that_of_oauth_and_of_openid_connect(oauth: OAuthTestClient) -> None:
    for host in (ISSUER, "https://time.example.com"):
        for path in (AUTHORIZATION_SERVER, OPENID_CONFIGURATION):
            document = get(oauth, path, host)
            check(document, "authorization_server_metadata")
            check(document, "openid_provider_metadata")


class TestWithAPath:
    """A gateway whose issuer has a path, and whose servers share its host."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        document = settings.model_dump()
        document["issuer"] = f"{ISSUER}/gateway"
        for name, resource in document["resources"].items():
            resource["url"] = f"{ISSUER}/{name}/mcp"
        return Settings.model_validate(document)

    @pytest.mark.parametrize("known", [AUTHORIZATION_SERVER, OPENID_CONFIGURATION])
    @pytest.mark.parametrize("form", ["{}", "{}/gateway", "/gateway{}"])
    def test_every_form_of_the_path_leads_to_valid_metadata(
        self, oauth: OAuthTestClient, known: str, form: str
    ) -> None:
        document = get(oauth, form.replace("{}", known))
        check(document, "authorization_server_metadata")
        check(document, "openid_provider_metadata")
        assert document["issuer"] == f"{ISSUER}/gateway"

    def test_each_resource_is_described(self, oauth: OAuthTestClient) -> None:
        for name in ("time", "fetch"):
            document = get(oauth, f"/.well-known/oauth-protected-resource/{name}/mcp")
            check(document, "protected_resource_metadata")
            assert document["resource"] == f"{ISSUER}/{name}/mcp"

    def test_keys_and_registrations_stand_below_it(self, oauth: OAuthTestClient) -> None:
        check(get(oauth, "/gateway/jwks"), "jwk_set")
        answer = oauth.browser.post("/gateway/register", json={"redirect_uris": [REDIRECT]}, base_url=ISSUER)
        check(answer.get_json(), "client_information")


@pytest.mark.parametrize("path", ["", "/mcp"])
@pytest.mark.parametrize("host", ["https://time.example.com", "https://fetch.example.com"])
def test_resource_metadata(oauth: OAuthTestClient, host: str, path: str) -> None:
    check(get(oauth, f"/.well-known/oauth-protected-resource{path}", host), "protected_resource_metadata")


def test_keys(oauth: OAuthTestClient) -> None:
    check(get(oauth, "/jwks"), "jwk_set")


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"token_endpoint_auth_method": "none"},
        {"token_endpoint_auth_method": "client_secret_post", "scope": "openid mcp", "logo_uri": "data:,"},
        {"token_endpoint_auth_method": "private_key_jwt", "jwks": {"keys": [JWK]}},
        {"client_name": "", "contacts": [], "scope": "openid", "jwks": {}, "application_type": "browser"},
        {
            "client_name": "Name",
            "client_uri": "https://client.example.com/",
            "logo_uri": "https://client.example.com/logo.png",
            "tos_uri": "https://client.example.com/tos",
            "policy_uri": "https://client.example.com/policy",
            "contacts": ["dev@client.example.com"],
            "software_id": "id",
            "software_version": "1.0",
            "grant_types": ["authorization_code", "refresh_token", "implicit"],
            "response_types": ["code", "token"],
        },
    ],
)
def test_a_registration_when_made_read_and_updated(oauth: OAuthTestClient, metadata: dict[str, Any]) -> None:
    body = {"redirect_uris": [REDIRECT, "https://client.example.com/callback"], **metadata}
    made = oauth.browser.post("/register", json=body, base_url=ISSUER)
    assert made.status_code == 201
    check(made.get_json(), "client_information")
    path = made.get_json()["registration_client_uri"].removeprefix(ISSUER)
    headers = {"Authorization": f"Bearer {made.get_json()['registration_access_token']}"}
    read = oauth.browser.get(path, headers=headers, base_url=ISSUER)
    check(read.get_json(), "client_information")
    body["client_id"] = made.get_json()["client_id"]
    updated = oauth.browser.put(path, json=body, headers=headers, base_url=ISSUER)
    assert updated.status_code == 200
    check(updated.get_json(), "client_information")


def test_tokens_and_what_is_said_of_them(oauth: OAuthTestClient) -> None:
    client = oauth.register(token_endpoint_auth_method="client_secret_post")
    proof = {"client_id": client["client_id"], "client_secret": client["client_secret"]}
    code = oauth.obtain_code(client["client_id"])
    issued = oauth.redeem(client["client_id"], code, client_secret=client["client_secret"])
    check(issued.get_json(), "token")
    renewed = oauth.token(grant_type="refresh_token", refresh_token=issued.get_json()["refresh_token"], **proof)
    check(renewed.get_json(), "token")

    def introspect(token: str) -> Any:
        return oauth.browser.post("/introspect", data={"token": token, **proof}, base_url=ISSUER).get_json()

    for name in ("access_token", "refresh_token"):
        check(introspect(renewed.get_json()[name]), "introspection")
        assert introspect(renewed.get_json()[name])["active"]
    check(introspect("unknown"), "introspection")
    oauth.browser.post("/revoke", data={"token": renewed.get_json()["refresh_token"], **proof}, base_url=ISSUER)
    check(introspect(renewed.get_json()["access_token"]), "introspection")


def errors(oauth: OAuthTestClient) -> list[TestResponse]:
    client_id = oauth.register()["client_id"]

    def post(path: str, **options: Any) -> TestResponse:
        return oauth.browser.post(path, base_url=ISSUER, **options)

    return [
        oauth.token(),
        oauth.token(grant_type="password", client_id=client_id),
        oauth.token(grant_type="refresh_token", client_id=client_id, refresh_token='"\\\u202e'),
        oauth.token(grant_type="authorization_code", client_id="unknown", code="x", code_verifier=VERIFIER),
        post("/token", data=b"{}", content_type="text/plain"),
        post("/token", data=b"x" * 70_000, content_type="application/x-www-form-urlencoded"),
        post("/register", json={"redirect_uris": []}),
        post("/register", json={"redirect_uris": ['javascript:alert("\\\u202e")']}),
        post("/register", data=b"nonsense"),
        post("/introspect"),
        post("/revoke"),
        oauth.browser.get("/token", base_url=ISSUER),
        oauth.browser.get("/nothing", base_url=ISSUER),
        oauth.browser.get("/register/unknown", base_url=ISSUER),
        *(oauth.browser.get(f"/refusals/token/{status}", base_url=ISSUER) for status in (404, 413, 429, 502, 504)),
    ]


def test_every_error_of_an_endpoint_of_programs(oauth: OAuthTestClient) -> None:
    for answer in errors(oauth):
        assert answer.status_code >= 400
        assert answer.mimetype == "application/json"
        check(answer.get_json(), "oauth_error")
        assert answer.headers["Access-Control-Allow-Origin"] == "*"


def test_every_refusal_at_a_server(oauth: OAuthTestClient, settings: Settings, tmp_path: Path) -> None:
    for path in ("mcp/421", "mcp/502", "mcp/503", "mcp/504", "by-grant/413"):
        answer = oauth.browser.get(f"/refusals/{path}", headers={"Accept": "application/json"}, base_url=ISSUER)
        check(answer.get_json(), "json_rpc_error")
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert path.rsplit("/")[-1] in answer.get_json()["error"]["message"]
    credentials = Credentials(client_secret="x", master_key=b"m" * 32)
    watch = GrantWatch(f"unix://{tmp_path / 'absent.sock'}", Denials(tmp_path))
    verifier = Verifier(settings, credentials, SigningKeys(tmp_path / "keys", credentials), watch)
    for headers in ([], [(b"authorization", b"Bearer x")], [(b"authorization", b"Bearer a b")]):
        sent: list[Any] = []

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        async def receive() -> Any:
            raise AssertionError("the body is never read")

        asyncio.run(verifier({"path": "/verify/time", "headers": headers}, receive, send))
        assert sent[0]["status"] in {400, 401}
        check(json.loads(sent[1]["body"]), "json_rpc_error")


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("authorization_server_metadata", {}),
        ("authorization_server_metadata", {"issuer": "http://auth.example.com"}),
        ("openid_provider_metadata", {"issuer": ISSUER}),
        ("protected_resource_metadata", {"resource": ISSUER}),
        ("jwk_set", {"keys": [{"kty": "EC", "d": "x"}]}),
        ("client_information", {"client_id": "x"}),
        ("introspection", {"active": False, "sub": "x"}),
        ("token", {"access_token": "x"}),
        ("oauth_error", {"error": "x", "error_description": ""}),
        ("json_rpc_error", {"error": "x"}),
    ],
)
def test_the_schemas_refuse_what_is_not_of_their_form(name: str, document: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match=name):
        check(document, name)
