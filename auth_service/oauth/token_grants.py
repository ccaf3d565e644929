"""The grant types of token requests: authorization code, refresh token and client credentials."""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass
from typing import Any, Final

from authlib.oauth2.rfc6749 import grants as authlib_grants

from auth_service.ops import audit
from auth_service.ops.audit import Event
from auth_service.protocol import pkce, scopes
from auth_service.protocol.clients import Client
from auth_service.protocol.errors import OAuthError
from auth_service.storage.codes import Code, Redemption
from auth_service.storage.grants import Grant
from auth_service.storage.refresh_tokens import Rotation

from . import machine_tokens
from .declared_clients import user_of
from .machine_tokens import Holder
from .server import ON_THE_WAY_SECONDS, AuthorizationServer


class AuthorizationCodeGrant(authlib_grants.AuthorizationCodeGrant):  # type: ignore[misc]  # untyped
    """Redeem codes (RFC 6749 §4.1.3, OAuth 2.1 §4.1.3)."""

    server: AuthorizationServer

    def query_authorization_code(self, code: str, client: Client) -> Code | None:
        """Return the record of a code if the request proves all that the code is bound to; changes nothing.

        All checks come before the code is consumed. So an attacker with a forged code, another client, or no code
        verifier cannot spoil the login of the client that the code was issued to.
        """
        record = self.server.store.codes.find(code)
        if record is None or record.client_id != client.client_id:
            raise OAuthError("invalid_grant", "the code is unknown, expired or not this client's")
        sent_redirect_uri = self.request.payload.redirect_uri
        if sent_redirect_uri not in {None, record.redirect_uri}:
            raise OAuthError("invalid_grant", "redirect_uri is not that of the authorization request")
        # The user has allowed the client with its former name, redirect URIs, keys and client authentication.
        if not hmac.compare_digest(record.client_digest, client.digest):
            raise OAuthError("invalid_grant", "the client has changed since the user allowed it")
        pkce.verify(self.request.form.get("code_verifier"), record.code_challenge)
        self.server.check_resource(self.request.form.get("resource"), record.resource)
        # A redeemed code is noticed as a replay also after it has expired.
        if record.expires_at <= time.time() and not self.server.store.codes.was_redeemed(code):
            raise OAuthError("invalid_grant", "the code is expired")
        return record

    def create_token_response(self) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
        """Redeem the code, then issue tokens, so that each code yields tokens once."""
        server, client = self.server, self.request.client
        record: Code = self.request.authorization_code
        with_refresh_token = client.check_grant_type("refresh_token")
        lifetimes = server.settings.lifetimes
        grant = server.store.grants.find(record.sid)
        if grant is None:
            raise OAuthError("invalid_grant", "the grant was revoked")
        server.check_trust(grant)
        allowed = server.user_access.find_listed_scopes(grant)
        grant = server.narrow(grant, allowed)
        scope = " ".join(server.scopes_of(grant))
        result = server.store.codes.redeem(
            self.request.form["code"],
            record,
            grant,
            with_refresh_token=with_refresh_token,
            grant_lifetime=lifetimes.refresh_token
            if with_refresh_token
            else lifetimes.access_token + ON_THE_WAY_SECONDS,
        )
        if result is Redemption.REPLAYED:
            audit.record(Event.CODE_REPLAYED, of=grant)
            server.revocation.revoke_grant(record.sid, by="gateway", reason="its code was replayed")
            raise OAuthError("invalid_grant", "the code was used before: everything issued for it is revoked")
        if result is Redemption.GRANT_GONE:
            raise OAuthError("invalid_grant", "the grant was revoked")
        server.revocation.revoke_surplus(grant)
        audit.record(Event.CODE_REDEEMED, of=grant)
        refresh_token = server.make_refresh_token(grant.sid, 0) if with_refresh_token else None
        body = server.token_response(grant, scope=scope, allowed=allowed, refresh_token=refresh_token)
        audit.record(Event.TOKEN_ISSUED, of=grant, scope=scope)
        return 200, body, []


