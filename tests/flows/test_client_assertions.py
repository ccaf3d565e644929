"""Clients that authenticate with their own key (`private_key_jwt`), with a client document or registered."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import jwt
import pytest
import time_machine
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from werkzeug.test import TestResponse

from auth_service.keys.signing_keys import CLOCK_SKEW_SECONDS
from auth_service.oauth.assertions import CLIENT_CLOCK_SECONDS
from auth_service.oauth.client_authentication import JWT_BEARER
from auth_service.oauth.client_lookup import KEY_SET_REFRESH_SECONDS
from auth_service.oauth.safe_fetch import SafeFetcher
from auth_service.settings import Settings
from tests.conftest import RedisServer
from tests.internet import Internet, internet, respond_json

from .conftest import ISSUER, REDIRECT, VERIFIER, OAuthTestClient

HOST = "chatgpt.example.com"
CLIENT = f"https://{HOST}/oauth/client.json"
PATH = "/oauth/client.json"
JWKS_PATH = "/oauth/jwks.json"
RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def rsa_jwk(key: rsa.RSAPrivateKey = RSA_KEY, kid: str = "1") -> dict[str, Any]:
    return {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig", "alg": "RS256"}


DOCUMENT: dict[str, Any] = {
    "client_id": CLIENT,
    "client_name": "ChatGPT",
    "redirect_uris": [REDIRECT],
    "grant_types": ["authorization_code", "refresh_token"],
    "response_types": ["code"],
    "token_endpoint_auth_method": "private_key_jwt",
    "token_endpoint_auth_methods_supported": ["none", "private_key_jwt"],
    "token_endpoint_auth_signing_alg": "RS256",
    "jwks_uri": f"https://{HOST}{JWKS_PATH}",
}
KEYS_ONLY = {**DOCUMENT, "token_endpoint_auth_methods_supported": ["private_key_jwt"]}


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Internet]:
    with internet(tmp_path, HOST) as made:
        made.pages[PATH] = respond_json(KEYS_ONLY)
        made.pages[JWKS_PATH] = respond_json({"keys": [rsa_jwk()]})
        yield made


@pytest.fixture
def fetcher(net: Internet) -> SafeFetcher:
    return net.fetcher(deadline=2)


def assertion(
    client_id: str = CLIENT,
    *,
    key: Any = RSA_KEY,
    algorithm: str = "RS256",
    headers: dict[str, Any] | None = None,
    **changes: Any,
) -> str:
    """Return an assertion as the client would make it, but for some changes; None leaves a claim out."""
    now = int(time.time())
    claims: dict[str, Any] = {"iss": client_id, "sub": client_id, "aud": ISSUER, "exp": now + 60, "iat": now}
    claims |= {"jti": f"jti-{time.perf_counter_ns()}"} | changes
    present = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(present, key, algorithm=algorithm, headers={"kid": "1"} if headers is None else headers)


def redeem(oauth: OAuthTestClient, code: str, unverified_assertion: str, **changes: str) -> TestResponse:
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "code_verifier": VERIFIER,
        "client_assertion_type": JWT_BEARER,
        "client_assertion": unverified_assertion,
    } | changes
    return oauth.token(**form)


@pytest.mark.parametrize("audience", [ISSUER, f"{ISSUER}/", f"{ISSUER}/token", [ISSUER]])
@pytest.mark.parametrize("with_client_id", [True, False])
def test_a_key_of_the_clients_key_set_proves_it(oauth: OAuthTestClient, audience: Any, with_client_id: bool) -> None:
    extra = {"client_id": CLIENT} if with_client_id else {}
    response = redeem(oauth, oauth.obtain_code(CLIENT), assertion(aud=audience), **extra)
    assert response.status_code == 200, response.text
    refreshed = oauth.token(
        grant_type="refresh_token",
        refresh_token=response.get_json()["refresh_token"],
        client_assertion_type=JWT_BEARER,
        client_assertion=assertion(),
    )
    assert refreshed.status_code == 200


def test_one_who_lists_none_as_well_may_use_either(oauth: OAuthTestClient, net: Internet) -> None:
    net.pages[PATH] = respond_json(DOCUMENT)
    assert redeem(oauth, oauth.obtain_code(CLIENT), assertion()).status_code == 200
    assert oauth.redeem(CLIENT, oauth.obtain_code(CLIENT)).status_code == 200


def test_one_who_does_not_list_none_must_prove_itself(oauth: OAuthTestClient) -> None:
    code = oauth.obtain_code(CLIENT)
    response = oauth.redeem(CLIENT, code)
    assert (response.status_code, response.get_json()["error"]) == (401, "invalid_client")
    assert oauth.redeem(CLIENT, code, client_secret="x").status_code == 401
    assert redeem(oauth, code, assertion()).status_code == 200


def _hmac_with_public_key() -> str:
    """The oldest trick: a signature by HMAC with what is public."""
    claims = assertion().split(".")[1]
    signed = f"{_encode({'alg': 'HS256', 'kid': '1'})}.{claims}"
    public = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return f"{signed}.{_base64(hmac.digest(public, signed.encode(), 'sha256'))}"


def _with_numeric_kid() -> str:
    signed = f"{_encode({'alg': 'RS256', 'kid': 1})}.{assertion().split('.')[1]}"
    return f"{signed}.{_base64(RSA_KEY.sign(signed.encode(), PKCS1v15(), SHA256()))}"


def _encode(header: dict[str, Any]) -> str:
    return _base64(json.dumps(header).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


# More than Python's parser follows.
NESTED = b'{"alg":' + b"[" * 5000 + b"]" * 5000 + b"}"


def _unsigned() -> str:
    return assertion(key=None, algorithm="none")


@pytest.mark.parametrize(
    "make",
    [
        _hmac_with_public_key,
        _unsigned,
        lambda: assertion(key=OTHER_RSA_KEY),
        lambda: assertion(key=EC_KEY, algorithm="ES256"),
        lambda: assertion(algorithm="PS256"),
        lambda: assertion(headers={"kid": "2"}),
        _with_numeric_kid,
        lambda: assertion(key=OTHER_RSA_KEY, headers={"jwk": rsa_jwk(OTHER_RSA_KEY)}),
        lambda: assertion(key=OTHER_RSA_KEY, headers={"jku": f"https://{HOST}/evil.json", "kid": "1"}),
        lambda: assertion(headers={"kid": "1", "crit": ["x"], "x": 1}),
        lambda: assertion(headers={"kid": "1", "typ": "at+jwt"}),
        lambda: assertion(headers={"kid": "1", "typ": ["JWT"]}),
        lambda: assertion(exp=str(int(time.time()) + 60)),
        lambda: assertion(iat=str(int(time.time()))),
        lambda: assertion(nbf=str(int(time.time()))),
        lambda: assertion(iss=f"https://{HOST}/other.json"),
        lambda: assertion(sub=f"https://{HOST}/other.json"),
        lambda: assertion(iss=None),
        lambda: assertion(sub=None),
        lambda: assertion(sub=["x"]),
        lambda: assertion(aud=None),
        lambda: assertion(aud="https://evil.example"),
        lambda: assertion(aud=f"{ISSUER}//"),
        lambda: assertion(aud=f"{ISSUER}/token/"),
        lambda: assertion(aud=f"{ISSUER}/authorize"),
        lambda: assertion(aud=[ISSUER, "https://evil.example"]),
        lambda: assertion(aud=[]),
        lambda: assertion(exp=None),
        lambda: assertion(exp=int(time.time()) - 60),
        lambda: assertion(exp=int(time.time()) + 7200),
        lambda: assertion(exp="soon"),
        lambda: assertion(exp=int(time.time()) - CLOCK_SKEW_SECONDS),
        lambda: assertion(iat=int(time.time()) + CLIENT_CLOCK_SECONDS + 10),
        lambda: assertion(iat=int(time.time()) - 7200),
        lambda: assertion(iat=float("nan")),
        lambda: assertion(iat=float("inf")),
        lambda: assertion(nbf=int(time.time()) + CLIENT_CLOCK_SECONDS + 10),
        lambda: assertion(nbf=float("nan")),
        lambda: assertion(exp=float("nan")),
        lambda: assertion(exp=float("inf")),
        lambda: assertion(jti=None),
        lambda: assertion(jti=""),
        lambda: assertion(jti=7),
        lambda: assertion(jti="x" * 300),
        lambda: assertion()[:-4] + "AAAA",
        lambda: f"{_encode({'alg': 'RS256', 'kid': '1'})}.{_base64(NESTED)}.AAAA",
        lambda: f"{_base64(NESTED)}.{assertion().split('.')[1]}.AAAA",
        lambda: f"{_encode({'alg': 'RS256', 'kid': '1'})}.{_encode({'sub': chr(0xD800)})}.AAAA",
        lambda: "a.b.c",
        lambda: "nonsense",
    ],
)
def test_an_assertion_that_is_wrong_in_any_way_is_refused_and_the_code_stays_good(
    oauth: OAuthTestClient, make: Callable[[], str]
) -> None:
    code = oauth.obtain_code(CLIENT)
    response = redeem(oauth, code, make())
    assert (response.status_code, response.get_json()["error"]) == (401, "invalid_client")
    assert redeem(oauth, code, assertion()).status_code == 200


@pytest.mark.parametrize("ahead", [0, 30, 60])
@pytest.mark.parametrize("lifetime", [60, 3600])
def test_a_clients_clock_may_be_a_minute_ahead(oauth: OAuthTestClient, ahead: int, lifetime: int) -> None:
    now = int(time.time()) + ahead
    proof = assertion(iat=now, nbf=now, exp=now + lifetime)
    assert redeem(oauth, oauth.obtain_code(CLIENT), proof).status_code == 200
    assert redeem(oauth, oauth.obtain_code(CLIENT), proof).status_code == 401  # good once


@pytest.mark.parametrize(
    "changes",
    [
        {"client_assertion_type": ""},
        {"client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"},
        {"client_id": "https://other.example.com/client.json"},
    ],
)
def test_an_assertion_of_another_type_or_for_another_client_is_refused(
    oauth: OAuthTestClient, changes: dict[str, str]
) -> None:
    response = redeem(oauth, oauth.obtain_code(CLIENT), assertion(), **changes)
    assert (response.status_code, response.get_json()["error"]) == (401, "invalid_client")


def test_two_proofs_at_once_are_refused(oauth: OAuthTestClient) -> None:
    response = redeem(oauth, oauth.obtain_code(CLIENT), assertion(), client_secret="x")
    assert (response.status_code, response.get_json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize("ahead", [-1800, 0, 1800])
def test_an_assertion_is_good_once_whatever_redis_clock_shows(oauth: OAuthTestClient, ahead: int) -> None:
    with time_machine.travel(time.time() + ahead):
        used = assertion()
        assert redeem(oauth, oauth.obtain_code(CLIENT), used).status_code == 200
        response = redeem(oauth, oauth.obtain_code(CLIENT), used)
        assert (response.status_code, response.get_json()["error"]) == (401, "invalid_client")


def test_an_assertion_is_remembered_until_it_is_over_by_the_clock_that_is_furthest_behind(
    oauth: OAuthTestClient, redis_server: RedisServer
) -> None:
    ends = int(time.time()) + 60
    assert redeem(oauth, "code", assertion(exp=ends)).get_json()["error"] == "invalid_grant"
    with redis_server.client() as connection:
        (used,) = connection.scan_iter("used:*")
        left = cast("int", connection.pttl(used)) / 1000
    assert left <= 60 + 2 * CLOCK_SKEW_SECONDS + 1
    assert time.time() + left >= ends + 2 * CLOCK_SKEW_SECONDS


def test_a_rotated_key_is_found_and_the_old_one_is_refused(oauth: OAuthTestClient, net: Internet) -> None:
    assert redeem(oauth, oauth.obtain_code(CLIENT), assertion()).status_code == 200
    net.pages[JWKS_PATH] = respond_json({"keys": [rsa_jwk(OTHER_RSA_KEY, "2")]})
    rotated = assertion(key=OTHER_RSA_KEY, headers={"kid": "2"})
    assert redeem(oauth, oauth.obtain_code(CLIENT), rotated).status_code == 200
    refused = redeem(oauth, oauth.obtain_code(CLIENT), assertion())
    assert (refused.status_code, "access_token" in refused.text) == (503, False), "it may be a key that is new again"


def test_a_key_that_the_client_may_have_begun_to_use_is_not_refused(
    oauth: OAuthTestClient, net: Internet, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    assert redeem(oauth, "code", assertion(headers={"kid": "unknown"})).status_code == 401
    net.pages[JWKS_PATH] = respond_json({"keys": [rsa_jwk(OTHER_RSA_KEY, "2")]})
    code, rotated = oauth.obtain_code(CLIENT), assertion(key=OTHER_RSA_KEY, headers={"kid": "2"})
    response = redeem(oauth, code, rotated)
    assert (response.status_code, response.get_json()["error"]) == (503, "temporarily_unavailable")
    assert not any(record.levelname == "ERROR" for record in caplog.records), "anyone can cause it"
    assert 0 < int(response.headers["Retry-After"]) <= KEY_SET_REFRESH_SECONDS
    with redis_server.client() as connection:
        (waited,) = [key for key in connection.scan_iter("used:*") if connection.pttl(key) <= 30_000]
        connection.delete(waited)  # as if so much time had passed
    assert redeem(oauth, code, rotated).status_code == 200


def test_unknown_keys_do_not_make_the_service_fetch_again_and_again(oauth: OAuthTestClient, net: Internet) -> None:
    assert redeem(oauth, "code", assertion(headers={"kid": "unknown"})).status_code == 401
    for number in range(10):
        assert redeem(oauth, "code", assertion(headers={"kid": f"unknown-{number}"})).status_code == 503
    assert redeem(oauth, "code", assertion(algorithm="PS256")).status_code == 401
    assert net.asked_for.count(JWKS_PATH) == 2


@pytest.mark.parametrize(
    "keys",
    [
        {"keys": []},
        {"keys": [rsa_jwk() | {"d": "AQAB"}]},
        {"keys": [rsa_jwk() | {"use": "enc"}]},
        {"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "1"}]},
        {"keys": [rsa_jwk(), rsa_jwk(OTHER_RSA_KEY)]},
        {"keys": [rsa_jwk()] * 51},
        {"keys": [rsa_jwk(rsa.generate_private_key(65537, 1024))]},
        {"keys": [rsa_jwk() | {"use": ["sig"]}]},
        {"keys": [rsa_jwk() | {"kty": ["RSA"], "crv": {}}]},
        {"keys": [rsa_jwk() | {"n": "AQAB"}]},
        {"keys": [rsa_jwk() | {"n": 7}]},
        {"keys": [{"kty": "EC", "crv": "P-256", "x": "AQAB", "y": "AQAB", "kid": "1"}]},
        {"keys": [{"kty": "EC", "crv": [], "kid": "1"}]},
        {"keys": "x"},
        [],
    ],
)
def test_a_key_set_that_is_weak_secret_or_ambiguous_proves_nothing(
    oauth: OAuthTestClient, net: Internet, keys: Any
) -> None:
    net.pages[JWKS_PATH] = respond_json(keys)
    response = redeem(oauth, oauth.obtain_code(CLIENT), assertion())
    assert (response.status_code, response.get_json()["error"]) == (401, "invalid_client")


def test_a_key_set_on_a_private_host_is_not_fetched(oauth: OAuthTestClient, net: Internet) -> None:
    net.addresses["internal.example.com"] = ("10.0.0.1",)
    net.pages[PATH] = respond_json(KEYS_ONLY | {"jwks_uri": "https://internal.example.com/jwks"})
    connected = len(net.connected)
    private = redeem(oauth, oauth.obtain_code(CLIENT), assertion())
    assert len(net.connected) == connected + 1  # for the document alone
    del net.addresses["internal.example.com"]
    unknown = redeem(oauth, oauth.obtain_code(CLIENT), assertion())
    assert (private.status_code, private.get_json()) == (unknown.status_code, unknown.get_json())
    assert private.status_code == 503


class TestConfined:
    """A gateway whose operator names the hosts that it may be sent to."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return Settings.model_validate({**settings.model_dump(), "client_documents": {"allowed_hosts": [HOST]}})

    def test_a_key_set_comes_from_no_other_host(self, oauth: OAuthTestClient, net: Internet) -> None:
        code = oauth.obtain_code(CLIENT)
        elsewhere = "keys.example.com"
        net.pages[PATH] = respond_json(KEYS_ONLY | {"jwks_uri": f"https://{elsewhere}{JWKS_PATH}"})
        oauth.store.documents.drop(CLIENT)
        response = redeem(oauth, code, assertion())
        assert (response.status_code, response.get_json()["error"]) == (401, "invalid_client")
        assert elsewhere not in net.resolved
        net.pages[PATH] = respond_json(KEYS_ONLY)
        oauth.store.documents.drop(CLIENT)
        assert redeem(oauth, code, assertion()).status_code == 200


