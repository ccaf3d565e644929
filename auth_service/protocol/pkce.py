"""Proof Key for Code Exchange, S256 only, for every client (RFC 7636; OAuth 2.1 §4.1.1; RFC 9700 §2.1.1)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

from .errors import OAuthError

METHODS_SUPPORTED = ("S256",)

_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")  # base64url of a SHA-256 digest
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")


def parse_challenge(challenge: str | None, method: str | None) -> str:
    """Return the S256 code challenge of an authorization request.

    Raises OAuthError `invalid_request` for a missing code challenge. A missing method is refused too: it means `plain`
    (RFC 7636 §4.3), which an attacker who saw the request can satisfy.
    """
    if challenge is None:
        raise OAuthError("invalid_request", "code_challenge is missing: PKCE is required for every client")
    if method not in METHODS_SUPPORTED:
        raise OAuthError("invalid_request", "code_challenge_method must be S256")
    if not _CHALLENGE.fullmatch(challenge):
        raise OAuthError("invalid_request", "code_challenge is not the base64url form of a SHA-256 digest")
    return challenge


def verify(verifier: str | None, challenge: str) -> None:
    """Check the code verifier of a token request against the code challenge of the authorization request.

    Raises OAuthError: `invalid_request` if it is missing, `invalid_grant` if it does not match (RFC 7636 §4.6).
    """
    if verifier is None:
        raise OAuthError("invalid_request", "code_verifier is missing")
    digest = hashlib.sha256(verifier.encode("utf-8", "replace")).digest()
    expected = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    if not _VERIFIER.fullmatch(verifier) or not hmac.compare_digest(expected, challenge):
        raise OAuthError("invalid_grant", "code_verifier does not match the code_challenge")
