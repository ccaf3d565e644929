"""Workloads: a job's token of its platform becomes an access token of one server, by RFC 7523 §2.1."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from jwt.utils import base64url_decode, base64url_encode, der_to_raw_signature, raw_to_der_signature
from werkzeug.test import TestResponse

from auth_service.oauth.issuer_keys import DISCOVERY_PATH, RETRY_SECONDS
from auth_service.oauth.safe_fetch import SafeFetcher
from auth_service.oauth.workloads import MAX_ASSERTION_SECONDS, check_issuers
from auth_service.ops.audit import Event
from auth_service.protocol.clients import JWT_BEARER_GRANT
from auth_service.settings import Settings, SettingsError
from tests.internet import Internet, internet, respond, respond_json

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

HOST = "token.ci.example.com"
CI = f"https://{HOST}"
CLUSTER = "https://kubernetes.default.svc"
JWKS_PATH = "/.well-known/jwks"
SUBJECT = "repo:acme/app:ref:refs/heads/main"
KEY = rsa.generate_private_key(65537, 2048)
OTHER_KEY = rsa.generate_private_key(65537, 2048)
CLUSTER_KEY = ec.generate_private_key(ec.SECP256R1())
JWK = {**RSAAlgorithm.to_jwk(KEY.public_key(), as_dict=True), "kid": "1", "use": "sig", "alg": "RS256"}
CLUSTER_JWK = {**ECAlgorithm.to_jwk(CLUSTER_KEY.public_key(), as_dict=True), "kid": "c"}
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Jobs of a repository, whose issuer is found by discovery, and a pod of a cluster, whose keys are in the file."""
    document = settings.model_dump()
    document["resources"]["time"]["scopes"] = SCOPES
    document["trusted_issuers"] = {
        "ci": {
            "issuer": CI,
            "audience": ISSUER,
            "subjects": ["repo:acme/*:ref:refs/heads/main"],
            "claims": {"repository_owner_id": "42"},
            "servers": ["time"],
        },
        "cluster": {
            "issuer": CLUSTER,
            "audience": "mcp",
            "subjects": ["system:serviceaccount:jobs:report"],
            "jwks": {"keys": [CLUSTER_JWK]},
            "servers": ["time", "fetch"],
            "scopes": ["write"],
            "lifetime": 60,
        },
    }
    document["declared_clients"] = {"nightly": {"secret": True, "servers": ["time"]}}
    return Settings.model_validate(document)


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Internet]:
    with internet(tmp_path, HOST) as made:
        made.pages[DISCOVERY_PATH] = respond_json({"issuer": CI, "jwks_uri": f"{CI}{JWKS_PATH}"})
        made.pages[JWKS_PATH] = respond_json({"keys": [JWK]})
        yield made


@pytest.fixture
def fetcher(net: Internet) -> SafeFetcher:
    return net.fetcher(deadline=30)


def claims_of_job(**claims: Any) -> dict[str, Any]:
    """Return the claims of a job's token; None leaves one out."""
    now = int(time.time())
    usual = {
        "iss": CI,
        "aud": ISSUER,
        "sub": SUBJECT,
        "exp": now + 300,
        "iat": now,
        "nbf": now,
        "jti": str(uuid.uuid4()),
        "repository": "acme/app",
        "repository_owner_id": "42",
    }
    return {name: value for name, value in (usual | claims).items() if value is not None}


def job(*, key: Any = KEY, algorithm: str = "RS256", headers: dict[str, Any] | None = None, **claims: Any) -> str:
    return jwt.encode(claims_of_job(**claims), key, algorithm, headers={"kid": "1"} | (headers or {}))


def pod(**claims: Any) -> str:
    now = int(time.time())
    usual = {"iss": CLUSTER, "aud": ["mcp"], "sub": "system:serviceaccount:jobs:report", "exp": now + 300, "iat": now}
    usual["uid"] = str(uuid.uuid4())
    return jwt.encode(usual | claims, CLUSTER_KEY, "ES256", headers={"kid": "c"})


def exchange(oauth: OAuthTestClient, assertion: str, **form: str) -> TestResponse:
    return oauth.token(grant_type=JWT_BEARER_GRANT, assertion=assertion, **form)


# What a workload gets


