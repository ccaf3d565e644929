"""Introspection (RFC 7662): tell a client about its own tokens, and a server about tokens of its resource.

A server authenticates with HTTP Basic: its name in the settings, and its introspection key.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any, Final

from auth_service.keys.access_tokens import InvalidTokenError, VerifiedClaims, verify_access_token
from auth_service.ops import audit
from auth_service.ops.audit import Event
from auth_service.protocol.errors import OAuthError
from auth_service.settings import Credentials, Settings
from auth_service.storage.grants import Grant

from .client_authentication import parse_basic
from .server import AuthorizationServer

_INACTIVE: Final[dict[str, Any]] = {"active": False}


def derive_introspection_key(credentials: Credentials, resource_name: str) -> bytes:
    """Return the introspection key of a resource's server."""
    return credentials.derive_key(f"introspection-key:{resource_name}")


class Introspection:
    """Answer `POST /introspect`."""

    def __init__(self, settings: Settings, credentials: Credentials, server: AuthorizationServer) -> None:
        self._issuer = settings.issuer
        self._urls = {name: resource.url for name, resource in settings.resources.items()}
        self._keys = {name: derive_introspection_key(credentials, name) for name in settings.resources}
        self._server = server

    def answer(self, form: Mapping[str, str], *, authorization: str | None) -> dict[str, Any]:
        """Return the response to a request: `{"active": false}` for a token that does not concern the caller.

        Raises OAuthError `invalid_client` with status 401 for a caller that does not authenticate, or is a public
        client.
        """
        resource_url = self._find_resource_url(authorization)
        client_id = None if resource_url is not None else self._authenticate_client(form, authorization)
        description = self._describe(form, resource_url, client_id)
        audit.record(
            Event.TOKEN_INTROSPECTED,
            user=description.get("sub"),
            name=description.get("username"),
            client=client_id or description.get("client_id"),
            resource=resource_url or description.get("aud"),
            by="server" if client_id is None else "client",
            reason=None if description["active"] else "not active",
        )
        return description

    def _describe(self, form: Mapping[str, str], resource_url: str | None, client_id: str | None) -> dict[str, Any]:
        if (unverified_token := form.get("token")) is None:
            raise OAuthError("invalid_request", "token is missing")
        urls = list(self._urls.values()) if resource_url is None else [resource_url]
        try:
            claims = verify_access_token(self._server.keys, unverified_token, issuer=self._issuer, resources=urls)
        except InvalidTokenError:
            return _INACTIVE if client_id is None else self._describe_refresh_token(unverified_token, client_id)
        if client_id not in {None, claims.client_id} or self._server.store.grants.find(claims.sid) is None:
            return _INACTIVE
        if not self._server.trust.allows_token(claims):
            return _INACTIVE
        return self._describe_access_token(claims)

    def _find_resource_url(self, authorization: str | None) -> str | None:
        """Return the resource's URL if its server asks, None if a client does. Raises OAuthError."""
        name, unverified_key = parse_basic(authorization) or ("", "")
        if name not in self._keys:
            return None
        if not hmac.compare_digest(self._keys[name], unverified_key.encode()):
            raise OAuthError("invalid_client", "the introspection key is not this server's", status=401)
        return self._urls[name]

    def _authenticate_client(self, form: Mapping[str, str], authorization: str | None) -> str:
        authenticated = self._server.authenticator.authenticate(form, authorization=authorization)
        if authenticated.method == "none":
            raise OAuthError(
                "invalid_client", "a public client cannot authenticate, so it may not introspect tokens", status=401
            )
        return authenticated.client.client_id

    def _describe_access_token(self, claims: VerifiedClaims) -> dict[str, Any]:
        return {
            "active": True,
            "iss": self._issuer,
            "sub": claims.subject,
            "username": claims.name,
            "aud": claims.audience,
            "client_id": claims.client_id,
            "scope": claims.scope,
            "token_type": "Bearer",
            "jti": claims.token_id,
            "iat": claims.issued_at,
            "exp": claims.expires_at,
        }

    def _describe_refresh_token(self, unverified_token: str, client_id: str) -> dict[str, Any]:
        parsed = self._server.parse_refresh_token(unverified_token)
        grant: Grant | None = self._server.store.grants.find(parsed[0]) if parsed else None
        if parsed is None or grant is None or grant.client_id != client_id:
            return _INACTIVE
        if not self._server.trust.allows_grant(grant):
            return _INACTIVE
        expires_at = self._server.store.refresh_tokens.find_expiry(grant.sid, generation=parsed[1])
        if expires_at is None:
            return _INACTIVE
        return {
            "active": True,
            "iss": self._issuer,
            "sub": grant.sub,
            "username": grant.name,
            "aud": grant.resource,
            "client_id": grant.client_id,
            "scope": grant.scope,
            "exp": expires_at,
        }
