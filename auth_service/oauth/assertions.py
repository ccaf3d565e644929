"""What holds for the assertions of clients, of workloads and about users alike (RFC 7523)."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any, Final

import jwt

from auth_service.keys.signing_keys import CLOCK_SKEW_SECONDS
from auth_service.protocol import jwk_sets
from auth_service.protocol.errors import OAuthError
from auth_service.storage.identifiers import Identifiers

CLIENT_CLOCK_SECONDS: Final = 60 + CLOCK_SKEW_SECONDS
"""How far the clock of the author may be ahead, as users' machines are not exact. The expiry is checked exactly."""
MAX_JTI_LENGTH: Final = 256


def read_header(header: Mapping[str, Any], *, types: Collection[str | None]) -> tuple[str, str | None]:
    """Return the algorithm and the key id that the header of an assertion names; its `typ` must be one of `types`.

    `jwk`, `jku`, `x5c` and `x5u` are ignored: the key comes from where the author publishes its own. Raises
    jwt.PyJWTError.
    """
    algorithm, kid = header.get("alg"), header.get("kid")
    if algorithm not in jwk_sets.ALGORITHMS or header.get("typ") not in types:
        raise jwt.InvalidAlgorithmError
    if not (kid is None or isinstance(kid, str)):
        raise jwt.InvalidKeyError
    return algorithm, kid


def use_once(identifiers: Identifiers, assertion_id: str, *, expires_at: float) -> bool:
    """Use up an assertion; return False if it was used before, at any worker of any host.

    Raises ServiceUnavailable. Not checked: anything else. So it comes last, and only the author can use one up.
    """
    # Remembered until no host accepts it any more, even if the clock of the host is late.
    seconds = int(expires_at - time.time()) + 2 * CLOCK_SKEW_SECONDS + 1
    return identifiers.use_once(assertion_id, seconds=seconds)


def refused(reason: str) -> OAuthError:
    """Return the error for an assertion that is a grant (RFC 7521 §4.1)."""
    return OAuthError("invalid_grant", f"the assertion is not accepted: {reason}")
