"""Which claims of a JWT are checked by PyJWT, spelled out: its defaults differ between versions."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

_CHECKS: Final = ("signature", "iss", "sub", "aud", "jti", "exp", "iat", "nbf")


def checking_all(*, required: Collection[str], but: Collection[str] = ()) -> Any:
    """Return options of `jwt.decode` that demand the required claims, and check every claim that is there.

    `but` names those that the caller checks itself, by a rule that PyJWT does not have.
    """
    return {"require": list(required), **{f"verify_{check}": check not in but for check in _CHECKS}}
