"""Clients that the operator declares: machines with tokens of their own, and programs that cannot register."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from mcp.client.auth import OAuthClientProvider
from mcp.client.auth.extensions.client_credentials import (
    ClientCredentialsOAuthProvider,
    PrivateKeyJWTOAuthProvider,
    SignedJWTParameters,
)
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from pydantic import AnyHttpUrl
from werkzeug.test import TestResponse

from auth_service.oauth.client_authentication import JWT_BEARER
from auth_service.oauth.declared_clients import check_clients, make_clients
from auth_service.ops.audit import Event
from auth_service.settings import Credentials, Settings, SettingsError

from .conftest import (
    FETCH,
    ISSUER,
    REDIRECT,
    RESOURCE,
    SCOPES,
    AuditLog,
    OAuthTestClient,
    claims_of,
    declared_secret,
    error_of,
)

KEYS: dict[str, Any] = {
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    "RS256": rsa.generate_private_key(65537, 2048),
}
KEYS["PS256"] = KEYS["RS256"]


def pem(key: Any) -> str:
    text: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text.decode()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Several machines, and a program that logs its users in."""
    document = settings.model_dump()
    document["resources"]["time"]["scopes"] = SCOPES
    document["declared_clients"] = {
        "nightly": {"secret": True, "servers": ["time"], "title": "Nightly job", "lifetime": 600},
        "both": {"secret": True, "servers": ["time", "fetch"], "scopes": ["write"]},
        **{f"key-{name.lower()}": {"public_key": pem(key), "servers": ["time"]} for name, key in KEYS.items()},
        "editor": {"redirect_uris": [REDIRECT], "title": "House editor"},
        "portal": {"redirect_uris": ["https://portal.example.com/callback"], "secret": True},
    }
    return Settings.model_validate(document)


def ask(oauth: OAuthTestClient, client_id: str, *, secret: str | None = None, **form: str) -> TestResponse:
    """Ask for a token with HTTP Basic."""
    secret = secret or declared_secret(client_id)
    return oauth.token_with_basic(client_id, secret, grant_type="client_credentials", **form)


def assertion(client_id: str, algorithm: str, **claims: Any) -> str:
    now = int(time.time())
    usual = {"iss": client_id, "sub": client_id, "aud": ISSUER, "exp": now + 60, "iat": now, "jti": str(uuid.uuid4())}
    return jwt.encode(usual | claims, KEYS[algorithm], algorithm)


def ask_with_key(oauth: OAuthTestClient, client_assertion: str, **form: str) -> TestResponse:
    return oauth.token(
        grant_type="client_credentials",
        client_assertion_type=JWT_BEARER,
        client_assertion=client_assertion,
        **form,
    )


# Machines


def test_a_machine_gets_a_token_of_its_only_server_and_no_refresh_token(
    oauth: OAuthTestClient, audit_log: AuditLog
) -> None:
    response = ask(oauth, "nightly")
    claims = claims_of(response)
    assert (claims["sub"], claims["client_id"], claims["aud"]) == ("client:nightly", "nightly", RESOURCE)
    body = response.get_json()
    assert (body["scope"], body["expires_in"], body["token_type"]) == ("read", 600, "Bearer")
    assert "refresh_token" not in body
    (issued,) = audit_log.of(Event.TOKEN_ISSUED)
    assert issued.items() >= {"user": "client:nightly", "client": "nightly", "resource": RESOURCE}.items()


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_machine_authenticates_with_its_key(oauth: OAuthTestClient, algorithm: str) -> None:
    client_id = f"key-{algorithm.lower()}"
    assert claims_of(ask_with_key(oauth, assertion(client_id, algorithm)))["sub"] == f"client:{client_id}"


def test_a_machine_may_send_its_secret_in_the_body(oauth: OAuthTestClient) -> None:
    response = oauth.token(
        grant_type="client_credentials", client_id="nightly", client_secret=declared_secret("nightly")
    )
    assert claims_of(response)["client_id"] == "nightly"


