"""Enterprise-managed authorization: the identity provider vouches for the user of a client, by an ID-JAG."""

from __future__ import annotations

import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import HMACAlgorithm, RSAAlgorithm
from jwt.utils import base64url_encode
from mcp.client.auth import OAuthClientProvider
from mcp.client.auth.extensions.identity_assertion import IdentityAssertionOAuthProvider
from pydantic import ValidationError
from werkzeug.test import TestResponse

from auth_service.app.composition import Parts
from auth_service.app.views.browser import start_session
from auth_service.idp.oidc import RETRY_SECONDS
from auth_service.ops.audit import Event
from auth_service.protocol.access import Profile
from auth_service.protocol.clients import ID_JAG_PROFILE, JWT_BEARER_GRANT
from auth_service.settings import Settings
from auth_service.storage.user_credentials import Secret
from tests.auth_service.idp.test_oidc import ISSUER as PROVIDER
from tests.auth_service.idp.test_oidc import KEY, OTHER_KEY, StandIn, jwk

from .conftest import FETCH, ISSUER, REDIRECT, RESOURCE, AuditLog, OAuthTestClient, claims_of, declared_secret, error_of
from .test_declared_clients import Memory, authorization_of, subject_of
from .test_settings_changes import assert_ended, assert_live

USER = f"oidc:{PROVIDER}#42"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """An OpenID Connect provider that vouches for the users of two clients."""
    document = settings.model_dump(exclude_unset=True)
    document["identity_provider"] = {"type": "oidc", "issuer": PROVIDER, "client_id": "gateway"}
    document["allowed"] = {"users": ["alice"]}
    document["resources"]["time"]["scopes"] = {
        "read": {"description": "Read", "required": True},
        "write": {"description": "Write", "required": False},
        "admin": {"description": "Everything", "required": False, "allowed": {"groups": ["staff"]}},
    }
    document["resources"]["fetch"]["allowed"] = {"groups": ["staff"]}
    document["declared_clients"] = {
        "desktop": {"secret": True, "user_assertions": True, "title": "Desktop assistant"},
        "both": {"secret": True, "user_assertions": True, "redirect_uris": [REDIRECT]},
        "portal": {"secret": True, "redirect_uris": [REDIRECT]},
        "nightly": {"secret": True, "servers": ["time"]},
    }
    document["trusted_issuers"] = {
        "ci": {
            "issuer": PROVIDER,
            "audience": ISSUER,
            "subjects": ["repo:acme/app"],
            "jwks": {"keys": [jwk()]},
            "servers": ["time"],
        }
    }
    return Settings.model_validate(document)


