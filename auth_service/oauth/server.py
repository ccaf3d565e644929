"""The authorization server: Authlib at the token endpoint, and the stricter rules of OAuth 2.1.

Authlib chooses the grant type that a token request names, has the client authenticated, and checks that the client has
registered that grant type and that the request has a known code or refresh token of this client. It raises the errors
of RFC 6749 §5.2. This module and `token_grants` do the rest, each with a test:
- parameters are read from where RFC 6749 puts them (query at /authorize, body at /token), each once;
- PKCE S256 is required of every client, already at /authorize;
- a client authenticates with exactly the one method it registered;
- a code is redeemed by one atomic operation before any token is made, and its replay with the right client and code
  verifier revokes the grant; so Authlib makes and stores no token;
- unknown scopes are ignored, at refresh too, and the answer says which scopes are granted;
- error texts do not quote what a client sent if Authlib would raise ValueError for it.
"""

from __future__ import annotations

import base64
import hmac
import logging
import secrets
import time
from collections.abc import Collection, Mapping
from typing import Any, Final, NoReturn, cast

from authlib.oauth2 import AuthorizationServer as AuthlibServer
from authlib.oauth2 import OAuth2Error, OAuth2Request
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload

from auth_service.keys.access_tokens import issue_for_grant
from auth_service.keys.signing_keys import SigningKeys
from auth_service.ops import audit
from auth_service.ops.audit import Event
from auth_service.protocol import redirect_uris, resources, scopes
from auth_service.protocol.clients import Client
from auth_service.protocol.errors import OAuthError
from auth_service.settings import Settings
from auth_service.storage.codes import Code
from auth_service.storage.grants import Grant, new_sid
from auth_service.storage.store import Store
from auth_service.storage.user_credentials import UserCredentials

from .authorization_requests import AuthorizationRequest
from .client_authentication import ClientAuthenticator
from .client_lookup import ClientLookup
from .id_jag import UserAssertions
from .revocation import Revocation
from .settings_trust import SettingsTrust, note_client
from .user_access import UserAccess
from .workloads import Workloads

_DESCRIPTIONS = {
    "invalid_grant": "the refresh token is unknown, expired, revoked or of another client: log in again",
    "unsupported_grant_type": "grant_type must be one of grant_types_supported in this server's metadata",
    "unauthorized_client": "the client has not registered this grant type: register it in grant_types",
}
"""Descriptions of errors which Authlib describes with the client's own words, or not at all."""

# Authlib writes whole tokens into its DEBUG lines.
logging.getLogger("authlib").setLevel(logging.INFO)

_NOT_LISTED: Final = "the user may no longer use this resource"
_NO_SCOPE_LEFT: Final = "the user may no longer have any scope that was granted"

ON_THE_WAY_SECONDS = 5
"""For how many seconds an access token is valid after `expires_in`.

A client counts from the time when it reads the answer, and a request takes time to arrive. If a token is refused that a
client takes for valid, some clients make the user log in again instead of refreshing the token.
"""


class FormRequest(OAuth2Request):  # type: ignore[misc]  # Authlib ships no types
    """A request in Authlib's form, with parameters that are already read from the right place."""

    def __init__(self, uri: str, parameters: Mapping[str, str], *, authorization: str | None = None) -> None:
        headers = {} if authorization is None else {"Authorization": authorization}
        super().__init__("POST", uri, headers=headers)
        self.payload = BasicOAuth2Payload(dict(parameters))

    @property
    def form(self) -> dict[str, str]:
        """The parameters."""
        return cast("dict[str, str]", self.payload.data)


