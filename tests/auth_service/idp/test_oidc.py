"""OpenID Connect: what is accepted from a provider, and what is refused from an attacker."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from requests.adapters import BaseAdapter
from urllib3 import HTTPResponse

from auth_service.idp.oidc import CACHE_SECONDS, MAX_STALE_SECONDS, RETRY_SECONDS, OidcProvider
from auth_service.protocol.access import Profile
from auth_service.protocol.errors import LoginError, ProviderRefusal, ServiceUnavailable, UnknownKey
from auth_service.settings import OpenIDConnect

ISSUER = "https://login.example.com/tenant"
CALLBACK = "https://auth.example.com/callback"
KEY = rsa.generate_private_key(65537, 2048)
OTHER_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
VERIFIER = "v" * 64


def b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


CHALLENGE = b64(hashlib.sha256(VERIFIER.encode()).digest())


def jwk(key: rsa.RSAPrivateKey = KEY, kid: str = "1") -> dict[str, Any]:
    return {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}


class StandIn(BaseAdapter):
    """A provider that answers as a test wants. `answers` maps paths to a status and a document or bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[requests.PreparedRequest] = []
        self.metadata: dict[str, Any] = {
            "issuer": ISSUER,
            "authorization_endpoint": f"{ISSUER}/authorize?tenant=1",
            "token_endpoint": f"{ISSUER}/token",
            "jwks_uri": f"{ISSUER}/jwks",
            "userinfo_endpoint": f"{ISSUER}/userinfo",
            "scopes_supported": ["openid", "offline_access"],
        }
        self.answers: dict[str, tuple[int, Any]] = {
            "/tenant/.well-known/openid-configuration": (200, self.metadata),
            "/tenant/jwks": (200, {"keys": [jwk()]}),
            "/tenant/userinfo": (200, {"sub": "42", "preferred_username": "alice", "groups": ["staff"]}),
        }
        self.nonce = ""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        self.asked.append(request)
        status, document = self.answers[urlsplit(request.url or "").path]
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        response = requests.Response()
        response.status_code = status
        response.raw = HTTPResponse(BytesIO(body), status=status, preload_content=False)
        response.request = request
        return response

    def close(self) -> None:
        """Nothing is open."""

    def issue(self, id_token: str | None, **members: Any) -> None:
        """Have the token endpoint answer with that."""
        issued = {"access_token": "at", "refresh_token": "rt-1", "token_type": "Bearer", "id_token": id_token}
        self.answers["/tenant/token"] = (200, {n: v for n, v in (issued | members).items() if v is not None})

    def asked_for(self, path: str) -> int:
        """How often a path was asked for."""
        return sum(urlsplit(request.url or "").path == f"/tenant{path}" for request in self.asked)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made = StandIn()
    monkeypatch.setattr(requests.Session, "get_adapter", lambda _session, url: made)
    return made


def make_provider(stand_in: StandIn, **changes: Any) -> OidcProvider:
    settings = OpenIDConnect.model_validate({"type": "oidc", "issuer": ISSUER, "client_id": "gateway"} | changes)
    provider = OidcProvider(
        settings, client_secret="secret", callback_url=CALLBACK, groups=frozenset({"staff", "admins"})
    )
    query = dict(parse_qsl(urlsplit(provider.authorization_url(state="s", code_challenge=CHALLENGE)).query))
    stand_in.nonce = query["nonce"]
    return provider


@pytest.fixture
def provider(stand_in: StandIn) -> OidcProvider:
    return make_provider(stand_in)


class Clock:
    """The time by which the provider's keys and metadata age."""

    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("auth_service.idp.oidc.time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def id_token(
    stand_in: StandIn, *, key: Any = KEY, algorithm: str = "RS256", kid: str | None = "1", **changes: Any
) -> str:
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "sub": "42",
        "aud": "gateway",
        "exp": now + 60,
        "iat": now,
        "nonce": stand_in.nonce,
        "preferred_username": "alice",
        "groups": ["staff", "other"],
    } | changes
    headers = {} if kid is None else {"kid": kid}
    present = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(present, key, algorithm=algorithm, headers=headers)


def finish(provider: OidcProvider) -> Any:
    return provider.finish_login(code="code", code_verifier=VERIFIER)