def test_a_job_gets_a_token_of_its_only_server(oauth: OAuthTestClient, net: Internet, audit_log: AuditLog) -> None:
    response = exchange(oauth, job())
    claims = claims_of(response)
    user = f"workload:ci:{SUBJECT}"
    assert (claims["sub"], claims["name"], claims["client_id"], claims["aud"]) == (user, user, "workload:ci", RESOURCE)
    body = response.get_json()
    assert (body["scope"], body["expires_in"], body["token_type"]) == ("read", 900, "Bearer")
    assert "refresh_token" not in body
    assert response.headers["Cache-Control"] == "no-store"
    (issued,) = audit_log.of(Event.TOKEN_ISSUED)
    assert issued.items() >= {"user": user, "client": "workload:ci", "resource": RESOURCE, "scope": "read"}.items()
    assert net.asked_for == [DISCOVERY_PATH, JWKS_PATH]


def test_keys_are_fetched_once_for_many_jobs(oauth: OAuthTestClient, net: Internet) -> None:
    for _ in range(3):
        claims_of(exchange(oauth, job()))
    assert net.asked_for == [DISCOVERY_PATH, JWKS_PATH]


def test_nothing_is_fetched_for_an_issuer_whose_keys_are_in_the_settings(oauth: OAuthTestClient, net: Internet) -> None:
    assert claims_of(exchange(oauth, pod(), resource=FETCH))["aud"] == FETCH
    assert net.asked_for == []


def test_a_workload_with_several_servers_names_one(oauth: OAuthTestClient) -> None:
    assertion = pod()
    assert error_of(exchange(oauth, assertion)) == "invalid_target"
    body = exchange(oauth, assertion, resource=RESOURCE).get_json()  # a mistake does not use the assertion up
    assert (body["scope"], body["expires_in"]) == ("read write", 60)


def test_a_workload_may_ask_for_less_but_never_below_what_each_request_needs(oauth: OAuthTestClient) -> None:
    assert claims_of(exchange(oauth, pod(), resource=RESOURCE, scope="read"))["scope"] == "read"
    assert claims_of(exchange(oauth, pod(), resource=RESOURCE, scope="write"))["scope"] == "read write"


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"resource": FETCH}, "invalid_target"),
        ({"resource": "https://evil.example/mcp"}, "invalid_target"),
        ({"scope": "write"}, "invalid_scope"),
        ({"scope": "admin"}, "invalid_scope"),
    ],
)
def test_a_workload_gets_nothing_beyond_what_the_operator_lets_it_do(
    oauth: OAuthTestClient, form: dict[str, str], error: str
) -> None:
    assert error_of(exchange(oauth, job(), **form)) == error


def test_scopes_and_servers_in_a_token_widen_nothing(oauth: OAuthTestClient) -> None:
    claims = claims_of(exchange(oauth, job(scope="read write admin", resource=FETCH, client_id="nightly")))
    assert (claims["scope"], claims["aud"], claims["client_id"]) == ("read", RESOURCE, "workload:ci")


def test_tokens_of_a_workload_are_of_one_grant_that_can_be_ended(oauth: OAuthTestClient) -> None:
    first, second = claims_of(exchange(oauth, job())), claims_of(exchange(oauth, job()))
    assert first["sid"] == second["sid"]
    other = claims_of(exchange(oauth, job(sub="repo:acme/other:ref:refs/heads/main")))
    assert other["sid"] != first["sid"], "another workload has a grant of its own"
    oauth.revocation.revoke_access(first["sub"], by="operator")
    assert oauth.store.grants.find(first["sid"]) is None
    assert oauth.store.grants.find(other["sid"]) is not None
    assert claims_of(exchange(oauth, job()))["sid"] != first["sid"]


def test_metadata_offers_the_grant_type_only_where_an_issuer_is_trusted(oauth: OAuthTestClient) -> None:
    def offered() -> list[str]:
        document = oauth.browser.get("/.well-known/oauth-authorization-server", base_url=ISSUER).get_json()
        return list(document["grant_types_supported"])

    assert JWT_BEARER_GRANT in offered()
    oauth.reload(trusted_issuers=None)
    assert JWT_BEARER_GRANT not in offered()
    assert error_of(exchange(oauth, job())) == "unsupported_grant_type"