@pytest.fixture
def provider(oauth: OAuthTestClient, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made = StandIn()
    monkeypatch.setattr(requests.Session, "get_adapter", lambda _session, url: made)
    return made


def claims_of_assertion(**claims: Any) -> dict[str, Any]:
    """Return the claims of an ID-JAG; None leaves one out."""
    now = int(time.time())
    usual = {
        "iss": PROVIDER,
        "sub": "42",
        "aud": ISSUER,
        "resource": RESOURCE,
        "client_id": "desktop",
        "jti": str(uuid.uuid4()),
        "exp": now + 300,
        "iat": now,
        "preferred_username": "alice",
    }
    return {name: value for name, value in (usual | claims).items() if value is not None}


def sign(claims: dict[str, Any], *, key: Any = KEY, **headers: Any) -> str:
    header = {"typ": "oauth-id-jag+jwt", "kid": "1"} | headers
    return jwt.api_jws.PyJWS().encode(json.dumps(claims).encode(), key, "RS256", headers=header)


def id_jag(**claims: Any) -> str:
    return sign(claims_of_assertion(**claims))


def exchange(oauth: OAuthTestClient, assertion: str, *, client_id: str = "desktop", **form: str) -> TestResponse:
    secret = {"client_id": client_id, "client_secret": declared_secret(client_id)}
    return oauth.token(grant_type=JWT_BEARER_GRANT, assertion=assertion, **(secret | form))


# What a user gets


def test_a_user_gets_a_token_without_a_page(oauth: OAuthTestClient, provider: StandIn, audit_log: AuditLog) -> None:
    response = exchange(oauth, id_jag())
    claims = claims_of(response)
    assert (claims["sub"], claims["name"], claims["client_id"]) == (USER, "alice", "desktop")
    assert (claims["aud"], claims["scope"]) == (RESOURCE, "read")
    assert "refresh_token" not in response.get_json()
    expected = {"user": USER, "name": "alice", "client": "desktop", "resource": RESOURCE}
    for event in (Event.LOGIN_ACCEPTED, Event.TOKEN_ISSUED):
        (entry,) = audit_log.of(event)
        assert entry.items() >= expected.items()
    assert [provider.asked_for(path) for path in ("/.well-known/openid-configuration", "/jwks", "/userinfo")] == [
        1,
        1,
        0,
    ]


def test_the_user_is_the_one_who_logs_in_with_a_browser(oauth: OAuthTestClient, provider: StandIn) -> None:
    exchange(oauth, id_jag())
    pins = oauth.store.pins.find(f"oidc:{PROVIDER}")
    assert pins == {"alice": USER}
    assert claims_of(exchange(oauth, id_jag(preferred_username=None)))["sub"] == USER, "known by the pin of the login"
    assert error_of(exchange(oauth, id_jag(sub="43"))) == "invalid_grant", "another user with the same name"


@pytest.mark.parametrize(
    ("claims", "resource"),
    [
        ({"preferred_username": "mallory"}, RESOURCE),
        ({"preferred_username": None}, RESOURCE),
        ({"preferred_username": ["alice"]}, RESOURCE),
        ({"sub": "alice", "preferred_username": None}, RESOURCE),
        ({}, FETCH),
        ({"groups": ["other"]}, FETCH),
        ({"groups": {"staff": True}}, FETCH),
    ],
)
def test_a_user_who_is_on_no_allow_list_is_refused(
    oauth: OAuthTestClient, provider: StandIn, audit_log: AuditLog, claims: dict[str, Any], resource: str
) -> None:
    assert error_of(exchange(oauth, id_jag(resource=resource, **claims))) == "invalid_grant"
    (refused,) = audit_log.of(Event.LOGIN_REFUSED)
    assert refused["user"].startswith(f"oidc:{PROVIDER}#")
    assert list(oauth.store.queries.grants()) == []


def test_groups_in_the_assertion_decide(oauth: OAuthTestClient, provider: StandIn) -> None:
    assert claims_of(exchange(oauth, id_jag(resource=FETCH, groups=["staff"])))["aud"] == FETCH
    assert claims_of(exchange(oauth, id_jag(groups=["staff"]), scope="read admin"))["scope"] == "read admin"
    assert claims_of(exchange(oauth, id_jag(), scope="read admin"))["scope"] == "read"


@pytest.mark.parametrize(
    ("claimed", "requested", "granted"),
    [
        (None, None, "read"),
        (None, "write", "read write"),
        ("read write", None, "read write"),
        ("read write", "read", "read"),
        ("read", "read write", "read"),
        ("read admin", None, "read"),
        ("read unknown openid", None, "read"),
    ],
)
def test_scopes_are_those_of_provider_request_and_allow_lists_together(
    oauth: OAuthTestClient, provider: StandIn, claimed: str | None, requested: str | None, granted: str
) -> None:
    form = {} if requested is None else {"scope": requested}
    assert claims_of(exchange(oauth, id_jag(scope=claimed), **form))["scope"] == granted


@pytest.mark.parametrize(("claimed", "requested"), [("write", None), ("", None), ("unknown", None), ("read", "write")])
def test_a_scope_that_the_provider_has_not_approved_is_not_granted(
    oauth: OAuthTestClient, provider: StandIn, claimed: str, requested: str | None
) -> None:
    form = {} if requested is None else {"scope": requested}
    assert error_of(exchange(oauth, id_jag(scope=claimed), **form)) == "invalid_scope"


def test_grants_are_one_for_each_client_and_visible_and_ended_on_the_account_page(
    oauth: OAuthTestClient, provider: StandIn
) -> None:
    first, second = claims_of(exchange(oauth, id_jag())), claims_of(exchange(oauth, id_jag()))
    assert first["sid"] == second["sid"]
    with oauth.app.test_request_context(base_url=ISSUER):
        response = oauth.app.make_response("")
        profile = Profile(subject=USER, login="alice")
        start_session(cast(Parts, oauth.app.extensions["gateway"]), response, profile)
    name, value = response.headers["Set-Cookie"].partition(";")[0].split("=", 1)
    oauth.browser.set_cookie(name, value, domain="auth.example.com", secure=True)
    page = oauth.browser.get("/account", base_url=ISSUER)
    assert "Desktop assistant" in page.text
    assert "lets it act for you, without a page here" in page.text
    oauth.revocation.revoke_access(USER, by="user", client_id="desktop", resource_url=RESOURCE, redirect="")
    assert oauth.store.grants.find(first["sid"]) is None
    assert "Desktop assistant" not in oauth.browser.get("/account", base_url=ISSUER).text


def test_a_user_who_was_taken_off_the_list_gets_nothing_more(oauth: OAuthTestClient, provider: StandIn) -> None:
    claims_of(exchange(oauth, id_jag()))
    oauth.reload(allowed={"users": ["bob"]})
    assert error_of(exchange(oauth, id_jag())) == "invalid_grant"


@pytest.mark.parametrize("method", ["client_secret_post", "client_secret_basic"])
def test_the_python_sdk_gets_a_token(oauth: OAuthTestClient, provider: StandIn, method: Any) -> None:
    asked = []

    async def obtain(audience: str, resource: str) -> str:
        asked.append((audience, resource))
        return id_jag(aud=audience, resource=resource)

    client = IdentityAssertionOAuthProvider(
        RESOURCE,
        Memory(),
        "desktop",
        declared_secret("desktop"),
        ISSUER,
        obtain,
        token_endpoint_auth_method=method,
    )
    assert subject_of(authorization_of(oauth, cast(OAuthClientProvider, client))) == USER
    assert asked == [(ISSUER, RESOURCE)]


def test_metadata_offers_the_profile_only_where_a_client_may_use_it(oauth: OAuthTestClient, provider: StandIn) -> None:
    def document() -> dict[str, Any]:
        found: dict[str, Any] = oauth.browser.get("/.well-known/oauth-authorization-server", base_url=ISSUER).get_json()
        return found

    assert document()["authorization_grant_profiles_supported"] == [ID_JAG_PROFILE]
    assert JWT_BEARER_GRANT in document()["grant_types_supported"]
    oauth.reload(declared_clients={"desktop": None, "both": None})
    assert "authorization_grant_profiles_supported" not in document()
    assert JWT_BEARER_GRANT in document()["grant_types_supported"], "workloads use it still"
    assert error_of(exchange(oauth, id_jag())) == "unauthorized_client"
    oauth.reload(trusted_issuers=None)
    assert JWT_BEARER_GRANT not in document()["grant_types_supported"]
    assert error_of(exchange(oauth, id_jag())) == "unsupported_grant_type"


# Assertions that are not for this client and this gateway now


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example.com"},
        {"iss": f"{PROVIDER}/"},
        {"iss": "https://login.example.com/other-tenant"},
        {"iss": None},
        {"iss": [PROVIDER]},
        {"aud": "https://other.example.com"},
        {"aud": "gateway"},
        {"aud": f"{ISSUER}/token"},
        {"aud": RESOURCE},
        {"aud": [ISSUER, "https://other.example.com"]},
        {"aud": []},
        {"aud": None},
        {"client_id": "both"},
        {"client_id": "gateway"},
        {"client_id": None},
        {"client_id": ["desktop"]},
        {"sub": None},
        {"sub": ""},
        {"sub": 42},
        {"sub": "4\n2"},
        {"sub": "x" * 300},
        {"jti": None},
        {"jti": ""},
        {"jti": 1},
        {"jti": "x" * 257},
        {"exp": None},
        {"exp": "4102444800"},
        {"exp": float("nan")},
        {"exp": float("inf")},
        {"iat": None},
        {"iat": float("nan")},
        {"resource": None},
        {"resource": [RESOURCE]},
        {"resource": 1},
        {"scope": ["read"]},
        {"scope": 1},
    ],
)
def test_an_assertion_with_other_claims_is_refused(
    oauth: OAuthTestClient, provider: StandIn, claims: dict[str, Any]
) -> None:
    assert error_of(exchange(oauth, id_jag(**claims))) == "invalid_grant"