def identify(provider: OidcProvider, token: str) -> tuple[Profile, list[str]]:
    """Return who a token belongs to, and which tokens took its place."""
    replaced: list[str] = []
    return provider.identify(token, replaced=replaced.append), replaced


def test_the_browser_is_sent_to_the_discovered_endpoint_with_state_nonce_and_challenge(stand_in: StandIn) -> None:
    provider = make_provider(stand_in, authorization_parameters={"prompt": "consent"})
    url = provider.authorization_url(state="s", code_challenge=CHALLENGE)
    assert url.startswith(f"{ISSUER}/authorize?tenant=1&")
    query = dict(parse_qsl(urlsplit(url).query))
    assert query.pop("nonce")
    assert query == {
        "tenant": "1",
        "prompt": "consent",
        "response_type": "code",
        "client_id": "gateway",
        "redirect_uri": CALLBACK,
        "scope": "openid profile email offline_access",
        "state": "s",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
    }
    other = provider.authorization_url(state="s", code_challenge="other")
    assert dict(parse_qsl(urlsplit(other).query))["nonce"] != stand_in.nonce


def test_offline_access_is_asked_for_only_where_the_provider_offers_it(stand_in: StandIn) -> None:
    del stand_in.metadata["scopes_supported"]
    assert "offline_access" not in make_provider(stand_in).authorization_url(state="s", code_challenge="c")


def test_a_valid_id_token_names_the_user_and_the_configured_groups(stand_in: StandIn, provider: OidcProvider) -> None:
    stand_in.issue(id_token(stand_in))
    login = finish(provider)
    assert login.profile.subject == f"oidc:{ISSUER}#42"
    assert login.profile.login == "alice"
    assert login.profile.groups == {"staff"}
    assert login.token == "rt-1"
    assert stand_in.asked_for("/userinfo") == 0
    sent = dict(parse_qsl(str(stand_in.asked[-2].body)))
    assert (sent["code_verifier"], sent["redirect_uri"]) == (VERIFIER, CALLBACK)


@pytest.mark.parametrize("changes", [{"aud": ["gateway"]}, {"aud": ["gateway", "api"], "azp": "gateway"}])
def test_an_audience_may_be_a_list_where_the_authorized_party_is_us(
    stand_in: StandIn, provider: OidcProvider, changes: dict[str, Any]
) -> None:
    stand_in.issue(id_token(stand_in, **changes))
    assert finish(provider).profile.login == "alice"


def hs256_with_public_key(stand_in: StandIn) -> str:
    header = b64(json.dumps({"alg": "HS256", "kid": "1"}).encode())
    signed = f"{header}.{id_token(stand_in).split('.')[1]}"
    return f"{signed}.{b64(hmac.digest(json.dumps(jwk()).encode(), signed.encode(), 'sha256'))}"


@pytest.mark.parametrize(
    "make",
    [
        hs256_with_public_key,
        lambda s: id_token(s, key="secret" * 8, algorithm="HS256"),
        lambda s: id_token(s, key=None, algorithm="none"),
        lambda s: id_token(s, key=OTHER_KEY),
        lambda s: id_token(s, key=EC_KEY, algorithm="ES256"),
        lambda s: id_token(s, kid="2"),
        lambda s: id_token(s, iss="https://login.example.com/other"),
        lambda s: id_token(s, iss=f"{ISSUER}/"),
        lambda s: id_token(s, iss=None),
        lambda s: id_token(s, aud="other"),
        lambda s: id_token(s, aud=None),
        lambda s: id_token(s, aud=[]),
        lambda s: id_token(s, aud=["gateway", "api"]),
        lambda s: id_token(s, aud=["gateway", "api"], azp="api"),
        lambda s: id_token(s, azp="other"),
        lambda s: id_token(s, exp=int(time.time()) - 60),
        lambda s: id_token(s, exp=None),
        lambda s: id_token(s, iat=int(time.time()) + 600),
        lambda s: id_token(s, iat=None),
        lambda s: id_token(s, nbf=int(time.time()) + 600),
        lambda s: id_token(s, nonce="other"),
        lambda s: id_token(s, nonce=None),
        lambda s: id_token(s, nonce=["x"]),
        lambda s: id_token(s, sub=None),
        lambda s: id_token(s, sub=""),
        lambda s: id_token(s, sub="x" * 300),
        lambda s: id_token(s, sub="a\nb"),
        lambda s: id_token(s)[:-4] + "AAAA",
        lambda _: "nonsense",
        lambda _: None,
    ],
)
def test_an_id_token_that_is_wrong_in_any_way_logs_nobody_in(
    stand_in: StandIn, provider: OidcProvider, make: Callable[[StandIn], str | None]
) -> None:
    stand_in.issue(make(stand_in))
    with pytest.raises(LoginError):
        finish(provider)


