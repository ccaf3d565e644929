"""The identity of a request's user, from the gateway's signed assertion and nothing else."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from itsdangerous import BadSignature, URLSafeTimedSerializer, want_bytes

from stdio_bridge.io.secrecy import hide_memory
from stdio_bridge.options import DescriptorName
from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.errors import HttpError, UsageError
from stdio_bridge.protocol.signing import SIGNER_OPTIONS

# The gateway sets this header, and removes it from what clients send.
IDENTITY_HEADER = "x-gateway-identity"
_KEY_MIN_BYTES = 32
_MAX_AGE_SECONDS = 60
_MAX_CLOCK_SKEW_SECONDS = 10
_CACHED_ASSERTIONS = 1024


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A verified user, and how its client was let in. `expires` is in seconds since 1970; None means never.

    `scopes` are those that were granted, `grantable` others that the user can still be granted. `assertion` is kept
    only if the bridge asks for users' credentials, as it proves who the user is.
    """

    user: str
    login: str | None = None
    client: str | None = None
    grant: str | None = None
    resource: str | None = None
    expires: float | None = None
    scopes: frozenset[str] = frozenset()
    grantable: frozenset[str] = frozenset()
    assertion: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Revoked:
    """What a revocation notice is about: a grant, or all processes of a user."""

    grant: str | None = None
    user: str | None = None


ANYONE = Identity(user="")


class Verifier(Protocol):
    """Finds the user of a request from its assertion."""

    def identify(self, assertion: str | None) -> Identity:
        """Return the verified user. Raises HttpError."""

    def parse_revocation(self, body: bytes) -> Revoked:
        """Return what a revocation notice is about. Raises HttpError."""

    def check_survey(self, body: bytes) -> None:
        """Check that the operator asks what the server offers. Raises HttpError."""

    def sign_credential_request(self, assertion: str, nonce: str) -> bytes:
        """Return the body of a request for the credentials of the user of that assertion. Raises HttpError."""

    def key_for(self, purpose: str) -> bytes:
        """Return a key for this purpose: for values that only the bridge itself reads, or that the gateway reads."""


class NoVerifier:
    """For a bridge without a gateway: all requests are of one user."""

    def identify(self, assertion: str | None) -> Identity:
        """Return the only user, whatever the request claims."""
        return ANYONE

    def parse_revocation(self, body: bytes) -> Revoked:
        """Refuse: without a key no revocation can be verified."""
        raise _forbidden("this bridge takes no revocations: it was started with --no-identity")

    def check_survey(self, body: bytes) -> None:
        """Refuse: without a key no operator can be verified."""
        raise _forbidden("this bridge answers no survey: it was started with --no-identity")

    def sign_credential_request(self, assertion: str, nonce: str) -> bytes:
        """Refuse: without a key no user has credentials."""
        raise _forbidden("this bridge has no credentials of users: it was started with --no-identity")

    def key_for(self, purpose: str) -> bytes:
        """Return a random key."""
        return secrets.token_bytes(_KEY_MIN_BYTES)


