"""Workloads: programs whose platform vouches for them by a token, which they exchange for an access token.

The token is an assertion by RFC 7523 §2.1. Its issuer, audience and subject must be those of one trusted issuer of the
settings, and it is good once.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import jwt

from auth_service.keys.signing_keys import CLOCK_SKEW_SECONDS
from auth_service.protocol import client_documents, jwk_sets
from auth_service.protocol.clients import WORKLOAD_PREFIX
from auth_service.protocol.errors import ClientDocumentError
from auth_service.protocol.jwk_sets import KeySetError, VerificationKey
from auth_service.protocol.jwt_checks import check_assertion, checking_all, decode, read_unverified
from auth_service.settings import MAX_SUBJECT_LENGTH, Settings, SettingsError, TrustedIssuer
from auth_service.storage.identifiers import Identifiers

from .assertions import CLIENT_CLOCK_SECONDS, MAX_JTI_LENGTH, read_header, refused, use_once
from .issuer_keys import IssuerKeys, discovery_url, fetch_keys
from .safe_fetch import SafeFetcher

MAX_ASSERTION_SECONDS: Final = 24 * 3600
"""How far in the future a workload's token may expire, and how old it may be: some last as long as their job."""

_TYPES: Final = (None, "JWT")
"""No other: an ID-JAG or an access token that the issuer makes too is no token of a workload (RFC 8725 §3.11)."""
_CHECKS: Final = checking_all(required=("iss", "sub", "aud", "exp", "iat"), but=("iat", "nbf"))


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A workload whose token is verified, and what the operator lets it do."""

    name: str
    """That of the trusted issuer."""
    trusted: TrustedIssuer
    key: VerificationKey
    """The key that has signed the token."""
    subject: str
    assertion_id: str
    """Names the token among all that may be used once."""
    expires_at: float

    @property
    def user(self) -> str:
        """The user that the workload acts as."""
        return f"{client_of(self.name)}:{self.subject}"


def client_of(name: str) -> str:
    """Return the client_id of all workloads of a trusted issuer, with which no client can authenticate."""
    return f"{WORKLOAD_PREFIX}{name}"


def check_issuers(settings: Settings) -> None:
    """Raise SettingsError for an issuer whose keys cannot be used or found."""
    for name, trusted in settings.trusted_issuers.items():
        try:
            if trusted.jwks is None:
                client_documents.check_url(discovery_url(trusted.issuer))
            else:
                jwk_sets.parse(trusted.jwks)
        except ClientDocumentError as error:
            text = f"trusted_issuers.{name}.issuer: its keys cannot be fetched, so that it needs jwks: {error}"
            raise SettingsError(text) from error
        except KeySetError as error:
            raise SettingsError(f"trusted_issuers.{name}.jwks: {error}") from error


class Workloads:
    """Verify workloads' tokens. Methods may raise ServiceUnavailable."""

    def __init__(self, settings: Settings, identifiers: Identifiers, fetcher: SafeFetcher) -> None:
        """`fetcher` gets the keys of issuers. Nothing is fetched yet."""
        self._trusted = {
            (trusted.issuer, trusted.audience): (name, trusted) for name, trusted in settings.trusted_issuers.items()
        }
        self._identifiers = identifiers
        self._keys = {
            issuer: IssuerKeys(issuer, partial(fetch_keys, issuer, fetcher)) for issuer, _audience in self._trusted
        }

    def verify(self, unverified: str) -> Workload:
        """Return the workload of a token, which is not used up yet. Raises OAuthError `invalid_grant`."""
        try:
            header, unverified_claims = read_unverified(unverified)
        except jwt.InvalidTokenError as error:
            raise refused("it is no JWT") from error
        name, trusted = self._find_trusted(unverified_claims)
        try:
            claims, key = self._verify(trusted, unverified, header)
        except jwt.PyJWTError as error:
            raise refused(f"it is not valid: {type(error).__name__}") from error
        subject = claims["sub"]
        if not (0 < len(subject) <= MAX_SUBJECT_LENGTH and subject.isprintable()):
            raise refused("its subject is too long, or not printable")
        if not trusted.admits_subject(subject):
            raise refused(f"no workload with the subject {subject} may use this gateway")
        if not trusted.has_claims(claims):
            raise refused(f"{subject} lacks a claim, or has another value of one, that this gateway demands")
        return Workload(
            name=name,
            trusted=trusted,
            key=key,
            subject=subject,
            assertion_id=f"workload {trusted.issuer} {_identifier(claims, unverified)}",
            expires_at=claims["exp"],
        )

    def use_up(self, workload: Workload) -> None:
        """Use up a verified token. Raises OAuthError `invalid_grant` if it was used before, at any worker or host."""
        if not use_once(self._identifiers, workload.assertion_id, expires_at=workload.expires_at):
            raise refused("it was used before: get a new one")

    def _find_trusted(self, unverified_claims: Mapping[str, Any]) -> tuple[str, TrustedIssuer]:
        issuer, audience = unverified_claims.get("iss"), unverified_claims.get("aud")
        if isinstance(audience, list) and len(audience) == 1:
            audience = audience[0]
        if not isinstance(issuer, str) or not isinstance(audience, str):
            raise refused("it must have one issuer and one audience")
        if (found := self._trusted.get((issuer, audience))) is None:
            raise refused("its issuer is not trusted, or not for its audience")
        return found

    def _verify(
        self, trusted: TrustedIssuer, unverified: str, header: Mapping[str, Any]
    ) -> tuple[dict[str, Any], VerificationKey]:
        """Return the claims of a token by RFC 7523 §3, and the key that has signed it. Raises jwt.PyJWTError."""
        algorithm, kid = read_header(header, types=_TYPES)
        if (key := self._find_key(trusted, kid=kid, algorithm=algorithm)) is None:
            raise jwt.InvalidKeyError
        claims = decode(
            unverified,
            key,
            algorithms=[algorithm],
            issuer=trusted.issuer,
            audience=trusted.audience,
            leeway=CLOCK_SKEW_SECONDS,
            options=_CHECKS,
        )
        check_assertion(claims, now=time.time(), max_seconds=MAX_ASSERTION_SECONDS, clock_seconds=CLIENT_CLOCK_SECONDS)
        return claims, key

    def _find_key(self, trusted: TrustedIssuer, *, kid: str | None, algorithm: str) -> VerificationKey | None:
        if trusted.jwks is not None:
            return jwk_sets.select(jwk_sets.parse(trusted.jwks), kid=kid, algorithm=algorithm)
        return self._keys[trusted.issuer].find(kid=kid, algorithm=algorithm)


def _identifier(claims: Mapping[str, Any], token: str) -> str:
    """Return what tells a token from all others of its issuer: its `jti`, else a digest.

    The digest leaves out the signature, which can often be written in several ways.
    """
    if "jti" not in claims:
        return hashlib.sha256(token.rpartition(".")[0].encode()).hexdigest()
    if not 0 < len(claims["jti"]) <= MAX_JTI_LENGTH:
        raise refused("its jti is empty or too long")
    return f"jti {claims['jti']}"
