from __future__ import annotations

import hashlib

import pytest
import time_machine
from itsdangerous import URLSafeTimedSerializer

from stdio_bridge.http.identity import AssertionVerifier, Revoked
from stdio_bridge.protocol.errors import HttpError

KEY = b"k" * 64
NOW = 1_790_000_000
CLAIMS = {"sub": "github:1", "sid": "g1", "exp": NOW + 600, "aud": "https://a.example/mcp"}


def sign(claims: object, *, key: bytes = KEY, salt: str = "mcp-oauth-gateway.identity", at: int = NOW) -> str:
    serializer = URLSafeTimedSerializer(
        key, salt=salt, signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256}
    )
    with time_machine.travel(at, tick=False):
        return str(serializer.dumps(claims))


def verifier(now: float = NOW) -> AssertionVerifier:
    return AssertionVerifier(KEY, now=lambda: now)


def test_a_fresh_assertion_tells_the_user_and_the_grant() -> None:
    identity = verifier(NOW + 59).identify(sign(CLAIMS))
    assert (identity.user, identity.grant, identity.expires) == ("github:1", "g1", NOW + 600)


@pytest.mark.parametrize(
    ("claims", "scopes", "grantable"),
    [
        ({"scope": "read write", "grantable_scope": "admin"}, {"read", "write"}, {"admin"}),
        ({"scope": " read  read ", "grantable_scope": ""}, {"read"}, set()),
        ({}, set(), set()),
        ({"scope": ["admin"], "grantable_scope": {"admin": 1}}, set(), set()),
        ({"scope": None, "grantable_scope": True}, set(), set()),
        ({"scope": "a\tb,c"}, {"a\tb,c"}, set()),
    ],
)
def test_an_assertion_tells_the_scopes_and_what_is_not_read_as_such_is_none(
    claims: dict[str, object], scopes: set[str], grantable: set[str]
) -> None:
    identity = verifier().identify(sign({**CLAIMS, **claims}))
    assert (set(identity.scopes), set(identity.grantable)) == (scopes, grantable)


@pytest.mark.parametrize("signed_at", [NOW - 60, NOW + 10])
def test_an_assertion_is_good_up_to_its_age_and_to_what_clocks_may_differ(signed_at: int) -> None:
    assert verifier().identify(sign(CLAIMS, at=signed_at)).user == "github:1"


def test_a_token_that_ends_between_the_gateway_s_check_and_the_bridge_is_good() -> None:
    assert verifier().identify(sign({**CLAIMS, "exp": NOW - 9})).expires == NOW - 9


@pytest.mark.parametrize(
    "assertion",
    [
        pytest.param(None, id="missing"),
        pytest.param("", id="empty"),
        pytest.param("rubbish", id="malformed"),
        pytest.param(sign(CLAIMS, key=b"x" * 64), id="signed with another key"),
        pytest.param(sign(CLAIMS, salt="mcp-oauth-gateway.revocation"), id="made for another purpose"),
        pytest.param(sign(CLAIMS)[:-1], id="cut"),
        pytest.param(f"{sign(CLAIMS)}, {sign(CLAIMS)}", id="sent twice"),
        pytest.param(sign(CLAIMS, at=NOW - 61), id="too old"),
        pytest.param(sign(CLAIMS, at=NOW + 11), id="further ahead than clocks differ"),
        pytest.param(sign({**CLAIMS, "exp": NOW - 10}), id="past the token's end, and more than clocks differ"),
        pytest.param(sign({**CLAIMS, "sub": ""}), id="of nobody"),
        pytest.param(sign([]), id="not an object"),
    ],
)
def test_any_other_assertion_is_refused(assertion: str | None) -> None:
    with pytest.raises(HttpError) as refused:
        verifier().identify(assertion)
    assert refused.value.status == "403 Forbidden"


def test_an_assertion_seen_before_is_refused_once_it_is_old() -> None:
    now = [float(NOW)]
    verifying = AssertionVerifier(KEY, now=lambda: now[0])
    assertion = sign(CLAIMS)
    verifying.identify(assertion)
    now[0] += 61
    with pytest.raises(HttpError):
        verifying.identify(assertion)


def test_a_revocation_names_its_grant_and_an_identity_assertion_is_none() -> None:
    revocation = sign({"sid": "g1"}, salt="mcp-oauth-gateway.revocation")
    assert verifier().parse_revocation(revocation.encode()) == Revoked(grant="g1")
    with pytest.raises(HttpError):
        verifier().parse_revocation(sign(CLAIMS).encode())


@pytest.mark.parametrize("signed_at", [NOW - 60, NOW, NOW + 10])
def test_a_revocation_names_a_user(signed_at: int) -> None:
    revocation = sign({"sub": "github:1"}, salt="mcp-oauth-gateway.revocation", at=signed_at)
    assert verifier().parse_revocation(revocation.encode()) == Revoked(user="github:1")


@pytest.mark.parametrize("signed_at", [NOW - 90 * 86400, NOW - 61, NOW + 11])
def test_a_revocation_about_a_user_cannot_be_sent_again_later_and_one_about_a_grant_can(signed_at: int) -> None:
    of_user, of_grant = (
        sign({claim: "g1"}, salt="mcp-oauth-gateway.revocation", at=signed_at).encode() for claim in ("sub", "sid")
    )
    with pytest.raises(HttpError, match="the revocation is not valid now"):
        verifier().parse_revocation(of_user)
    assert verifier().parse_revocation(of_grant) == Revoked(grant="g1")


@pytest.mark.parametrize("claims", [{}, {"sub": ""}, {"sub": 1}, {"sid": None}, {"user": "github:1"}])
def test_a_revocation_of_nothing_is_refused(claims: object) -> None:
    with pytest.raises(HttpError):
        verifier().parse_revocation(sign(claims, salt="mcp-oauth-gateway.revocation").encode())


def test_an_identity_has_its_assertion_only_where_it_is_asked_for() -> None:
    assertion = sign(CLAIMS)
    keeping = AssertionVerifier(KEY, now=lambda: NOW, keep_assertions=True)
    assert keeping.identify(assertion).assertion == assertion
    assert assertion not in repr(keeping.identify(assertion))
    assert verifier().identify(assertion).assertion is None


@pytest.mark.parametrize("signed_at", [NOW - 60, NOW + 10])
def test_a_request_for_a_survey_is_good_as_long_as_an_assertion(signed_at: int) -> None:
    verifier().check_survey(sign({}, salt="mcp-oauth-gateway.survey", at=signed_at).encode())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff.\xff.\xff",
        sign({}, salt="mcp-oauth-gateway.survey", at=NOW - 61).encode(),
        sign({}, salt="mcp-oauth-gateway.survey", at=NOW + 11).encode(),
        sign({}, salt="mcp-oauth-gateway.survey", key=b"o" * 64).encode(),
        sign([], salt="mcp-oauth-gateway.survey").encode(),
        sign({}, salt="mcp-oauth-gateway.survey").encode()[:-1],
        sign(CLAIMS).encode(),
        sign({"sid": "g1"}, salt="mcp-oauth-gateway.revocation").encode(),
    ],
    ids=["none", "junk", "old", "future", "another key", "no object", "cut", "an assertion", "a revocation"],
)
def test_no_other_request_for_a_survey_is_good(body: bytes) -> None:
    with pytest.raises(HttpError, match=r"not valid now|does not verify|not an object"):
        verifier().check_survey(body)