def test_an_id_token_without_a_kid_is_verified_where_one_key_fits(stand_in: StandIn, provider: OidcProvider) -> None:
    stand_in.issue(id_token(stand_in, kid=None))
    assert finish(provider).profile.login == "alice"
    stand_in.answers["/tenant/jwks"] = (200, {"keys": [jwk(), jwk(OTHER_KEY, "2")]})
    with pytest.raises(LoginError):
        finish(make_provider(stand_in))


def refusal_of(provider: OidcProvider) -> LoginError | ServiceUnavailable:
    with pytest.raises((LoginError, ServiceUnavailable)) as caught:
        finish(provider)
    assert isinstance(caught.value, LoginError | ServiceUnavailable)
    return caught.value


def test_a_rotated_key_is_found_and_one_that_may_be_rotated_is_not_refused(
    clock: Clock, stand_in: StandIn, provider: OidcProvider
) -> None:
    stand_in.issue(id_token(stand_in))
    finish(provider)
    clock.now += 10.5
    rotated = {"keys": [{**ECAlgorithm.to_jwk(EC_KEY.public_key(), as_dict=True), "kid": "2", "alg": "ES256"}]}
    stand_in.answers["/tenant/jwks"] = (200, rotated)
    stand_in.issue(id_token(stand_in, key=EC_KEY, algorithm="ES256", kid="2"))
    refusal = refusal_of(provider)
    assert isinstance(refusal, UnknownKey)
    assert refusal.retry_after == RETRY_SECONDS - 10
    assert stand_in.asked_for("/jwks") == 1
    clock.now += refusal.retry_after
    assert finish(provider).profile.login == "alice"
    assert stand_in.asked_for("/jwks") == 2


def test_an_unknown_key_has_the_set_fetched_once_in_a_while_and_is_refused_then(
    clock: Clock, stand_in: StandIn, provider: OidcProvider
) -> None:
    for fetches in (1, 2):
        stand_in.issue(id_token(stand_in, kid="unknown"))
        assert isinstance(refusal_of(provider), LoginError)
        for number in range(5):
            stand_in.issue(id_token(stand_in, kid=f"unknown-{number}"))
            assert isinstance(refusal_of(provider), UnknownKey)
        assert stand_in.asked_for("/jwks") == fetches
        clock.now += RETRY_SECONDS


def test_a_known_key_with_another_algorithm_is_refused_at_once(
    clock: Clock, stand_in: StandIn, provider: OidcProvider
) -> None:
    stand_in.answers["/tenant/jwks"] = (200, {"keys": [{**jwk(), "alg": "RS256"}]})
    for _ in range(2):
        stand_in.issue(id_token(stand_in, algorithm="PS256"))
        assert isinstance(refusal_of(provider), LoginError)
    assert stand_in.asked_for("/jwks") == 1
    clock.now += RETRY_SECONDS
    stand_in.answers["/tenant/jwks"] = (500, b"")
    assert isinstance(refusal_of(provider), LoginError)


def test_an_unknown_key_is_not_refused_while_the_set_cannot_be_fetched(
    clock: Clock, stand_in: StandIn, provider: OidcProvider
) -> None:
    stand_in.issue(id_token(stand_in))
    finish(provider)
    clock.now += RETRY_SECONDS
    stand_in.answers["/tenant/jwks"] = (500, b"")
    stand_in.issue(id_token(stand_in, kid="2"))
    assert isinstance(refusal_of(provider), ServiceUnavailable)