# Tokens that are not this workload's for this gateway now


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example.com"},
        {"iss": f"{CI}/"},
        {"iss": CI.upper()},
        {"iss": CLUSTER},
        {"iss": None},
        {"iss": [CI]},
        {"iss": {}},
        {"aud": "https://other.example.com"},
        {"aud": f"{ISSUER}/"},
        {"aud": "mcp"},
        {"aud": [ISSUER, "https://other.example.com"]},
        {"aud": []},
        {"aud": None},
        {"aud": {ISSUER: 1}},
        {"sub": None},
        {"sub": ""},
        {"exp": None},
        {"exp": 0},
        {"exp": "4102444800"},
        {"exp": float("nan")},
        {"exp": float("inf")},
        {"exp": True},
        {"iat": None},
        {"iat": float("nan")},
        {"jti": ""},
        {"jti": "x" * 257},
        {"repository_owner_id": None},
        {"repository_owner_id": "43"},
        {"repository_owner_id": 42},
        {"repository_owner_id": ["42"]},
    ],
)
def test_a_token_with_other_claims_is_refused(oauth: OAuthTestClient, claims: dict[str, Any]) -> None:
    payload = json.dumps(claims_of_job(**claims)).encode()  # also claims that PyJWT refuses to write
    signed = jwt.api_jws.PyJWS().encode(payload, KEY, "RS256", headers={"kid": "1"})
    assert error_of(exchange(oauth, signed)) == "invalid_grant"


@pytest.mark.parametrize(
    "times",
    [
        {"exp": -30},
        {"exp": MAX_ASSERTION_SECONDS + 120},
        {"iat": -MAX_ASSERTION_SECONDS - 120},
        {"iat": 120},
        {"nbf": 120},
    ],
)
def test_a_token_of_another_time_is_refused(oauth: OAuthTestClient, times: dict[str, int]) -> None:
    now = int(time.time())
    moved: dict[str, Any] = {name: now + seconds for name, seconds in times.items()}
    assert error_of(exchange(oauth, job(**moved))) == "invalid_grant"


@pytest.mark.parametrize(
    "subject",
    [
        "repo:acme/app:pull_request",
        "repo:acme/app:ref:refs/heads/evil",
        "repo:acme/app:ref:refs/heads/main/evil",
        "repo:acme/app:ref:refs/heads/main2",
        "repo:acme/app:environment:main",
        "repo:acme-evil/app:ref:refs/heads/main",
        "repo:acme/app/x:ref:refs/heads/main",
        "repo:acme/a:ref:refs/heads/x:ref:refs/heads/main",
        "repo:acme/:ref:refs/heads/main",
        "repo:ACME/app:ref:refs/heads/main",
        "xrepo:acme/app:ref:refs/heads/main",
        "repo:acme/app:ref:refs/heads/main\n",
        "repo:acme/app\u202e:ref:refs/heads/main",
        "repo:acme/" + "x" * 255 + ":ref:refs/heads/main",
    ],
)
def test_a_token_of_another_workload_of_the_same_issuer_is_refused(oauth: OAuthTestClient, subject: str) -> None:
    assert error_of(exchange(oauth, job(sub=subject))) == "invalid_grant"


@pytest.mark.parametrize(
    "typ", ["oauth-id-jag+jwt", "at+jwt", "logout+jwt", "secevent+jwt", "JWT ", "jwt\n", 1, ["JWT"]]
)
def test_a_token_of_another_type_is_refused(oauth: OAuthTestClient, typ: Any) -> None:
    assert error_of(exchange(oauth, job(headers={"typ": typ}))) == "invalid_grant"


