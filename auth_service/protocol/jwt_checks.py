"""How JWTs of others are read and checked with PyJWT, whose defaults and errors differ between versions."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, Final

import jwt

from .jwk_sets import VerificationKey

_CHECKS: Final = ("signature", "iss", "sub", "aud", "jti", "exp", "iat", "nbf")


def read_unverified(unverified: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header and the claims of a JWT, of which nothing is checked but that all texts are Unicode.

    JSON can say half of a surrogate pair, which no key of Redis can hold. Raises jwt.InvalidTokenError.
    """
    try:
        header = jwt.get_unverified_header(unverified)
        claims = jwt.decode(unverified, options={"verify_signature": False})
        json.dumps([header, claims], ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # no Unicode, or nested too deeply for Python's parser
        raise jwt.DecodeError from error
    return header, claims


def decode(unverified: str, key: VerificationKey, **checks: Any) -> dict[str, Any]:
    """Return the claims of a JWT that passes the checks, which `jwt.decode` names. Raises jwt.PyJWTError."""
    try:
        claims: dict[str, Any] = jwt.decode(unverified, key.key, **checks)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:  # a time that is a list, or infinite
        raise jwt.DecodeError from error
    return claims


def checking_all(*, required: Collection[str], but: Collection[str] = ()) -> Any:
    """Return options of `jwt.decode` that demand the required claims, and check every claim that is there.

    `but` names those that the caller checks itself, by a rule that PyJWT does not have.
    """
    return {"require": list(required), **{f"verify_{check}": check not in but for check in _CHECKS}}


def check_assertion(claims: Mapping[str, Any], *, now: float, max_seconds: int, clock_seconds: int) -> None:
    """Check of a verified assertion what PyJWT does not: one audience, and the times (RFC 7523 §3).

    `max_seconds` is how far in the future it may expire, and how old it may be; `clock_seconds` how far the clock of
    its author may be ahead. Raises jwt.InvalidTokenError. Not checked: that it has not expired.
    """
    # An assertion for several audiences could be replayed here by one of the others.
    if isinstance(claims["aud"], list) and len(claims["aud"]) != 1:
        raise jwt.InvalidAudienceError
    # PyJWT accepts strings that look like numbers.
    if not all(type(claims.get(name, 0)) in {int, float} for name in ("exp", "iat", "nbf")):
        raise jwt.InvalidTokenError
    # Written so that NaN, which Python accepts in JSON, is refused.
    if not claims["exp"] <= now + max_seconds + clock_seconds:
        raise jwt.ExpiredSignatureError
    if not now - max_seconds <= claims.get("iat", now) <= now + clock_seconds:
        raise jwt.InvalidIssuedAtError
    if not claims.get("nbf", now) <= now + clock_seconds:
        raise jwt.ImmatureSignatureError
