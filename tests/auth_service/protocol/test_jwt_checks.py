"""JWTs of others, which may hold anything, with whichever version of PyJWT is there."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from auth_service.protocol import jwk_sets
from auth_service.protocol.jwt_checks import checking_all, decode, read_unverified

PRIVATE_KEY = ec.generate_private_key(ec.SECP256R1())
JWK = ECAlgorithm.to_jwk(PRIVATE_KEY.public_key(), as_dict=True)
(KEY,) = jwk_sets.parse({"keys": [JWK]})
HEADER = '{"alg":"ES256"}'
NESTED = '{"alg":"ES256","iss":' + "[" * 100_000 + "]" * 100_000 + "}"


def written(header: str, claims: str, signature: str = "AAAA") -> str:
    """Return a JWT with these parts."""
    parts = (base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in (header, claims))
    return ".".join((*parts, signature))


def signed(**changes: Any) -> str:
    return jwt.encode({"iss": "a", "exp": int(time.time()) + 60, **changes}, PRIVATE_KEY, algorithm="ES256")


def check(unverified: str) -> dict[str, Any]:
    return decode(unverified, KEY, algorithms=["ES256"], issuer="a", options=checking_all(required=("iss", "exp")))


def test_header_and_claims_are_read_without_a_check_of_the_signature() -> None:
    assert read_unverified(written(HEADER, '{"iss":"a"}')) == ({"alg": "ES256"}, {"iss": "a"})
    assert read_unverified(written(HEADER, r'{"sub":"\ud83d\ude00"}'))[1] == {"sub": "\U0001f600"}


@pytest.mark.parametrize(
    "unverified",
    [
        written(NESTED, "{}"),
        written(HEADER, NESTED),
        written(HEADER, "[" * 100_000),
        written(HEADER, "[]"),
        written("[]", "{}"),
        written(HEADER, f'{{"exp":{"9" * 10_000}}}'),
        written(HEADER, r'{"sub":"\ud800"}'),
        written(HEADER, r'{"sub":{"\udfff":1}}'),
        written(r'{"alg":"ES256","kid":"\ud800"}', "{}"),
        "\ud800",
        "e30.\ud800.e30",
        "a.b.c",
        "",
    ],
)
def test_what_is_no_jwt_is_refused(unverified: str) -> None:
    with pytest.raises(jwt.InvalidTokenError):
        read_unverified(unverified)


def test_a_jwt_that_passes_its_checks_is_decoded() -> None:
    assert check(signed())["iss"] == "a"


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
@pytest.mark.parametrize("value", [float("inf"), "x", [], {}])
def test_a_time_that_is_none_is_refused(name: str, value: object) -> None:
    # As text: PyJWT refuses to make some of them.
    claims = json.dumps({"iss": "a", "exp": int(time.time()) + 60, name: value})
    unsigned = written(HEADER, claims, "")[:-1]
    signature = ECAlgorithm(ECAlgorithm.SHA256).sign(unsigned.encode(), PRIVATE_KEY)
    unverified = f"{unsigned}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    read_unverified(unverified)
    with pytest.raises(jwt.PyJWTError):
        check(unverified)


def test_a_jwt_of_another_key_or_issuer_is_refused() -> None:
    for unverified in (signed(iss="b"), signed()[:-8] + "AAAAAAAA", written(HEADER, NESTED)):
        with pytest.raises(jwt.PyJWTError):
            check(unverified)