def encode(header: dict[str, Any], payload: dict[str, Any], signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(payload).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


@pytest.mark.parametrize("part", [0, 1])
def test_a_token_that_is_nested_too_deeply_to_be_read_is_refused(oauth: OAuthTestClient, part: int) -> None:
    parts = ['{"alg":"RS256"}', json.dumps(claims_of_job())]
    parts[part] = '{"typ":"oauth-id-jag+jwt","iss":' + "[" * 5000 + "]" * 5000 + "}"
    unsigned = ".".join(base64url_encode(each.encode()).decode() for each in parts)
    assert error_of(exchange(oauth, f"{unsigned}.AAAA")) == "invalid_grant"


def test_a_token_without_a_signature_or_with_a_symmetric_one_is_refused(oauth: OAuthTestClient) -> None:
    public_key = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    symmetric = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    for algorithm in ("none", "None", "NONE", "", None, 1, ["RS256"], "HS256", "RS256", "ES256", "PS256"):
        assert error_of(exchange(oauth, encode({"alg": algorithm, "kid": "1"}, claims_of_job()))) == "invalid_grant"
    unsigned = encode({"alg": "HS256", "kid": "1", "typ": "JWT"}, claims_of_job()).rpartition(".")[0]
    for secret in (public_key, public_key.strip(), json.dumps(JWK).encode(), b""):
        signature = base64url_encode(symmetric.sign(unsigned.encode(), secret)).decode()
        assert error_of(exchange(oauth, f"{unsigned}.{signature}")) == "invalid_grant"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"kid": "other"},
        {"kid": None},
        {"kid": 1},
        {"kid": ["1"]},
        {"kid": "../1"},
        {"jwk": {**RSAAlgorithm.to_jwk(OTHER_KEY.public_key(), as_dict=True), "kid": "1"}},
        {"jku": f"{CI}/evil"},
        {"x5u": f"{CI}/evil"},
        {"x5c": ["AAAA"]},
        {"jku": f"{CI}/evil", "kid": "evil"},
    ],
)
def test_a_token_that_is_signed_with_another_key_is_refused(
    oauth: OAuthTestClient, net: Internet, headers: dict[str, Any]
) -> None:
    evil = {**RSAAlgorithm.to_jwk(OTHER_KEY.public_key(), as_dict=True), "kid": "evil"}
    net.pages["/evil"] = respond_json({"keys": [evil]})
    unsigned = encode({"alg": "RS256", "kid": "1", **headers}, claims_of_job()).rpartition(".")[0]
    signature = jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256).sign(unsigned.encode(), OTHER_KEY)
    assert error_of(exchange(oauth, f"{unsigned}.{base64url_encode(signature).decode()}")) == "invalid_grant"
    assert "/evil" not in net.asked_for


def test_the_key_of_one_issuer_signs_nothing_for_another(oauth: OAuthTestClient) -> None:
    as_ci = jwt.encode(claims_of_job(), CLUSTER_KEY, "ES256", headers={"kid": "c"})
    assert error_of(exchange(oauth, as_ci)) == "invalid_grant"
    as_cluster = job(iss=CLUSTER, aud="mcp", sub="system:serviceaccount:jobs:report")
    assert error_of(exchange(oauth, as_cluster, resource=FETCH)) == "invalid_grant"


@pytest.mark.parametrize("headers", [{"crit": ["exp"]}, {"crit": ["evil"], "evil": 1}, {"crit": []}, {"b64": False}])
def test_a_token_with_a_critical_header_is_refused(oauth: OAuthTestClient, headers: dict[str, Any]) -> None:
    unsigned = encode({"alg": "RS256", "kid": "1", **headers}, claims_of_job()).rpartition(".")[0]
    signature = jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256).sign(unsigned.encode(), KEY)
    assertion = f"{unsigned}.{base64url_encode(signature).decode()}"
    assert error_of(exchange(oauth, assertion)) == "invalid_grant"


@pytest.mark.parametrize(
    "assertion", ["x", "a.b", "a.b.c", "..", "e30.e30.", "e30.W10.", "eyJhbGciOiJSUzI1NiJ9.bnVsbA."]
)
def test_what_is_no_token_is_refused(oauth: OAuthTestClient, assertion: str) -> None:
    assert error_of(exchange(oauth, assertion)) == "invalid_grant"


def test_a_request_without_an_assertion_is_refused(oauth: OAuthTestClient) -> None:
    assert error_of(oauth.token(grant_type=JWT_BEARER_GRANT)) == "invalid_request"
    assert error_of(exchange(oauth, "")) == "invalid_request"


def test_our_own_access_tokens_and_those_of_users_are_no_assertions(oauth: OAuthTestClient) -> None:
    own = exchange(oauth, job()).get_json()["access_token"]
    assert error_of(exchange(oauth, own)) == "invalid_grant"


# Replayed tokens


def test_a_token_works_once(oauth: OAuthTestClient) -> None:
    assertion = job()
    claims_of(exchange(oauth, assertion))
    response = exchange(oauth, assertion)
    assert error_of(response) == "invalid_grant"
    assert "used before" in response.text
    assert error_of(exchange(oauth, job(jti=claims_of_assertion(assertion)["jti"]))) == "invalid_grant"