def test_a_key_set_out_of_reach_is_no_refusal(oauth: OAuthTestClient, net: Internet) -> None:
    code = oauth.obtain_code(CLIENT)
    del net.addresses[HOST]
    assert redeem(oauth, code, assertion()).status_code == 503
    net.addresses[HOST] = ("93.184.215.14",)
    assert redeem(oauth, code, assertion()).status_code == 200


@pytest.mark.parametrize(
    ("key", "algorithm", "jwk"),
    [
        (EC_KEY, "ES256", ECAlgorithm.to_jwk(EC_KEY.public_key(), as_dict=True)),
        (ED_KEY, "EdDSA", OKPAlgorithm.to_jwk(ED_KEY.public_key(), as_dict=True)),
        (RSA_KEY, "PS256", RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True)),
    ],
)
def test_a_registered_client_proves_itself_with_keys_it_registered(
    oauth: OAuthTestClient, key: Any, algorithm: str, jwk: dict[str, Any]
) -> None:
    registered = oauth.register(token_endpoint_auth_method="private_key_jwt", jwks={"keys": [jwk]})
    assert registered["jwks"] == {"keys": [jwk]}
    assert "client_secret" not in registered
    client_id = registered["client_id"]
    code = oauth.obtain_code(client_id)
    assert oauth.redeem(client_id, code).status_code == 401
    proof = assertion(client_id, key=key, algorithm=algorithm, headers={})
    assert redeem(oauth, code, proof).status_code == 200


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"jwks": {"keys": []}},
        {"jwks": {"keys": [rsa_jwk() | {"d": "AQAB"}]}},
        {"jwks": {"keys": [rsa_jwk()], "x": "\ud800"}},
        {"jwks": {"keys": [rsa_jwk()], "x": json.loads("[" * 300 + "]" * 300)}},
        {"jwks": {"keys": [rsa_jwk()]}, "jwks_uri": "https://client.example.com/jwks"},
        {"jwks_uri": "https://client.example.com/jwks"},
        {"jwks": {"keys": [rsa_jwk()]}, "token_endpoint_auth_signing_alg": "HS256"},
        {"jwks": {"keys": [rsa_jwk()]}, "token_endpoint_auth_signing_alg": "none"},
    ],
)
def test_a_registration_without_usable_keys_is_refused(
    oauth: OAuthTestClient, net: Internet, changes: dict[str, Any]
) -> None:
    body = {"redirect_uris": [REDIRECT], "token_endpoint_auth_method": "private_key_jwt"} | changes
    response = oauth.browser.post("/register", json=body, base_url=ISSUER)
    assert (response.status_code, response.get_json()["error"]) == (400, "invalid_client_metadata")
    assert net.resolved == []