class RefreshTokenGrant(authlib_grants.RefreshTokenGrant):  # type: ignore[misc]  # Authlib ships no types
    """Rotate refresh tokens at each use (RFC 9700 §4.14). After a lost answer the same token can be sent again."""

    server: AuthorizationServer

    def authenticate_refresh_token(self, refresh_token: str) -> _PresentedToken | None:
        """Return the grant and generation that the token is for; changes nothing."""
        parsed = self.server.parse_refresh_token(refresh_token)
        grant = self.server.store.grants.find(parsed[0]) if parsed else None
        return _PresentedToken(grant=grant, generation=parsed[1]) if parsed and grant else None

    def _validate_token_scope(self, token: _PresentedToken) -> None:
        """Do nothing: `scopes.narrowed` decides, while Authlib refuses a request with a scope that is not granted."""

    def create_token_response(self) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
        """Check that the user may still use the resource, then rotate, then issue tokens."""
        server, form = self.server, self.request.form
        presented: _PresentedToken = self.request.refresh_token
        grant = presented.grant
        # All checks of the request come before the token is used.
        server.check_trust(grant)
        server.check_resource(form.get("resource"), grant.resource)
        if grant.needs_authentication and self.request.auth_method == "none":
            raise OAuthError("invalid_grant", "the client must authenticate, as it did when the user allowed it")
        requested = scopes.parse(form.get("scope"))
        scopes.narrowed(requested, granted=server.scopes_of(grant))
        allowed = server.user_access.recheck_scopes(grant)
        grant = server.narrow(grant, allowed)
        scope = " ".join(scopes.narrowed(requested, granted=server.scopes_of(grant)))
        rotation, successor = server.store.refresh_tokens.rotate(grant, generation=presented.generation)
        if rotation is Rotation.REUSED:
            audit.record(Event.TOKEN_REUSED, of=grant)
            server.revocation.revoke_grant(grant.sid, by="gateway", reason="one of its refresh tokens was used again")
            raise OAuthError("invalid_grant", "the refresh token was used before: the grant is revoked")
        if rotation is Rotation.GRANT_GONE:
            raise OAuthError("invalid_grant", "the grant was revoked")
        server.keep_credentials(grant)
        refresh_token = server.make_refresh_token(grant.sid, successor)
        body = server.token_response(grant, scope=scope, allowed=allowed, refresh_token=refresh_token)
        audit.record(Event.TOKEN_REFRESHED, of=grant, scope=scope)
        return 200, body, []


class ClientCredentialsGrant(authlib_grants.ClientCredentialsGrant):  # type: ignore[misc]  # Authlib ships no types
    """Issue tokens to machines that the operator has declared (RFC 6749 §4.4). There is no refresh token (§4.4.3)."""

    server: AuthorizationServer

    def validate_requested_scope(self) -> None:
        """Do nothing: the scopes are those of the declaration, of which a request may ask for some."""

    def create_token_response(self) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
        """Issue a token of what the operator has declared for the client."""
        server, client = self.server, self.request.client
        declared = client.declared
        target = machine_tokens.choose_target(server, declared, self.request.form)
        holder = Holder(
            user=user_of(client.client_id),
            name=client.client_id,
            client_id=client.client_id,
            client_name=client.name,
            needs_authentication=True,
            basis=server.trust.basis_of_machine(client, self.request.client_key),
        )
        body = machine_tokens.issue(server, holder, target, allowed=target.scope.split(), lifetime=declared.lifetime)
        self._end_if_deleted(client.client_id)
        return 200, body, []

    def _end_if_deleted(self, client_id: str) -> None:
        """End the grants of a client that was deleted since it authenticated, which its deletion may not have found.

        Raises OAuthError `invalid_client`.
        """
        store = self.server.store
        if client_id in self.server.settings.declared_clients or store.created_clients.find(client_id) is not None:
            return
        sids = store.grants.find_ids_of_client(client_id)
        self.server.revocation.revoke_grants(sids, by="gateway", reason="the client was deleted")
        raise OAuthError("invalid_client", "unknown client: it was deleted", status=401)


@dataclass(frozen=True, kw_only=True)
class _PresentedToken:
    """A refresh token that this service made, with Authlib's interface (`TokenMixin`)."""

    grant: Grant
    generation: int

    def check_client(self, client: Client) -> bool:
        """Whether the token was issued to this client."""
        return self.grant.client_id == client.client_id


TOKEN_GRANTS: Final = (AuthorizationCodeGrant, RefreshTokenGrant, ClientCredentialsGrant)
