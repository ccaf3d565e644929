"""Which claims of a JWT are checked by PyJWT, spelled out: its defaults differ between versions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import jwt

_CHECKS: Final = ("signature", "iss", "sub", "aud", "jti", "exp", "iat", "nbf")


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