class Memory:
    """What a client of the Python SDK keeps."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return None

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        raise AssertionError(f"a machine registers: {client_info}")


def authorization_of(oauth: OAuthTestClient, provider: OAuthClientProvider) -> str:
    """Return the header with which the Python SDK asks the server, once it has got a token."""

    def respond(request: httpx2.Request) -> httpx2.Response:
        if str(request.url) == RESOURCE:
            return httpx2.Response(200 if "Authorization" in request.headers else 401)
        response = oauth.browser.open(
            request.url.path,
            method=request.method,
            base_url=f"https://{request.url.host}",
            headers=dict(request.headers),
            data=request.content,
        )
        return httpx2.Response(response.status_code, headers=list(response.headers), content=response.data)

    async def ask_server() -> httpx2.Response:
        async with httpx2.AsyncClient(auth=provider, transport=httpx2.MockTransport(respond)) as http:
            return await http.post(RESOURCE)

    response = asyncio.run(ask_server())
    assert response.status_code == 200
    return str(response.request.headers["Authorization"])


def subject_of(authorization: str) -> str:
    token = authorization.removeprefix("Bearer ")
    return str(jwt.decode(token, options={"verify_signature": False})["sub"])


def private_pem(key: Any) -> str:
    text: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return text.decode()


def test_the_python_sdk_authenticates_a_machine_by_its_secret(oauth: OAuthTestClient) -> None:
    provider = ClientCredentialsOAuthProvider(RESOURCE, Memory(), "nightly", declared_secret("nightly"), issuer=ISSUER)
    assert subject_of(authorization_of(oauth, provider)) == "client:nightly"


@pytest.mark.parametrize("version", [1, 2])
def test_the_python_sdk_authenticates_a_machine_by_its_key(oauth: OAuthTestClient, version: int) -> None:
    sign = SignedJWTParameters(
        issuer="key-es256", subject="key-es256", signing_key=private_pem(KEYS["ES256"]), signing_algorithm="ES256"
    ).create_assertion_provider()
    audiences = []

    async def sign_as_version(issuer: str) -> str:
        # Version 1 keeps the issuer as a URL object, which adds the slash.
        audiences.append(str(AnyHttpUrl(issuer)) if version == 1 else issuer)
        return await sign(audiences[-1])

    provider = PrivateKeyJWTOAuthProvider(RESOURCE, Memory(), "key-es256", sign_as_version, issuer=ISSUER)
    assert subject_of(authorization_of(oauth, provider)) == "client:key-es256"
    assert audiences == [f"{ISSUER}/" if version == 1 else ISSUER]


def test_a_machine_with_several_servers_names_one(oauth: OAuthTestClient) -> None:
    assert error_of(ask(oauth, "both")) == "invalid_target"
    assert claims_of(ask(oauth, "both", resource=FETCH))["aud"] == FETCH
    assert claims_of(ask(oauth, "both", resource=RESOURCE))["scope"] == "read write"


def test_a_machine_may_ask_for_less_but_never_below_what_each_request_needs(oauth: OAuthTestClient) -> None:
    assert claims_of(ask(oauth, "both", resource=RESOURCE, scope="write"))["scope"] == "read write"
    assert claims_of(ask(oauth, "both", resource=RESOURCE, scope="read"))["scope"] == "read"


@pytest.mark.parametrize(
    ("client_id", "form", "error"),
    [
        ("nightly", {"resource": FETCH}, "invalid_target"),
        ("nightly", {"resource": "https://evil.example/mcp"}, "invalid_target"),
        ("nightly", {"scope": "write"}, "invalid_scope"),
        ("nightly", {"scope": "admin"}, "invalid_scope"),
        ("both", {"resource": RESOURCE, "scope": "admin"}, "invalid_scope"),
    ],
)
def test_a_machine_gets_nothing_beyond_its_declaration(
    oauth: OAuthTestClient, client_id: str, form: dict[str, str], error: str
) -> None:
    assert error_of(ask(oauth, client_id, **form)) == error


def test_a_machine_learns_that_it_may_lack_access_to_a_server(oauth: OAuthTestClient) -> None:
    answer = ask(oauth, "nightly", resource=FETCH).get_json()
    assert answer["error_description"] == f"this client has no access to {FETCH}, or this gateway has no such server"


def test_its_tokens_are_of_one_grant_that_can_be_ended(oauth: OAuthTestClient) -> None:
    first, second = claims_of(ask(oauth, "nightly")), claims_of(ask(oauth, "nightly"))
    assert first["sid"] == second["sid"]
    assert first["jti"] != second["jti"]
    oauth.revocation.revoke_grant(first["sid"], by="operator", reason="test")
    third = claims_of(ask(oauth, "nightly"))
    assert third["sid"] != first["sid"]
    assert oauth.store.grants.find(first["sid"]) is None


def test_a_grant_that_ends_while_a_token_is_asked_for_is_not_brought_back(
    oauth: OAuthTestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = claims_of(ask(oauth, "nightly"))["sid"]
    find = type(oauth.store.grants).find_of_user

    def find_then_end(self: Any, sub: str, **options: Any) -> Any:
        found = find(self, sub, **options)
        self.end([each.grant.sid for each in found])
        return found

    monkeypatch.setattr(type(oauth.store.grants), "find_of_user", find_then_end)
    assert claims_of(ask(oauth, "nightly"))["sid"] != ended
    assert oauth.store.grants.find(ended) is None


def test_a_machine_can_revoke_its_own_token_and_introspect_it(oauth: OAuthTestClient) -> None:
    token = ask(oauth, "nightly").get_json()["access_token"]
    form = {"client_id": "nightly", "client_secret": declared_secret("nightly"), "token": token}
    described = oauth.browser.post("/introspect", data=form, base_url=ISSUER).get_json()
    assert described["active"] is True
    assert described["sub"] == "client:nightly"
    assert oauth.browser.post("/revoke", data=form, base_url=ISSUER).status_code == 200
    assert oauth.browser.post("/introspect", data=form, base_url=ISSUER).get_json() == {"active": False}


def test_metadata_offers_client_credentials_only_where_a_machine_is_declared(oauth: OAuthTestClient) -> None:
    def offered() -> list[str]:
        document = oauth.browser.get("/.well-known/oauth-authorization-server", base_url=ISSUER).get_json()
        return list(document["grant_types_supported"])

    assert "client_credentials" in offered()
    oauth.settings = oauth.settings.model_copy(update={"declared_clients": {}})
    oauth.__post_init__()
    assert "client_credentials" not in offered()


# Programs with users


def test_a_declared_program_logs_users_in_without_registering(oauth: OAuthTestClient) -> None:
    page = oauth.authorize("editor", resource=FETCH)
    assert "House editor" in page.text
    tokens = oauth.redeem("editor", oauth.obtain_code("editor", resource=FETCH))
    assert claims_of(tokens)["sub"] == "github:583231"
    assert "refresh_token" in tokens.get_json()


def test_a_declared_program_with_a_secret_must_authenticate(oauth: OAuthTestClient) -> None:
    uri = "https://portal.example.com/callback"
    code = oauth.obtain_code("portal", redirect_uri=uri, resource=FETCH)
    assert error_of(oauth.redeem("portal", code, redirect_uri=uri)) == "invalid_client"
    assert (
        claims_of(oauth.redeem("portal", code, redirect_uri=uri, client_secret=declared_secret("portal")))["client_id"]
        == "portal"
    )


def test_a_declared_program_has_no_other_redirect_uri(oauth: OAuthTestClient) -> None:
    assert oauth.authorize("editor", redirect_uri="https://evil.example/callback").status_code == 400


# Attacks


def test_users_programs_and_strangers_never_get_client_credentials(oauth: OAuthTestClient) -> None:
    assert error_of(ask(oauth, "portal")) == "unauthorized_client"
    assert error_of(oauth.token(grant_type="client_credentials", client_id="editor")) == "unauthorized_client"
    registered = oauth.register(
        grant_types=["authorization_code", "client_credentials"], token_endpoint_auth_method="client_secret_basic"
    )
    assert "client_credentials" not in registered["grant_types"]
    response = ask(oauth, registered["client_id"], secret=registered["client_secret"])
    assert error_of(response) == "unauthorized_client"


def test_a_machine_can_not_log_users_in(oauth: OAuthTestClient) -> None:
    for redirect_uri in (REDIRECT, None):
        page = oauth.authorize("nightly", redirect_uri=redirect_uri)
        assert page.status_code == 400
        assert "Location" not in page.headers


@pytest.mark.parametrize("secret", ["x" * 40, declared_secret("both"), declared_secret("nightly") + "x"])
def test_a_wrong_secret_is_refused(oauth: OAuthTestClient, secret: str) -> None:
    response = ask(oauth, "nightly", secret=secret)
    assert (response.status_code, error_of(response)) == (401, "invalid_client")


def test_a_machine_without_proof_is_refused(oauth: OAuthTestClient) -> None:
    response = oauth.token(grant_type="client_credentials", client_id="nightly")
    assert (response.status_code, error_of(response)) == (401, "invalid_client")


def test_assertions_that_are_not_of_this_machine_for_this_service_now_are_refused(oauth: OAuthTestClient) -> None:
    now = int(time.time())
    client_id = "key-es256"
    bad = [
        assertion(client_id, "EdDSA"),
        assertion(client_id, "RS256"),
        assertion(client_id, "ES256", aud="https://evil.example"),
        assertion(client_id, "ES256", aud=[ISSUER, "https://evil.example"]),
        assertion(client_id, "ES256", iss="key-eddsa"),
        assertion(client_id, "ES256", sub="key-eddsa"),
        assertion(client_id, "ES256", exp=now - 120),
        assertion(client_id, "ES256", exp=now + 90_000),
        jwt.encode({"iss": client_id, "sub": client_id, "aud": ISSUER, "exp": now + 60, "jti": "x"}, "", "none"),
        # The public key as the secret of a symmetric signature.
        jwt.api_jws.PyJWS().encode(b"{}", "k" * 64, "HS256"),
    ]
    for each in bad:
        response = ask_with_key(oauth, each)
        assert (response.status_code, error_of(response)) == (401, "invalid_client")


def test_an_assertion_is_good_once(oauth: OAuthTestClient) -> None:
    once = assertion("key-es256", "ES256")
    assert ask_with_key(oauth, once).status_code == 200
    assert error_of(ask_with_key(oauth, once)) == "invalid_client"


def test_a_secret_in_the_query_is_no_authentication(oauth: OAuthTestClient) -> None:
    response = oauth.browser.post(
        f"/token?client_id=nightly&client_secret={declared_secret('nightly')}",
        data={"grant_type": "client_credentials"},
        base_url=ISSUER,
    )
    assert response.status_code in {400, 401}


def test_nobody_can_manage_a_declared_client_as_a_registration(oauth: OAuthTestClient) -> None:
    for method in ("get", "put", "delete"):
        response = getattr(oauth.browser, method)(
            "/register/nightly", headers={"Authorization": f"Bearer {declared_secret('nightly')}"}, base_url=ISSUER
        )
        assert response.status_code == 401


# Settings


def declare(settings: Settings, name: str = "x", **client: Any) -> Settings:
    return Settings.model_validate(settings.model_dump() | {"declared_clients": {name: client}})


@pytest.mark.parametrize(
    ("client", "text"),
    [
        ({}, "must have either servers"),
        ({"servers": ["time"]}, "must have one of public_key, jwks, jwks_url and secret"),
        ({"servers": ["time"], "secret": True, "jwks": {"keys": []}}, "only one of public_key"),
        ({"servers": ["time"], "secret": True, "redirect_uris": [REDIRECT]}, "must have either servers"),
        ({"servers": ["other"], "secret": True}, "declared_clients.x.servers: there is no server other"),
        ({"servers": ["fetch"], "secret": True, "scopes": ["write"]}, "none of its servers has the scope write"),
        ({"redirect_uris": [REDIRECT], "scopes": ["write"]}, "scopes are for clients with servers"),
        ({"servers": ["time"], "secret": True, "lifetime": 0}, "greater than 0"),
        ({"servers": ["time"], "secret": True, "lifetime": 86401}, "less than or equal to 86400"),
        ({"servers": ["time"], "jwks_url": "http://example.com/jwks"}, "should match pattern"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused(settings: Settings, client: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        declare(settings, **client)


@pytest.mark.parametrize("server", ["time", "fetch"])
def test_a_machine_may_not_have_a_server_that_needs_credentials_of_its_users(settings: Settings, server: str) -> None:
    document = settings.model_dump() | {"declared_clients": {"x": {"servers": [server], "secret": True}}}
    document["resources"]["fetch"]["user_credentials"] = {"TOKEN": {"label": "Token"}}
    if server == "time":
        assert Settings.model_validate(document).declared_clients["x"].servers == ("time",)
    else:
        with pytest.raises(ValueError, match=r"declared_clients\.x\.servers: fetch needs user_credentials"):
            Settings.model_validate(document)


def test_a_client_may_not_have_the_name_of_a_server(settings: Settings) -> None:
    with pytest.raises(ValueError, match="has the name of a server"):
        declare(settings, "time", servers=["fetch"], secret=True)


@pytest.mark.parametrize("name", ["mcp_x", "https://x.example/c", "X", "-x", ""])
def test_a_client_may_not_have_the_identifier_of_another_kind(settings: Settings, name: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        declare(settings, name, servers=["fetch"], secret=True)


@pytest.mark.parametrize(
    ("client", "text"),
    [
        (
            {"servers": ["time"], "public_key": "no key"},
            r"declared_clients\.x\.public_key: must be a public key in PEM",
        ),
        (
            {"servers": ["time"], "public_key": private_pem(KEYS["ES256"])},
            r"declared_clients\.x\.public_key: is a private key; give the public one",
        ),
        (
            {"servers": ["time"], "public_key": pem(rsa.generate_private_key(65537, 1024))},
            r"declared_clients\.x\.public_key: must be a public key in PEM",
        ),
        (
            {"servers": ["time"], "jwks": {"keys": [{"kty": "oct", "k": "x"}]}},
            r"declared_clients\.x\.jwks: holds a priv",
        ),
        ({"redirect_uris": ["javascript:alert(1)"]}, r"declared_clients\.x\.redirect_uris: "),
    ],
)
def test_a_key_or_redirect_uri_that_can_not_be_used_is_named(
    settings: Settings, client: dict[str, Any], text: str
) -> None:
    with pytest.raises(SettingsError, match=text):
        check_clients(declare(settings, **client))


def test_a_secret_that_is_missing_is_named(settings: Settings) -> None:
    credentials = Credentials(client_secret="x", master_key=b"m" * 32)
    with pytest.raises(SettingsError, match=r"the credential declared-client\.x is missing"):
        make_clients(declare(settings, servers=["time"], secret=True), credentials)