class AuthorizationServer(AuthlibServer):  # type: ignore[misc]  # Authlib ships no types
    """Validate authorization and token requests, and issue codes and tokens."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        keys: SigningKeys,
        user_access: UserAccess,
        clients: ClientLookup,
        *,
        trust: SettingsTrust,
        workloads: Workloads,
        user_assertions: UserAssertions | None,
        revocation: Revocation,
        user_credentials: UserCredentials,
        refresh_key: bytes,
    ) -> None:
        """Refresh tokens are derived from `refresh_key`, so that they need not be stored."""
        super().__init__()
        self.settings = settings
        self.store = store
        self.keys = keys
        self.user_access = user_access
        self.trust = trust
        self.workloads = workloads
        self.user_assertions = user_assertions
        self.revocation = revocation
        self._user_credentials = user_credentials
        self.authenticator = ClientAuthenticator(clients, store.identifiers, issuer=settings.issuer)
        self.refresh_key = refresh_key

    # What Authlib asks of a framework integration

    def create_oauth2_request(self, request: FormRequest) -> FormRequest:
        """Return the request unchanged."""
        return request

    def handle_response(self, _status: int, body: dict[str, Any], _headers: Any) -> dict[str, Any]:
        """Return the body; the views add the rest."""
        return body

    def handle_error_response(self, _request: OAuth2Request, error: OAuth2Error) -> NoReturn:
        """Raise Authlib's error as an OAuthError, which one handler renders."""
        raise OAuthError(error.error, _DESCRIPTIONS.get(error.error) or error.description) from error

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Authlib's signals have no listener."""

    def authenticate_client(
        self,
        request: FormRequest,
        methods: list[str],
        endpoint: str = "token",
    ) -> Client:
        """Return the authenticated client of the request (`client_authentication`)."""
        authenticated = self.authenticator.authenticate(
            request.form, authorization=request.headers.get("Authorization")
        )
        request.auth_method = authenticated.method
        request.client_key = authenticated.key
        return authenticated.client

    # Authorization endpoint

    def issue_code(self, request: AuthorizationRequest, *, sub: str, name: str) -> tuple[str, Grant]:
        """Issue the code for a request; return it with its grant.

        Not checked here: that the user has allowed it, and may use the resource.

        The code is bound to the client's present metadata: a client that has changed since cannot redeem it.
        """
        now = int(time.time())
        resource = self.settings.resources[request.resource_name]
        grant = Grant(
            sid=new_sid(),
            sub=sub,
            name=name,
            client_id=request.client_id,
            client_name=request.client_name,
            resource=resource.url,
            scope=" ".join(request.scopes),
            redirect=redirect_uris.without_port(request.redirect_uri),
            created_at=now,
            needs_authentication=not request.client.check_endpoint_auth_method("none", "token"),
            basis=self.trust.basis_of_login(request.client, request.redirect_uri),
        )
        record = Code(
            sid=grant.sid,
            client_id=request.client_id,
            client_digest=request.client.digest,
            redirect_uri=request.redirect_uri,
            code_challenge=request.code_challenge,
            resource=resource.url,
            expires_at=now + self.settings.lifetimes.authorization_code,
        )
        code = secrets.token_urlsafe(32)
        note_client(self.store, grant)
        self.store.codes.add(code, record, grant)
        self.keep_credentials(grant)
        audit.record(Event.CODE_ISSUED, of=grant, scope=grant.scope, redirect=grant.redirect)
        return code, grant

    def keep_credentials(self, grant: Grant) -> None:
        """Let what the user has set for the resource of a new or renewed grant outlive that grant."""
        name = self.settings.find_resource_name(grant.resource)
        if name is not None and self.settings.resources[name].user_credentials:
            self._user_credentials.keep(name, grant.sub)

    def lacks_credentials(self, resource_name: str, sub: str) -> bool:
        """Whether a user has to provide something before a process of the server can start."""
        wanted = self.settings.resources[resource_name].user_credentials
        return bool(self._user_credentials.find_missing(resource_name, sub, list(wanted)))

    # Tokens

    def token_response(
        self,
        grant: Grant,
        *,
        scope: str,
        allowed: Collection[str],
        refresh_token: str | None,
        lifetime: int | None = None,
    ) -> dict[str, Any]:
        """Return a token response (RFC 6749 §5.1) with a new access token of that grant.

        `allowed` are all scopes that its user may have. `lifetime` is in seconds, if it is not that of users' tokens.
        """
        if lifetime is None:
            lifetime = self.settings.lifetimes.access_token
        response: dict[str, Any] = {
            "access_token": issue_for_grant(
                self.keys,
                grant,
                issuer=self.settings.issuer,
                scope=scope,
                lifetime=lifetime + ON_THE_WAY_SECONDS,
                now=int(time.time()),
                grantable_scope=self._grantable(grant, scope, allowed),
            ),
            "token_type": "Bearer",
            "expires_in": lifetime,
            "scope": scope,
        }
        if refresh_token is not None:
            response["refresh_token"] = refresh_token
        return response

    def make_refresh_token(self, sid: str, generation: int) -> str:
        """Return the refresh token of one generation of a grant.

        It is derived and not stored. The same generation has always the same token, so that a repeated request gets the
        same answer, and an attacker who reads Redis gets no token.
        """
        message = f"{sid}.{generation}"
        mac = hmac.new(self.refresh_key, message.encode(), "sha256").digest()
        return f"{message}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"

    def parse_refresh_token(self, unverified_token: str) -> tuple[str, int] | None:
        """Return the grant id and generation of a refresh token that this service made."""
        sid, _, rest = unverified_token.partition(".")
        generation = rest.partition(".")[0]
        if not (generation.isascii() and generation.isdecimal() and len(generation) < 10):
            return None
        if not hmac.compare_digest(self.make_refresh_token(sid, int(generation)).encode(), unverified_token.encode()):
            return None
        return sid, int(generation)

    def check_trust(self, grant: Grant) -> None:
        """End a grant that the settings do not allow any more. Raises OAuthError then."""
        if not self.trust.allows_grant(grant):
            reason = "the settings do not allow it any more"
            self.revocation.revoke_grant(grant.sid, by="gateway", reason=reason)
            raise OAuthError("invalid_grant", "the operator has changed what this client may do: log in again")

    def check_resource(self, requested: str | None, granted: str) -> None:
        """Check that the `resource` of a token request, if it has one, is that of the grant (RFC 8707)."""
        if requested is None:
            return
        urls = {name: resource.url for name, resource in self.settings.resources.items()}
        if urls[resources.parse_resource(requested, urls, default=None)] != granted:
            raise OAuthError("invalid_target", "the grant is for another resource")

    def _grantable(self, grant: Grant, scope: str, allowed: Collection[str]) -> str:
        """Return the scopes with an allow-list that a token with this scope lacks and that its user may have."""
        name = self.settings.find_resource_name(grant.resource)
        definitions = {} if name is None else self.settings.resources[name].scopes
        held = scopes.parse(scope)
        return " ".join(
            each
            for each, definition in definitions.items()
            if definition.allowed is not None and each in allowed and each not in held
        )

    def narrow(self, grant: Grant, allowed: Collection[str]) -> Grant:
        """Remove the scopes from a grant, for good, that its user may not have any more; return the rest of it.

        `allowed` are all scopes that the user may have. Ends the grant, and raises OAuthError, if the user may not have
        any or none of the granted ones.
        """
        name = self.settings.find_resource_name(grant.resource)
        # `scopes_of` leaves out those that the resource does not have.
        known = () if name is None else self.settings.resources[name].scopes
        granted = [scope for scope in scopes.parse(grant.scope) if scope in known]
        lost = [scope for scope in granted if scope not in allowed]
        if not allowed or (granted and lost == granted):
            reason = _NOT_LISTED if not allowed else _NO_SCOPE_LEFT
            self.revocation.revoke_grant(grant.sid, by="gateway", reason=reason)
            raise OAuthError("invalid_grant", reason)
        if not lost:
            return grant
        narrowed = self.store.grants.remove_scopes(grant.sid, lost)
        if narrowed is None:
            raise OAuthError("invalid_grant", "the grant was revoked")
        audit.record(
            Event.SCOPE_REMOVED,
            of=grant,
            scope=" ".join(lost),
            by="gateway",
            reason="the user may not have it any more",
        )
        return narrowed

    def scopes_of(self, grant: Grant) -> tuple[str, ...]:
        """Return the granted scopes, without those that the operator has removed from the resource since.

        Raises OAuthError if none is left. Not checked: that the resource still exists.
        """
        granted = scopes.parse(grant.scope)
        if (name := self.settings.find_resource_name(grant.resource)) is None:
            return granted
        remaining = tuple(scope for scope in granted if scope in self.settings.resources[name].scopes)
        if not remaining:
            raise OAuthError("invalid_grant", "the resource no longer has any scope that was granted")
        return remaining