class AssertionVerifier:
    """Accepts assertions signed with the server's key, up to a minute old, and until the token expires.

    The clocks of two hosts differ, and a request takes some time from the gateway's check to the bridge. So a signature
    a few seconds in the future is accepted, and so is a token that expired a few seconds ago. The token was valid at
    the gateway's check, and a client that the bridge refuses would not refresh it: only a challenge of the gateway
    sends it to its authorization server.

    Not checked: `aud`. The key is the server's own, so an assertion made for another server does not verify.
    """

    def __init__(self, key: bytes, *, now: Callable[[], float], keep_assertions: bool = False) -> None:
        """With `keep_assertions`, identities contain their assertions."""
        self._key = key
        self._keep_assertions = keep_assertions
        self._credential_requests = _serializer(key, "mcp-oauth-gateway.credential-request")
        self._assertions = _serializer(key, "mcp-oauth-gateway.identity")
        self._revocations = _serializer(key, "mcp-oauth-gateway.revocation")
        self._surveys = _serializer(key, "mcp-oauth-gateway.survey")
        self._now = now
        self._cache: dict[str, tuple[float, Identity]] = {}

    def identify(self, assertion: str | None) -> Identity:
        """Return the verified user. Raises HttpError on a missing, forged, old or expired assertion."""
        if assertion is None:
            raise _forbidden("the request carries no identity assertion: it did not come through the gateway")
        now = self._now()
        signed_at, identity = self._cache.get(assertion) or self._verify(assertion)
        if (
            not self._is_recent(signed_at)
            or identity.expires is None
            or identity.expires + _MAX_CLOCK_SKEW_SECONDS <= now
        ):
            raise _forbidden("the identity assertion is not valid now")
        return identity

    def _verify(self, assertion: str) -> tuple[float, Identity]:
        claims, signed_at = _load(self._assertions, assertion)
        user, grant, expires = claims.get("sub"), claims.get("sid"), claims.get("exp")
        resource = claims.get("aud")
        if not isinstance(user, str) or not user or not isinstance(grant, str):
            raise _forbidden("the identity assertion is not valid")
        if not isinstance(expires, int | float):
            raise _forbidden("the identity assertion is not valid")
        if len(self._cache) >= _CACHED_ASSERTIONS:
            del self._cache[next(iter(self._cache))]
        verified = (
            signed_at,
            Identity(
                user=user,
                login=_text_in(claims.get("name")),
                client=_text_in(claims.get("client_id")),
                grant=grant,
                resource=_text_in(resource),
                expires=float(expires),
                scopes=_scopes_in(claims.get("scope")),
                grantable=_scopes_in(claims.get("grantable_scope")),
                assertion=assertion if self._keep_assertions else None,
            ),
        )
        self._cache[assertion] = verified
        return verified

    def parse_revocation(self, body: bytes) -> Revoked:
        """Return what a revocation notice is about. Raises HttpError, also for an old notice about a user.

        A notice about a grant never becomes too old, as a grant that has ended stays ended. A user can log in again.
        """
        claims, signed_at = _load(self._revocations, body.decode("latin-1"))
        grant, user = claims.get("sid"), claims.get("sub")
        if isinstance(grant, str):
            return Revoked(grant=grant)
        if isinstance(user, str) and user:
            if not self._is_recent(signed_at):
                raise _forbidden("the revocation is not valid now")
            return Revoked(user=user)
        raise _forbidden("the revocation is not valid")

    def sign_credential_request(self, assertion: str, nonce: str) -> bytes:
        """Return the body of a request for the credentials of the user of that assertion."""
        return want_bytes(self._credential_requests.dumps({"assertion": assertion, "nonce": nonce}))

    def check_survey(self, body: bytes) -> None:
        """Check that the operator asks what the server offers. Raises HttpError on a forged or old request."""
        _, signed_at = _load(self._surveys, body.decode("latin-1"))
        if not self._is_recent(signed_at):
            raise _forbidden("the request is not valid now")

    def _is_recent(self, signed_at: float) -> bool:
        return -_MAX_CLOCK_SKEW_SECONDS <= self._now() - signed_at <= _MAX_AGE_SECONDS

    def key_for(self, purpose: str) -> bytes:
        """Derive a key from the server's key; it differs from the one that signs assertions."""
        return hmac.digest(self._key, f"mcp-oauth-gateway.{purpose}".encode(), hashlib.sha256)


def _serializer(key: bytes, salt: str) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(key, salt=salt, signer_kwargs=dict(SIGNER_OPTIONS))


def _load(serializer: URLSafeTimedSerializer, signed: str) -> tuple[dict[str, Any], float]:
    try:
        claims, signed_at = serializer.loads(signed, return_timestamp=True)
    except BadSignature as error:
        raise _forbidden("the signature does not verify") from error
    if not isinstance(claims, dict):
        raise _forbidden("the signed value is not an object")
    return claims, signed_at.timestamp()


def _text_in(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _scopes_in(value: object) -> frozenset[str]:
    """Read the scopes of an assertion. An older gateway leaves some claims out, which allows less."""
    return frozenset(value.split(" ")) - {""} if isinstance(value, str) else frozenset()


def _forbidden(text: str) -> HttpError:
    return HttpError("403 Forbidden", jsonrpc.SERVER_ERROR, text)


def load_verifier(
    source: Path | DescriptorName | None,
    *,
    take_file: Callable[[DescriptorName], BinaryIO],
    now: Callable[[], float],
    keep_assertions: bool = False,
) -> Verifier:
    """Make the verifier for the key in that file; without a file, one that accepts every request. Raises UsageError."""
    if source is None:
        return NoVerifier()
    hide_memory()  # before the key is in it
    option = f"--require-identity {source if isinstance(source, Path) else f'fd:{source}'}"
    try:
        with source.open("rb") if isinstance(source, Path) else take_file(source) as file:
            key = file.read().strip()
    except OSError as error:
        raise UsageError(f"{option}: cannot be read: {error.strerror}") from error
    if len(key) < _KEY_MIN_BYTES:
        raise UsageError(f"{option}: must hold at least {_KEY_MIN_BYTES} bytes")
    return AssertionVerifier(key, now=now, keep_assertions=keep_assertions)
