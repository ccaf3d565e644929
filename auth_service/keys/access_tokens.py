"""Sign and verify access tokens (RFC 9068 profile, ES256 only)."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass

import jwt
from jwt.utils import base64url_decode

from auth_service.protocol.jwt_checks import checking_all
from auth_service.storage.grants import Grant

from .signing_keys import ALGORITHM, CLOCK_SKEW_SECONDS, TOKEN_TYPE, SigningKey, SigningKeys

_CHECKS = checking_all(required=("iss", "sub", "aud", "exp", "iat", "jti", "client_id", "scope", "sid", "name"))

# The one encoding of 64 bytes by RFC 4648 §3.5. Decoders accept many others, each of which would be another token to
# remember.
_SIGNATURE = re.compile(r"[A-Za-z0-9_-]{85}[AQgw]")


class InvalidTokenError(Exception):
    """An access token was refused. The text is one of a few names of reasons, and never quotes the token."""


class ForgedTokenError(InvalidTokenError):
    """The token is malformed, or the key that its header names has not signed it: it can never become valid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedClaims:
    """What a verified access token proves. Whether its grant still lives is not checked here."""

    subject: str
    name: str
    client_id: str
    scope: str
    audience: str
    sid: str
    token_id: str
    issued_at: int
    expires_at: int
    grantable_scope: str = ""
    """The scopes with an allow-list that the grant lacks and that the user may still be granted."""
    basis: str = ""
    """That of the grant (`Grant.basis`)."""

    @property
    def scopes(self) -> frozenset[str]:
        """The granted scope tokens."""
        return frozenset(self.scope.split())

    @property
    def grantable_scopes(self) -> frozenset[str]:
        """The tokens of `grantable_scope`."""
        return frozenset(self.grantable_scope.split())


def issue_access_token(
    keys: SigningKeys,
    *,
    issuer: str,
    sub: str,
    name: str,
    client_id: str,
    scope: str,
    resource: str,
    sid: str,
    lifetime: int,
    now: int,
    grantable_scope: str = "",
    basis: str = "",
) -> str:
    """Sign an access token (RFC 9068 §2.2) for exactly one resource.

    `scope` is space-separated (RFC 6749 §3.3), `sid` names the grant, `lifetime` and `now` are in seconds.
    `grantable_scope` are scopes with an allow-list that the user may be granted besides. `basis` is that of the grant.
    """
    key = keys.signing_key(now=now)
    keys.on_sign(key.kid, now + lifetime)
    claims = {
        "iss": issuer,
        "sub": sub,
        "aud": resource,
        "exp": now + lifetime,
        "iat": now,
        "jti": secrets.token_urlsafe(16),
        "client_id": client_id,
        "scope": scope,
        "sid": sid,
        "name": name,
    }
    if grantable_scope:
        claims["grantable_scope"] = grantable_scope
    if basis:
        claims["basis"] = basis
    return jwt.encode(claims, key.private_key, algorithm=ALGORITHM, headers={"typ": TOKEN_TYPE, "kid": key.kid})


def issue_for_grant(
    keys: SigningKeys,
    grant: Grant,
    *,
    issuer: str,
    lifetime: int,
    now: int,
    scope: str | None = None,
    grantable_scope: str = "",
) -> str:
    """Sign an access token of a grant as `issue_access_token` does. `scope` is by default that of the grant."""
    return issue_access_token(
        keys,
        issuer=issuer,
        sub=grant.sub,
        name=grant.name,
        client_id=grant.client_id,
        scope=grant.scope if scope is None else scope,
        resource=grant.resource,
        sid=grant.sid,
        lifetime=lifetime,
        now=now,
        grantable_scope=grantable_scope,
        basis=grant.basis,
    )


def verify_access_token(
    keys: SigningKeys, unverified_token: str, *, issuer: str, resources: Collection[str]
) -> VerifiedClaims:
    """Verify a token's header, signature, issuer, audience and times against the system clock.

    `resources` are the URLs of which its audience must be one. Raises InvalidTokenError. Not checked: that
    the grant lives, and whether the scope suffices.
    """
    key = _find_verification_key(keys, unverified_token)
    _refuse_hopeless(unverified_token, issuer=issuer, resources=resources)
    if not _SIGNATURE.fullmatch(unverified_token.rpartition(".")[2]):
        raise ForgedTokenError("malformed_token")
    try:
        claims = jwt.decode(
            unverified_token,
            key.public_key,
            algorithms=[ALGORITHM],
            issuer=issuer,
            audience=list(resources),
            leeway=CLOCK_SKEW_SECONDS,
            options=_CHECKS,
        )
    except jwt.InvalidSignatureError as error:
        raise ForgedTokenError("forged") from error
    except jwt.DecodeError as error:
        raise ForgedTokenError("malformed_token") from error
    except jwt.ImmatureSignatureError as error:
        raise InvalidTokenError("not_yet_valid") from error
    except jwt.InvalidTokenError as error:
        raise InvalidTokenError("malformed_token") from error
    # The leeway is for a token from a host whose clock is ahead. The expiry has none.
    if claims["exp"] <= time.time():
        raise InvalidTokenError("expired")
    # PyJWT accepts a list that contains the audience; our tokens name exactly one.
    texts = [claims[member] for member in ("sub", "name", "client_id", "scope", "aud", "sid", "jti")]
    texts += [claims.get("grantable_scope", ""), claims.get("basis", "")]
    if not all(isinstance(text, str) for text in texts):
        raise InvalidTokenError("malformed_token")
    return VerifiedClaims(
        subject=claims["sub"],
        name=claims["name"],
        client_id=claims["client_id"],
        scope=claims["scope"],
        audience=claims["aud"],
        sid=claims["sid"],
        token_id=claims["jti"],
        issued_at=int(claims["iat"]),
        expires_at=int(claims["exp"]),
        grantable_scope=claims.get("grantable_scope", ""),
        basis=claims.get("basis", ""),
    )


def _find_verification_key(keys: SigningKeys, unverified_token: str) -> SigningKey:
    """Return the key that the header names, if the header is byte for byte what `issue_access_token` writes.

    No other header is ever parsed. That rules out attacks by `alg`, `jwk`, `jku`, `x5u`, `x5c`, `crit`, `b64` and
    future parameters of JOSE.
    """
    key = keys.find_key(unverified_token.partition(".")[0])
    if key is None:
        raise InvalidTokenError("unknown_key")
    return key


def _refuse_hopeless(unverified_token: str, *, issuer: str, resources: Collection[str]) -> None:
    """Refuse a token whose own claims rule it out, at a tenth of the cost of a signature check; proves nothing else.

    Raises InvalidTokenError.
    """
    try:
        claims = json.loads(base64url_decode(unverified_token.split(".", 2)[1]))
        if claims["iss"] != issuer:
            raise InvalidTokenError("other_issuer")
        if claims["aud"] not in resources:
            raise InvalidTokenError("other_resource")
        if claims["exp"] <= time.time():
            raise InvalidTokenError("expired")
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise InvalidTokenError("malformed_token") from error