@pytest.mark.parametrize("path", ["jwks", ".well-known/openid-configuration"])
def test_keys_and_metadata_are_used_for_a_bounded_time_while_the_provider_is_out_of_reach(
    clock: Clock, stand_in: StandIn, provider: OidcProvider, path: str
) -> None:
    sound = stand_in.answers[f"/tenant/{path}"]
    stand_in.issue(id_token(stand_in))
    finish(provider)
    asked = stand_in.asked_for(f"/{path}")
    stand_in.answers[f"/tenant/{path}"] = (500, b"")
    clock.now += CACHE_SECONDS - 1
    assert finish(provider).profile.login == "alice"
    assert stand_in.asked_for(f"/{path}") == asked
    clock.now += 1
    for _ in range(3):
        assert finish(provider).profile.login == "alice", "the last good one stands in"
    assert stand_in.asked_for(f"/{path}") == asked + 1
    clock.now += MAX_STALE_SECONDS - CACHE_SECONDS
    for _ in range(3):
        assert isinstance(refusal_of(provider), ServiceUnavailable)
    assert stand_in.asked_for(f"/{path}") == asked + 2
    stand_in.answers[f"/tenant/{path}"] = sound
    clock.now += RETRY_SECONDS
    assert finish(provider).profile.login == "alice", "the provider is asked again soon"


def test_a_key_that_the_provider_has_withdrawn_is_not_used_once_the_keys_are_fetched_again(
    clock: Clock, stand_in: StandIn, provider: OidcProvider
) -> None:
    stand_in.issue(id_token(stand_in))
    finish(provider)
    stand_in.answers["/tenant/jwks"] = (200, {"keys": [jwk(OTHER_KEY, "2")]})
    clock.now += CACHE_SECONDS
    assert isinstance(refusal_of(provider), LoginError)


def test_missing_claims_are_asked_for_and_must_be_the_same_users(stand_in: StandIn, provider: OidcProvider) -> None:
    stand_in.issue(id_token(stand_in, preferred_username=None, groups=None))
    profile = finish(provider).profile
    assert profile.login == "alice"
    assert profile.groups == {"staff"}
    assert stand_in.asked[-1].headers["Authorization"] == "Bearer at"
    for userinfo in ({"sub": "43", "groups": ["admins"]}, {"groups": ["admins"]}, {"sub": 42}):
        stand_in.answers["/tenant/userinfo"] = (200, userinfo)
        with pytest.raises(LoginError):
            finish(provider)
    stand_in.answers["/tenant/userinfo"] = (401, {})
    with pytest.raises(LoginError):
        finish(provider)
    stand_in.answers["/tenant/userinfo"] = (200, b"eyJ")
    with pytest.raises(ServiceUnavailable):
        finish(provider)


@pytest.mark.parametrize(
    ("claims", "login"),
    [
        ({"email": "a@example.com", "email_verified": True}, "a@example.com"),
        ({"email": "a@example.com", "email_verified": False}, None),
        ({"email": "a@example.com", "email_verified": "true"}, None),
        ({"email": "a@example.com"}, None),
        ({"email": "a@example.com\n", "email_verified": True}, None),
        ({"email": ["a@example.com"], "email_verified": True}, None),
        ({"email": "", "email_verified": True}, None),
    ],
)
def test_an_unverified_address_is_no_name_and_nothing_that_a_user_chose_stands_in(
    stand_in: StandIn, claims: dict[str, Any], login: str | None
) -> None:
    provider = make_provider(stand_in, username_claim="email")
    stand_in.issue(id_token(stand_in, sub="boss@example.com", **claims))
    profile = finish(provider).profile
    assert profile.login == (login or f"oidc:{ISSUER}#boss@example.com")


@pytest.mark.parametrize(
    "name",
    [
        *(f"oidc:{ISSUER}#boss", f"OIDC:{ISSUER}#boss", "oidc:boss", "github:583231", "headless:boss"),
        *("gateway:boss", "client:nightly", "Client:nightly", "workload:ci:repo:acme/app:ref:refs/heads/main"),
    ],
)
def test_a_login_name_that_looks_like_a_users_id_is_not_used(
    stand_in: StandIn, provider: OidcProvider, name: str
) -> None:
    stand_in.issue(id_token(stand_in, preferred_username=name))
    assert finish(provider).profile.login == f"oidc:{ISSUER}#42"
    for used in ("boss:oidc", "clients", "acme:boss"):
        stand_in.issue(id_token(stand_in, preferred_username=used))
        assert finish(provider).profile.login == used