def claims_of_assertion(assertion: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(assertion, options={"verify_signature": False})
    return claims


def test_the_line_break_of_a_file_does_no_harm_and_makes_no_other_token(oauth: OAuthTestClient) -> None:
    assertion = pod()
    claims_of(exchange(oauth, f"{assertion}\r\n", resource=RESOURCE))
    assert "used before" in exchange(oauth, f" {assertion}", resource=RESOURCE).text
    assert error_of(exchange(oauth, pod().replace(".", "\n.", 1), resource=RESOURCE)) == "invalid_grant"
    assert error_of(exchange(oauth, "\n", resource=RESOURCE)) == "invalid_request"


def test_a_token_without_a_jti_works_once_however_its_signature_is_written(oauth: OAuthTestClient) -> None:
    assertion = pod()
    claims_of(exchange(oauth, assertion, resource=RESOURCE))
    head, _, signature = assertion.rpartition(".")
    first, second = decode_dss_signature(raw_to_der_signature(base64url_decode(signature), CLUSTER_KEY.curve))
    negated = der_to_raw_signature(encode_dss_signature(first, P256_ORDER - second), CLUSTER_KEY.curve)
    other = f"{head}.{base64url_encode(negated).decode()}"
    jwt.decode(other, CLUSTER_KEY.public_key(), algorithms=["ES256"], audience="mcp")  # the signature is good
    for replayed in (assertion, other):
        response = exchange(oauth, replayed, resource=RESOURCE)
        assert error_of(response) == "invalid_grant"
        assert "used before" in response.text
    claims_of(exchange(oauth, pod(), resource=RESOURCE))


def test_of_two_workers_at_once_one_accepts_a_token(oauth: OAuthTestClient) -> None:
    claims_of(exchange(oauth, job()))
    workers = [oauth.make_app(oauth.settings) for _ in range(4)]
    for _ in range(5):
        form = {"grant_type": JWT_BEARER_GRANT, "assertion": job()}
        with ThreadPoolExecutor(len(workers)) as pool:
            sent = [pool.submit(worker.test_client().post, "/token", data=form, base_url=ISSUER) for worker in workers]
            statuses = sorted(each.result().status_code for each in sent)
        assert statuses == [200, 400, 400, 400]


# Clients, which may not use it


def test_no_client_may_use_the_grant_type(oauth: OAuthTestClient) -> None:
    registered = oauth.register(
        grant_types=["authorization_code", JWT_BEARER_GRANT], token_endpoint_auth_method="client_secret_post"
    )
    assert JWT_BEARER_GRANT not in registered["grant_types"]
    secret = {"client_id": registered["client_id"], "client_secret": registered["client_secret"]}
    public = {"client_id": oauth.register()["client_id"]}
    machine = {"client_id": "nightly", "client_secret": declared_secret("nightly")}
    own = {"client_id": "workload:ci"}
    for client in (secret, public, machine, own, {"client_assertion": "x"}, {"client_id": "unknown"}):
        assert error_of(exchange(oauth, job(), **client)) == "unauthorized_client"
    response = oauth.token_with_basic(
        "nightly", declared_secret("nightly"), grant_type=JWT_BEARER_GRANT, assertion=job()
    )
    assert error_of(response) == "unauthorized_client"


def test_a_workload_can_not_pose_as_a_client(oauth: OAuthTestClient) -> None:
    for grant_type in ("client_credentials", "authorization_code", "refresh_token"):
        response = oauth.token(grant_type=grant_type, client_id="workload:ci", assertion=job(), code="x")
        assert error_of(response) == "invalid_client"
    response = oauth.token(
        grant_type="client_credentials",
        client_assertion_type="urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        client_assertion=job(),
    )
    assert error_of(response) == "invalid_client"
    assert oauth.authorize("workload:ci", redirect_uri=REDIRECT).status_code == 400


def test_an_assertion_in_the_query_is_not_read(oauth: OAuthTestClient) -> None:
    query = {"grant_type": JWT_BEARER_GRANT, "assertion": job()}
    response = oauth.browser.post("/token", query_string=query, base_url=ISSUER)
    assert error_of(response) == "invalid_request"
    response = oauth.browser.post(
        "/token",
        query_string={"assertion": query["assertion"]},
        data={"grant_type": JWT_BEARER_GRANT},
        base_url=ISSUER,
    )
    assert error_of(response) == "invalid_request"


def test_a_repeated_assertion_is_refused(oauth: OAuthTestClient) -> None:
    response = oauth.browser.post(
        "/token", data={"grant_type": JWT_BEARER_GRANT, "assertion": [job(), job()]}, base_url=ISSUER
    )
    assert error_of(response) == "invalid_request"


def test_a_refusal_says_why_in_the_audit_log_and_never_has_the_token(
    oauth: OAuthTestClient, audit_log: AuditLog
) -> None:
    assertion = job(sub="repo:acme/app:pull_request")
    response = exchange(oauth, assertion)
    (refused,) = audit_log.of(Event.TOKEN_REFUSED)
    assert "repo:acme/app:pull_request" in refused["reason"]
    assert response.get_json()["error_description"] in refused["reason"]
    assert assertion not in json.dumps(refused) + response.text


# Keys that cannot be had


@pytest.mark.parametrize(
    "answer",
    [
        respond(b"", status="500 Internal Server Error"),
        respond(b"", status="302 Found", location=f"{CI}/elsewhere"),
        respond(b'{"keys": ["' + b"x" * 100_000 + b'"]}'),
        respond_json({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "1"}]}),
        respond_json({"keys": [JWK, {"kty": "oct", "k": "c2VjcmV0", "kid": "1"}]}),
    ],
)
@pytest.mark.parametrize("path", [DISCOVERY_PATH, JWKS_PATH])
def test_without_usable_keys_nothing_is_granted(oauth: OAuthTestClient, net: Internet, path: str, answer: Any) -> None:
    net.pages[path] = answer
    assertion = job()
    response = exchange(oauth, assertion)
    assert response.status_code == 503
    assert "Retry-After" in response.headers
    assert "/elsewhere" not in net.asked_for
    net.pages[DISCOVERY_PATH] = respond_json({"issuer": CI, "jwks_uri": f"{CI}{JWKS_PATH}"})
    net.pages[JWKS_PATH] = respond_json({"keys": [JWK]})
    oauth.reload()
    claims_of(exchange(oauth, assertion))  # it was not used up