@pytest.mark.parametrize("times", [{"exp": -30}, {"exp": 3 * 3600}, {"iat": -3 * 3600}, {"iat": 120}, {"nbf": 120}])
def test_an_assertion_of_another_time_is_refused(
    oauth: OAuthTestClient, provider: StandIn, times: dict[str, int]
) -> None:
    now = int(time.time())
    moved: dict[str, Any] = {name: now + seconds for name, seconds in times.items()}
    assert error_of(exchange(oauth, id_jag(**moved))) == "invalid_grant"


@pytest.mark.parametrize(
    ("claims", "form"),
    [
        ({"resource": "https://evil.example/mcp"}, {}),
        ({"resource": ""}, {}),
        ({"resource": ISSUER}, {}),
        ({}, {"resource": FETCH}),
        ({"resource": FETCH, "groups": ["staff"]}, {"resource": RESOURCE}),
    ],
)
def test_an_assertion_for_another_server_is_refused(
    oauth: OAuthTestClient, provider: StandIn, claims: dict[str, Any], form: dict[str, str]
) -> None:
    assert error_of(exchange(oauth, id_jag(**claims), **form)) == "invalid_target"


@pytest.mark.parametrize("typ", ["JWT", None, "at+jwt", "OAUTH-ID-JAG+JWT", "application/oauth-id-jag+jwt", 1])
def test_an_id_token_or_another_token_of_the_provider_is_no_assertion(
    oauth: OAuthTestClient, provider: StandIn, typ: Any
) -> None:
    token = sign(claims_of_assertion(), typ=typ)
    assert error_of(exchange(oauth, token)) == "unauthorized_client"
    without_client = oauth.token(grant_type=JWT_BEARER_GRANT, assertion=token)
    assert error_of(without_client) == "invalid_grant"