@pytest.mark.parametrize(
    ("claim", "groups"),
    [
        (["staff", "admins"], {"staff", "admins"}),
        ("staff", {"staff"}),
        (["Staff", "staff ", "st", "staff,admins"], set()),
        ([["staff"], {"staff": 1}, 7, None], set()),
        ({"staff": True}, set()),
        (7, set()),
        ([], set()),
    ],
)
def test_groups_are_matched_whole_and_letter_by_letter(
    stand_in: StandIn, provider: OidcProvider, claim: Any, groups: set[str]
) -> None:
    stand_in.issue(id_token(stand_in, groups=claim))
    assert finish(provider).profile.groups == groups


def test_asking_again_uses_the_refresh_token_and_keeps_the_new_one(stand_in: StandIn, provider: OidcProvider) -> None:
    stand_in.issue(id_token(stand_in, nonce=None, groups=["admins"]), refresh_token="rt-2")
    profile, kept = identify(provider, "rt-1")
    assert kept == ["rt-2"]
    assert profile.groups == {"admins"}
    assert dict(parse_qsl(str(stand_in.asked[-2].body))) == {"grant_type": "refresh_token", "refresh_token": "rt-1"}
    stand_in.issue(None, refresh_token=None)
    profile, kept = identify(provider, "rt-1")
    assert (kept, profile.login) == ([], "alice")


@pytest.mark.parametrize(
    "changes", [{"kid": "2", "key": OTHER_KEY}, {"key": OTHER_KEY}, {"iat": 1 << 40}, {"aud": "other"}]
)
def test_an_id_token_that_cannot_be_verified_ends_no_login_that_the_provider_prolongs(
    stand_in: StandIn, provider: OidcProvider, changes: dict[str, Any]
) -> None:
    stand_in.issue(id_token(stand_in))
    finish(provider)  # which fetches the keys: they are not fetched again at once
    stand_in.issue(id_token(stand_in, nonce=None, **changes), refresh_token="rt-2")
    kept: list[str] = []
    with pytest.raises(ServiceUnavailable):
        provider.identify("rt-1", replaced=kept.append)
    assert kept == ["rt-2"]


@pytest.mark.parametrize("trouble", ["/tenant/userinfo", "/tenant/jwks"])
def test_a_new_refresh_token_is_handed_over_although_asking_fails_after_that(
    stand_in: StandIn, provider: OidcProvider, trouble: str
) -> None:
    stand_in.issue(id_token(stand_in, nonce=None, preferred_username=None), refresh_token="rt-2")
    stand_in.answers[trouble] = (503, b"")
    kept: list[str] = []
    with pytest.raises(ServiceUnavailable):
        provider.identify("rt-1", replaced=kept.append)
    assert kept == ["rt-2"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((400, {"error": "invalid_grant"}), LoginError),
        ((400, {"error": "invalid_client"}), ServiceUnavailable),
        ((401, {"error": "invalid_client"}), ServiceUnavailable),
        ((400, {"error": ["invalid_grant"]}), ServiceUnavailable),
        ((400, b"nonsense"), ServiceUnavailable),
        ((302, {}), ServiceUnavailable),
        ((429, {}), ServiceUnavailable),
        ((500, {"error": "invalid_grant"}), ServiceUnavailable),
        ((200, b"nonsense"), ServiceUnavailable),
        ((200, []), ServiceUnavailable),
        ((200, b"[" * 100_000), ServiceUnavailable),
        ((200, b" " * ((1 << 20) + 1)), ServiceUnavailable),
    ],
)
def test_only_a_refusal_of_the_token_ends_a_login_and_everything_else_waits(
    stand_in: StandIn, provider: OidcProvider, answer: tuple[int, Any], error: type[Exception]
) -> None:
    stand_in.answers["/tenant/token"] = answer
    with pytest.raises(error):
        identify(provider, "rt-1")
    with pytest.raises(error):
        finish(provider)


@pytest.mark.parametrize("error", ["invalid_client", "unauthorized_client", "invalid_scope", "something_else"])
def test_what_the_operator_has_to_mend_is_told_apart_from_silence(
    stand_in: StandIn, provider: OidcProvider, caplog: pytest.LogCaptureFixture, error: str
) -> None:
    description = "AADSTS7000215: Invalid client secret provided."
    stand_in.answers["/tenant/token"] = (401, {"error": error, "error_description": description})
    for ask in (lambda: finish(provider), lambda: identify(provider, "rt-1")):
        caplog.clear()
        with pytest.raises(ProviderRefusal) as caught:
            ask()
        assert caught.value.operator is not None
        assert f"the error {error}: {description}" in caplog.text
    assert isinstance(provider.explain_refusal({"error": error}), ProviderRefusal)


