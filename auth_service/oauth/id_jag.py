"""Enterprise-managed authorization: the identity provider vouches for a user of a client (ID-JAG).

"The draft" is draft-ietf-oauth-identity-assertion-authz-grant, as MCP's extension enterprise-managed-authorization
applies it. The identity provider of the gateway is the only issuer, so that its users are the same as those who log in
with a browser: known by the same subject, and on the same allow-lists. Only clients that the operator has declared for
it may use it: at the identity provider, the client has a fixed client_id.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import jwt

from auth_service.keys.signing_keys import CLOCK_SKEW_SECONDS
from auth_service.protocol.access import Profile
from auth_service.protocol.errors import LoginError
from auth_service.protocol.jwk_sets import VerificationKey
from auth_service.protocol.jwt_checks import check_assertion, checking_all, decode, read_unverified
from auth_service.storage.identifiers import Identifiers

from .assertions import CLIENT_CLOCK_SECONDS, MAX_JTI_LENGTH, read_header, refused, use_once
from .client_authentication import MAX_ASSERTION_SECONDS

TYPE: Final = "oauth-id-jag+jwt"

_CHECKS: Final = checking_all(
    required=("iss", "sub", "aud", "exp", "iat", "jti", "client_id", "resource"), but=("iat", "nbf")
)


class Vouching(Protocol):
    """The identity provider, as far as it vouches for users by assertions."""

    @property
    def issuer(self) -> str:
        """The claim `iss`."""

    def find_key(self, *, kid: str | None, algorithm: str) -> VerificationKey | None:
        """Return the key that a header names. Raises ServiceUnavailable."""

    def profile_of(self, claims: dict[str, Any]) -> Profile:
        """Return the user of verified claims. Raises LoginError."""


@dataclass(frozen=True, kw_only=True)
class UserAssertion:
    """A verified ID-JAG, for one client."""

    profile: Profile
    resource: str
    scope: str | None
    """What the identity provider lets the client have; None if it does not say."""
    assertion_id: str
    expires_at: float


class UserAssertions:
    """Verify ID-JAGs. Methods may raise ServiceUnavailable."""

    def __init__(
        self,
        provider: Vouching,
        identifiers: Identifiers,
        *,
        issuer: str,
        waiting: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """`issuer` is that of this service. A slash at its end makes no difference, as in client assertions.

        `waiting` is entered while the provider may be asked for its keys.
        """
        self._waiting = waiting
        self._provider = provider
        self._identifiers = identifiers
        self._audiences = [issuer, f"{issuer}/"]

    def verify(self, unverified: str, *, client_id: str) -> UserAssertion:
        """Return the assertion, which is not used up yet, for an authenticated client.

        Raises OAuthError `invalid_grant`.
        """
        try:
            claims = self._verify(unverified)
            profile = self._provider.profile_of(claims)
        except jwt.PyJWTError as error:
            raise refused(f"it is not valid: {type(error).__name__}") from error
        except LoginError as error:
            raise refused("it has no usable sub") from error
        if claims["client_id"] != client_id:
            raise refused("it is for another client")
        resource, scope = claims["resource"], claims.get("scope")
        if not isinstance(resource, str) or not isinstance(scope, str | None):
            raise refused("its resource and scope must be strings")
        if not 0 < len(claims["jti"]) <= MAX_JTI_LENGTH:
            raise refused("its jti is empty or too long")
        return UserAssertion(
            profile=profile,
            resource=resource,
            scope=scope,
            assertion_id=f"id-jag {self._provider.issuer} {claims['jti']}",
            expires_at=claims["exp"],
        )

    def use_up(self, assertion: UserAssertion) -> None:
        """Use up a verified assertion. Raises OAuthError `invalid_grant` if it was used before, at any worker."""
        if not use_once(self._identifiers, assertion.assertion_id, expires_at=assertion.expires_at):
            raise refused("it was used before: get a new one")

    def _verify(self, unverified: str) -> dict[str, Any]:
        """Return the claims of an assertion (the draft; RFC 7523 §3). Raises jwt.PyJWTError."""
        header, unverified_claims = read_unverified(unverified)
        algorithm, kid = read_header(header, types=(TYPE,))
        if unverified_claims.get("iss") != self._provider.issuer:  # before anything is fetched
            raise jwt.InvalidIssuerError
        with self._waiting():
            key = self._provider.find_key(kid=kid, algorithm=algorithm)
        if key is None:
            raise jwt.InvalidKeyError
        claims = decode(
            unverified,
            key,
            algorithms=[algorithm],
            issuer=self._provider.issuer,
            audience=self._audiences,
            leeway=CLOCK_SKEW_SECONDS,
            options=_CHECKS,
        )
        check_assertion(claims, now=time.time(), max_seconds=MAX_ASSERTION_SECONDS, clock_seconds=CLIENT_CLOCK_SECONDS)
        return claims


def is_id_jag(unverified: str) -> bool:
    """Whether an assertion says that it is an ID-JAG. Raises OAuthError `invalid_grant` for what is no JWT."""
    try:
        header, _ = read_unverified(unverified)
    except jwt.InvalidTokenError as error:
        raise refused("it is no JWT") from error
    return header.get("typ") == TYPE