def test_a_workloads_token_and_an_id_jag_do_not_stand_for_each_other(oauth: OAuthTestClient, provider: StandIn) -> None:
    workload = claims_of_assertion(sub="repo:acme/app")
    accepted = oauth.token(grant_type=JWT_BEARER_GRANT, assertion=sign(workload, typ="JWT"))
    assert claims_of(accepted)["sub"] == "workload:ci:repo:acme/app"
    workload = claims_of_assertion(sub="repo:acme/app")
    assert error_of(exchange(oauth, sign(workload, typ="JWT"))) == "unauthorized_client"
    as_workload = oauth.token(grant_type=JWT_BEARER_GRANT, assertion=sign(workload))
    assert (as_workload.status_code, error_of(as_workload)) == (401, "invalid_client")
    oauth.reload(declared_clients={"desktop": None, "both": None})
    assert error_of(oauth.token(grant_type=JWT_BEARER_GRANT, assertion=sign(workload))) == "invalid_grant"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"kid": "other"},
        {"kid": 1},
        {"jwk": {**RSAAlgorithm.to_jwk(OTHER_KEY.public_key(), as_dict=True), "kid": "1"}},
        {"jku": f"{PROVIDER}/evil"},
        {"x5u": f"{PROVIDER}/evil"},
    ],
)
def test_an_assertion_that_is_signed_with_another_key_is_refused(
    oauth: OAuthTestClient, provider: StandIn, headers: dict[str, Any]
) -> None:
    provider.answers["/tenant/evil"] = (200, {"keys": [jwk(OTHER_KEY)]})
    text = {"alg": "RS256", "typ": "oauth-id-jag+jwt", "kid": "1", **headers}
    parts = [json.dumps(text).encode(), json.dumps(claims_of_assertion()).encode()]
    unsigned = ".".join(base64url_encode(part).decode() for part in parts)
    signature = RSAAlgorithm(RSAAlgorithm.SHA256).sign(unsigned.encode(), OTHER_KEY)
    assert error_of(exchange(oauth, f"{unsigned}.{base64url_encode(signature).decode()}")) == "invalid_grant"
    assert provider.asked_for("/evil") == 0


@pytest.mark.parametrize("part", [0, 1])
def test_a_token_that_is_nested_too_deeply_to_be_read_is_refused(
    oauth: OAuthTestClient, provider: StandIn, part: int
) -> None:
    parts = ['{"alg":"RS256","typ":"oauth-id-jag+jwt"}', json.dumps(claims_of_assertion())]
    parts[part] = '{"typ":"oauth-id-jag+jwt","iss":' + "[" * 5000 + "]" * 5000 + "}"
    unsigned = ".".join(base64url_encode(each.encode()).decode() for each in parts)
    assert error_of(exchange(oauth, f"{unsigned}.AAAA")) == "invalid_grant"


