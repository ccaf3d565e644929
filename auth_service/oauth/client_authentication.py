"""Client authentication (RFC 6749 §2.3; RFC 7523 §2.2 and §3; RFC 9700 §2.5)."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_plus

import jwt

from auth_service.keys.signing_keys import CLOCK_SKEW_SECONDS
from auth_service.protocol.clients import Client
from auth_service.protocol.errors import ClientDocumentError, OAuthError, ServiceUnavailable
from auth_service.protocol.jwk_sets import VerificationKey
from auth_service.protocol.jwt_checks import check_assertion, checking_all, decode, read_unverified
from auth_service.storage.identifiers import Identifiers

from .assertions import CLIENT_CLOCK_SECONDS, MAX_JTI_LENGTH, read_header, use_once
from .client_lookup import ClientLookup

JWT_BEARER: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
MAX_ASSERTION_SECONDS: Final = 3600
"""How far in the future an assertion may expire, and how old it may be."""

_TYPES: Final = (None, "JWT", "client-authentication+jwt")
# `check_assertion` checks the others, with more leeway than the expiry has.
_CHECKS: Final = checking_all(required=("iss", "sub", "aud", "exp", "jti"), but=("iat", "nbf"))


@dataclass(frozen=True, kw_only=True)
class Authenticated:
    """A client, and the method by which it authenticated; with `none` it has proved nothing."""

    client: Client
    method: str
    key: VerificationKey | None = None
    """The key that has signed the client's assertion."""


class ClientAuthenticator:
    """Authenticate clients by the method that they registered, or by one that their document lists."""

    def __init__(self, clients: ClientLookup, identifiers: Identifiers, *, issuer: str) -> None:
        """`issuer` is that of this service: it, or its token endpoint, must be the audience of assertions.

        The issuer may end with a slash, as the MCP Python SDK 1.x writes it: the same URL (RFC 3986 §6.2.3).
        """
        self._clients = clients
        self._identifiers = identifiers
        self._audiences = [issuer, f"{issuer}/", f"{issuer}/token"]

    def authenticate(self, form: Mapping[str, str], *, authorization: str | None) -> Authenticated:
        """Return the authenticated client of a request; `authorization` is its header of that name.

        Raises OAuthError `invalid_client` with status 401 for an unknown client and for failed authentication alike, so
        that clients whose registration has expired register again.
        """
        basic = parse_basic(authorization)
        secret = form.get("client_secret")
        assertion = form.get("client_assertion")
        if sum(proof is not None for proof in (basic, secret, assertion)) > 1:
            raise OAuthError("invalid_request", "the client authenticates in more than one way")
        client_id = form.get("client_id")
        if basic is not None:
            if client_id not in {None, basic[0]}:
                raise OAuthError("invalid_request", "the client authenticates in more than one way")
            return self._with_secret(basic[0], "client_secret_basic", basic[1])
        if assertion is not None:
            return self._with_assertion(client_id, assertion, form.get("client_assertion_type"))
        if secret is not None:
            return self._with_secret(client_id, "client_secret_post", secret)
        return Authenticated(client=self._find(client_id, "none"), method="none")

    def _with_secret(self, client_id: str | None, method: str, unverified_secret: str) -> Authenticated:
        client = self._find(client_id, method)
        if not client.check_client_secret(unverified_secret):
            raise _failed()
        return Authenticated(client=client, method=method)

    def _find(self, client_id: str | None, method: str) -> Client:
        if not client_id:
            raise OAuthError("invalid_client", "client_id is missing: the request names no client", status=401)
        try:
            client = self._clients.find(client_id)
        except ClientDocumentError as error:
            if error.is_transient:
                raise ServiceUnavailable("a client's metadata document") from error
            raise OAuthError("invalid_client", f"the client's metadata document: {error}", status=401) from error
        if client is None:
            raise OAuthError("invalid_client", "unknown client: register again", status=401)
        if not client.check_endpoint_auth_method(method, "token"):
            own = " or ".join((client.auth_method, *client.other_auth_methods))
            text = f"this client authenticates with {own}, but the request does with {method}"
            raise OAuthError("invalid_client", text, status=401)
        return client

    def _with_assertion(self, client_id: str | None, unverified: str, kind: str | None) -> Authenticated:
        if kind != JWT_BEARER:
            raise OAuthError("invalid_client", f"client_assertion_type must be {JWT_BEARER}", status=401)
        try:
            header, unverified_claims = read_unverified(unverified)
        except jwt.InvalidTokenError as error:
            raise _failed() from error
        subject = unverified_claims.get("sub")
        if not isinstance(subject, str) or client_id not in {None, subject}:
            raise _failed()
        client = self._find(subject, "private_key_jwt")
        try:
            claims, key = self._verify(client, unverified, header)
        except jwt.PyJWTError as error:
            raise _failed() from error
        except ClientDocumentError as error:
            if error.is_transient:
                raise ServiceUnavailable("a client's key set") from error
            raise OAuthError("invalid_client", f"the client's keys: {error}", status=401) from error
        # After all other checks, so that only the holder of the key can use up an identifier.
        assertion_id = f"assertion {client.client_id} {claims['jti']}"
        if not use_once(self._identifiers, assertion_id, expires_at=claims["exp"]):
            raise OAuthError("invalid_client", "the client assertion was used before", status=401)
        return Authenticated(client=client, method="private_key_jwt", key=key)

    def _verify(
        self, client: Client, unverified: str, header: dict[str, Any]
    ) -> tuple[dict[str, Any], VerificationKey]:
        """Return the claims of an assertion by RFC 7523 §3, and the key that has signed it. Raises jwt.PyJWTError."""
        algorithm, kid = read_header(header, types=_TYPES)
        if client.metadata.token_endpoint_auth_signing_alg not in {None, algorithm}:
            raise jwt.InvalidAlgorithmError
        if (key := self._clients.find_key(client, kid=kid, algorithm=algorithm)) is None:
            raise jwt.InvalidKeyError
        claims = decode(
            unverified,
            key,
            algorithms=[algorithm],
            issuer=client.client_id,
            subject=client.client_id,
            audience=self._audiences,
            leeway=CLOCK_SKEW_SECONDS,
            options=_CHECKS,
        )
        check_assertion(claims, now=time.time(), max_seconds=MAX_ASSERTION_SECONDS, clock_seconds=CLIENT_CLOCK_SECONDS)
        if not 0 < len(claims["jti"]) <= MAX_JTI_LENGTH:
            raise jwt.InvalidTokenError
        return claims, key


def _failed() -> OAuthError:
    return OAuthError(
        "invalid_client", "client authentication failed: the secret or the assertion is not this client's", status=401
    )


def parse_basic(header: str | None) -> tuple[str, str] | None:
    """Return the identifier and secret of HTTP Basic, None if the request does not use it.

    Raises OAuthError `invalid_client` if it is malformed. Both parts are form-encoded (RFC 6749 §2.3.1).
    """
    scheme, _, value = (header or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        client_id, colon, secret = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except ValueError as error:  # no base64, no ASCII, no UTF-8
        raise OAuthError("invalid_client", "malformed HTTP Basic authentication", status=401) from error
    if not colon:
        raise OAuthError("invalid_client", "malformed HTTP Basic authentication", status=401)
    return unquote_plus(client_id), unquote_plus(secret)