@pytest.mark.parametrize("error", ["interaction_required", "login_required", "consent_required"])
def test_what_asks_for_the_user_ends_what_the_user_had(stand_in: StandIn, provider: OidcProvider, error: str) -> None:
    stand_in.answers["/tenant/token"] = (400, {"error": error})
    with pytest.raises(LoginError):
        identify(provider, "rt-1")
    refusal = provider.explain_refusal({"error": error})
    assert isinstance(refusal, ProviderRefusal)
    assert refusal.operator is None


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": f"{ISSUER}/"},
        {"issuer": "https://evil.example"},
        {"authorization_endpoint": "http://login.example.com/authorize"},
        {"token_endpoint": "http://127.0.0.1/token"},
        {"token_endpoint": "javascript:alert(1)"},
        {"token_endpoint": None},
        {"jwks_uri": "file:///etc/passwd"},
        {"userinfo_endpoint": "http://login.example.com/userinfo"},
        {"userinfo_endpoint": 7},
    ],
)
def test_a_discovery_document_of_another_issuer_or_with_an_unsafe_endpoint_is_refused(
    stand_in: StandIn, changes: dict[str, Any]
) -> None:
    stand_in.metadata |= changes
    with pytest.raises(ServiceUnavailable):
        make_provider(stand_in)


def test_discovery_is_tried_again_when_it_failed_and_remembered_when_it_did_not(stand_in: StandIn) -> None:
    path = "/tenant/.well-known/openid-configuration"
    good = stand_in.answers[path]
    stand_in.answers[path] = (503, b"")
    provider = OidcProvider(
        OpenIDConnect(type="oidc", issuer=ISSUER, client_id="gateway"),
        client_secret="secret",
        callback_url=CALLBACK,
        groups=frozenset(),
    )
    with pytest.raises(ServiceUnavailable):
        provider.authorization_url(state="s", code_challenge="c")
    stand_in.answers[path] = good
    for _ in range(3):
        provider.authorization_url(state="s", code_challenge="c")
    assert stand_in.asked_for("/.well-known/openid-configuration") == 2


def test_all_who_wait_for_a_discovery_that_fails_are_told_at_once(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "/tenant/.well-known/openid-configuration"
    provider = OidcProvider(
        OpenIDConnect(type="oidc", issuer=ISSUER, client_id="gateway"),
        client_secret="secret",
        callback_url=CALLBACK,
        groups=frozenset(),
    )
    good, callers = stand_in.answers[path], 8
    asking, everybody_asks = itertools.count(1), threading.Event()
    monotonic, send = time.monotonic, stand_in.send

    def count() -> float:
        now = monotonic()
        if next(asking) == callers:
            everybody_asks.set()
        return now

    def fail(request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        assert everybody_asks.wait(60)
        return send(request, *args, **kwargs)

    def is_told() -> bool:
        try:
            provider.authorization_url(state="s", code_challenge="c")
        except ServiceUnavailable as error:
            return error.dependency == provider.title
        return False

    monkeypatch.setattr("auth_service.idp.oidc.time", SimpleNamespace(monotonic=count))  # no other module's clock
    monkeypatch.setattr(stand_in, "send", fail)
    stand_in.answers[path] = (503, b"")
    with ThreadPoolExecutor(callers) as pool:
        assert all(pool.map(lambda _: is_told(), range(callers)))
    assert stand_in.asked_for("/.well-known/openid-configuration") == 1
    stand_in.answers[path] = good
    assert not is_told()


@pytest.mark.parametrize(
    ("methods", "is_basic"),
    [(None, True), (["client_secret_post"], False), (["client_secret_basic", "client_secret_post"], True), ("x", True)],
)
def test_the_secret_is_sent_as_the_provider_wants_it(stand_in: StandIn, methods: Any, is_basic: bool) -> None:
    if methods is not None:
        stand_in.metadata["token_endpoint_auth_methods_supported"] = methods
    provider = make_provider(stand_in)
    stand_in.issue(id_token(stand_in))
    finish(provider)
    sent = stand_in.asked[1]
    assert ("Authorization" in sent.headers) is is_basic
    assert ("client_secret=secret" in str(sent.body)) is not is_basic