def test_an_assertion_without_a_signature_or_with_a_symmetric_one_is_refused(
    oauth: OAuthTestClient, provider: StandIn
) -> None:
    public_key = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for algorithm in ("none", "None", "HS256", "ES256", "", None, 1):
        header = {"alg": algorithm, "typ": "oauth-id-jag+jwt", "kid": "1"}
        parts = [json.dumps(header).encode(), json.dumps(claims_of_assertion()).encode()]
        unsigned = ".".join(base64url_encode(part).decode() for part in parts)
        signature = base64url_encode(HMACAlgorithm(HMACAlgorithm.SHA256).sign(unsigned.encode(), public_key)).decode()
        for each in ("", signature):
            assert error_of(exchange(oauth, f"{unsigned}.{each}")) == "invalid_grant"


def test_an_assertion_with_a_critical_header_is_refused(oauth: OAuthTestClient, provider: StandIn) -> None:
    assertion = sign(claims_of_assertion(), crit=["evil"], evil=1)
    assert error_of(exchange(oauth, assertion)) == "invalid_grant"


def test_an_assertion_works_once(oauth: OAuthTestClient, provider: StandIn) -> None:
    assertion = id_jag()
    claims_of(exchange(oauth, assertion))
    assert "used before" in exchange(oauth, assertion).text
    assert error_of(exchange(oauth, assertion)) == "invalid_grant"


def test_a_refused_request_does_not_use_an_assertion_up(oauth: OAuthTestClient, provider: StandIn) -> None:
    assertion = id_jag()
    assert error_of(exchange(oauth, assertion, resource=FETCH)) == "invalid_target"
    assert error_of(exchange(oauth, assertion, scope="unknown")) == "invalid_scope"
    claims_of(exchange(oauth, assertion))


def test_a_user_who_has_not_provided_what_the_server_needs_has_to_log_in_with_a_browser(
    oauth: OAuthTestClient, provider: StandIn, audit_log: AuditLog
) -> None:
    oauth.reload(
        resources={"time": {"user_credentials": {"TOKEN": {"label": "Token"}}}},
        declared_clients={"nightly": None},
        trusted_issuers={"ci": None},
    )
    assertion = id_jag()
    refused = exchange(oauth, assertion)
    assert error_of(refused) == "invalid_grant"
    assert "log in once with a browser" in refused.get_json()["error_description"]
    (entry,) = audit_log.of(Event.LOGIN_REFUSED)
    assert (entry["user"], entry["reason"]) == (USER, "a credential is missing")
    parts = cast(Parts, oauth.app.extensions["gateway"])
    parts.user_credentials.put("time", USER, {"TOKEN": Secret(value="x")})
    assert claims_of(exchange(oauth, assertion))["sub"] == USER


def test_of_two_workers_at_once_one_accepts_an_assertion(oauth: OAuthTestClient, provider: StandIn) -> None:
    workers = [oauth.make_app(oauth.settings) for _ in range(4)]
    secret = {"client_id": "desktop", "client_secret": declared_secret("desktop")}
    for _ in range(5):
        form = {"grant_type": JWT_BEARER_GRANT, "assertion": id_jag(), **secret}
        with ThreadPoolExecutor(len(workers)) as pool:
            sent = [pool.submit(each.test_client().post, "/token", data=form, base_url=ISSUER) for each in workers]
            assert sorted(each.result().status_code for each in sent) == [200, 400, 400, 400]


# Clients


def test_a_client_must_authenticate_as_the_one_that_the_assertion_names(
    oauth: OAuthTestClient, provider: StandIn
) -> None:
    for form in ({"client_id": "desktop"}, {"client_id": "desktop", "client_secret": "x" * 40}, {}, {"client_id": "x"}):
        response = oauth.token(grant_type=JWT_BEARER_GRANT, assertion=id_jag(), **form)
        assert (response.status_code, error_of(response)) == (401, "invalid_client")
    assert error_of(exchange(oauth, id_jag(), client_id="both")) == "invalid_grant"
    assert claims_of(exchange(oauth, id_jag(client_id="both"), client_id="both"))["client_id"] == "both"


