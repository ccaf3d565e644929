"""What a bridge asks before it starts a process for a user, and the encrypted answer (docs/contracts.md)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.fernet import Fernet
from itsdangerous import BadSignature, URLSafeTimedSerializer

from auth_service.keys.serializers import make_serializer

from .assertions import IDENTITY_SALT

REQUEST_SALT: Final = "mcp-oauth-gateway.credential-request"
ANSWER_KEY: Final = b"mcp-oauth-gateway.credentials"
MAX_AGE_SECONDS: Final = 60
MAX_ASSERTION_AGE_SECONDS: Final = 300
"""A bridge has checked its age when the client's request came, and may start a second process for that one."""
MAX_CLOCK_SKEW_SECONDS: Final = 10
_MAX_NONCE_CHARACTERS: Final = 200


class InvalidCredentialRequestError(Exception):
    """A request is not signed by the server's bridge, is too old, or holds no assertion for this server."""


@dataclass(frozen=True, kw_only=True)
class CredentialRequest:
    """The user and grant that a bridge asks for. Whether the grant is live is not checked yet.

    `has_ended` is whether the user's access token has expired.
    """

    sub: str
    sid: str
    nonce: str = field(repr=False)
    has_ended: bool


class CredentialRequests:
    """The requests of one server's bridge."""

    def __init__(self, identity_key: bytes, *, audience: str) -> None:
        """`audience` is the resource's URL."""
        self._requests = make_serializer(identity_key, salt=REQUEST_SALT)
        self._assertions = make_serializer(identity_key, salt=IDENTITY_SALT)
        self._audience = audience
        self._fernet = Fernet(base64.urlsafe_b64encode(hmac.digest(identity_key, ANSWER_KEY, hashlib.sha256)))

    def parse(self, unverified_body: bytes) -> CredentialRequest:
        """Return a verified request. Raises InvalidCredentialRequestError."""
        request = _load(self._requests, unverified_body.decode("latin-1"), max_age=MAX_AGE_SECONDS)
        match request:
            case {"assertion": str(assertion), "nonce": str(nonce)} if 0 < len(nonce) <= _MAX_NONCE_CHARACTERS:
                claims = _load(self._assertions, assertion, max_age=MAX_ASSERTION_AGE_SECONDS)
            case _:
                raise InvalidCredentialRequestError("it has no assertion or no nonce")
        match claims:
            case {"sub": str(sub), "sid": str(sid), "aud": self._audience, "exp": int(expires_at)} if sub and sid:
                has_ended = expires_at + MAX_CLOCK_SKEW_SECONDS <= time.time()
                return CredentialRequest(sub=sub, sid=sid, nonce=nonce, has_ended=has_ended)
        raise InvalidCredentialRequestError("its assertion is not for this server")

    def seal(self, request: CredentialRequest, environment: Mapping[str, str], *, expires_at: int | None) -> str:
        """Encrypt the answer to a request for this server's bridge."""
        content = {
            "nonce": request.nonce,
            "sub": request.sub,
            "environment": dict(environment),
            "expires_at": expires_at,
        }
        return self._fernet.encrypt(json.dumps(content).encode()).decode("ascii")


def _load(serializer: URLSafeTimedSerializer, signed: str, *, max_age: int) -> Any:
    try:
        content, signed_at = serializer.loads(signed, return_timestamp=True)
    except BadSignature as error:
        raise InvalidCredentialRequestError("a signature does not verify") from error
    if not -MAX_CLOCK_SKEW_SECONDS <= time.time() - signed_at.timestamp() <= max_age:
        raise InvalidCredentialRequestError("a signature is not of now")
    return content