def test_a_job_whose_key_may_be_new_is_told_when_to_try_again(oauth: OAuthTestClient, net: Internet) -> None:
    claims_of(exchange(oauth, job()))
    response = exchange(oauth, job(key=OTHER_KEY, headers={"kid": "2"}))
    assert (response.status_code, response.get_json()["error"]) == (503, "temporarily_unavailable")
    assert 0 < int(response.headers["Retry-After"]) <= RETRY_SECONDS
    assert error_of(exchange(oauth, job(algorithm="PS256"))) == "invalid_grant"
    assert net.asked_for == [DISCOVERY_PATH, JWKS_PATH]


def test_an_issuer_that_is_not_trusted_is_never_asked(oauth: OAuthTestClient, net: Internet) -> None:
    net.addresses["evil.example.com"] = net.addresses[HOST]
    exchange(oauth, job(iss="https://evil.example.com"))
    exchange(oauth, job(aud="https://other.example.com"))
    assert net.asked_for == net.resolved == []


# Settings


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"issuer": "https://localhost/ci"}, "trusted_issuers.ci.issuer: its keys cannot be fetched"),
        ({"issuer": "https://ci.example.com:8443"}, "trusted_issuers.ci.issuer: its keys cannot be fetched"),
        ({"issuer": "http://127.0.0.1:8080"}, "trusted_issuers.ci.issuer: its keys cannot be fetched"),
        ({"jwks": {"keys": []}}, "trusted_issuers.ci.jwks: holds no key"),
        ({"jwks": {"keys": [{**JWK, "d": "x"}]}}, "trusted_issuers.ci.jwks: holds a private"),
    ],
)
def test_keys_that_cannot_be_used_stop_the_service(settings: Settings, change: dict[str, Any], text: str) -> None:
    check_issuers(settings)
    document = settings.model_dump(exclude_unset=True)
    document["trusted_issuers"]["ci"] |= change
    with pytest.raises(SettingsError, match=text):
        check_issuers(Settings.model_validate(document))