def test_only_clients_that_the_operator_has_declared_for_it_may_use_it(
    oauth: OAuthTestClient, provider: StandIn
) -> None:
    for client_id in ("portal", "nightly"):
        assert error_of(exchange(oauth, id_jag(client_id=client_id), client_id=client_id)) == "unauthorized_client"
    registered = oauth.register(
        grant_types=["authorization_code", JWT_BEARER_GRANT], token_endpoint_auth_method="client_secret_post"
    )
    secret = {"client_id": registered["client_id"], "client_secret": registered["client_secret"]}
    response = oauth.token(grant_type=JWT_BEARER_GRANT, assertion=id_jag(client_id=registered["client_id"]), **secret)
    assert error_of(response) == "unauthorized_client"
    public = oauth.register()["client_id"]
    response = oauth.token(grant_type=JWT_BEARER_GRANT, assertion=id_jag(client_id=public), client_id=public)
    assert error_of(response) == "unauthorized_client"


def test_a_client_for_assertions_can_not_log_users_in_or_act_for_itself(
    oauth: OAuthTestClient, provider: StandIn
) -> None:
    for redirect_uri in (REDIRECT, None):
        assert oauth.authorize("desktop", redirect_uri=redirect_uri).status_code == 400
    response = oauth.token_with_basic("desktop", declared_secret("desktop"), grant_type="client_credentials")
    assert error_of(response) == "unauthorized_client"


def test_without_the_providers_keys_nothing_is_granted(oauth: OAuthTestClient, provider: StandIn) -> None:
    sound = provider.answers["/tenant/jwks"]
    assertion = id_jag()
    useless: list[tuple[int, Any]] = [
        (500, {}),
        (200, {"keys": []}),
        (200, b"x"),
        (200, {"keys": [{"kty": "oct", "k": "c2Vj"}]}),
    ]
    for answer in useless:
        provider.answers["/tenant/jwks"] = answer
        oauth.reload()
        assert exchange(oauth, assertion).status_code == 503
    provider.answers["/tenant/jwks"] = sound
    oauth.reload()
    claims_of(exchange(oauth, assertion))


@pytest.mark.parametrize(
    ("change", "is_live"),
    [
        ({"title": "Renamed"}, True),
        ({"redirect_uris": []}, True),
        ({"user_assertions": False}, False),
        ({"secret": False, "jwks": {"keys": [jwk()]}}, False),
        (None, False),
    ],
)
def test_what_a_client_got_by_assertions_ends_when_the_settings_let_it_have_that_no_more(
    oauth: OAuthTestClient, provider: StandIn, change: dict[str, Any] | None, is_live: bool
) -> None:
    token = exchange(oauth, id_jag(client_id="both"), client_id="both").get_json()["access_token"]
    assert_live(oauth, token)
    oauth.reload(declared_clients={"both": change})
    (assert_live if is_live else assert_ended)(oauth, token)


def test_an_assertion_whose_key_may_be_new_is_to_be_sent_again(oauth: OAuthTestClient, provider: StandIn) -> None:
    claims_of(exchange(oauth, id_jag()))
    response = exchange(oauth, sign(claims_of_assertion(), key=OTHER_KEY, kid="2"))
    assert (response.status_code, response.get_json()["error"]) == (503, "temporarily_unavailable")
    assert 0 < int(response.headers["Retry-After"]) <= RETRY_SECONDS
    assert provider.asked_for("/jwks") == 1


def test_a_provider_is_not_asked_about_an_assertion_of_another(oauth: OAuthTestClient, provider: StandIn) -> None:
    exchange(oauth, id_jag(iss="https://evil.example.com"))
    assert provider.asked == []


@pytest.mark.parametrize(
    ("client", "text"),
    [
        ({"user_assertions": True}, "user_assertions need authentication"),
        ({"user_assertions": True, "redirect_uris": [REDIRECT]}, "user_assertions need authentication"),
        ({"user_assertions": True, "secret": True, "servers": ["time"]}, "must have either servers"),
        ({"secret": True}, "must have either servers"),
    ],
)
def test_a_declaration_that_is_not_safe_is_refused(settings: Settings, client: dict[str, Any], text: str) -> None:
    document = settings.model_dump(exclude_unset=True)
    document["declared_clients"]["desktop"] = client
    with pytest.raises(ValidationError, match=text):
        Settings.model_validate(document)


def test_github_vouches_for_nobody(settings: Settings) -> None:
    document = settings.model_dump(exclude_unset=True)
    document["identity_provider"] = {"type": "github", "client_id": "app"}
    document["resources"]["fetch"]["allowed"] = document["resources"]["time"]["scopes"]["admin"]["allowed"] = {}
    with pytest.raises(ValidationError, match="only an OpenID Connect provider vouches for its users"):
        Settings.model_validate(document)
