"""The authorization server: Authlib at the token endpoint, and what OAuth 2.1 wants stricter.

Authlib chooses the grant that a token request names, has its client authenticated, checks that the client registered
that grant type, that the request has a code or refresh token which is known and the client's own, and raises the errors
of RFC 6749 §5.2. All else is done here and in `token_grants`, each for a reason that a test holds on to:
- parameters are read from where RFC 6749 puts them (query at /authorize, body at /token), each once;
- PKCE S256 is required of every client, at /authorize already;
- a client authenticates with exactly the one method it registered;
- a code is redeemed by one atomic operation before any token is made, and its replay by someone
  who proves client and verifier revokes the grant; so Authlib makes and stores no token;
- scopes that mean nothing here are ignored, at refresh too, and the answer says what was granted;
- no error text quotes what a client sent, where Authlib would raise ValueError on it.
"""

from __future__ import annotations

import base64
import hmac
import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from authlib.oauth2 import AuthorizationServer as AuthlibServer
from authlib.oauth2 import OAuth2Error, OAuth2Request
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload

from auth_service.keys.access_tokens import issue_access_token
from auth_service.keys.signing_keys import SigningKeys
from auth_service.ops import audit
from auth_service.ops.audit import Event
from auth_service.protocol import client_documents, pkce, redirect_uris, resources, scopes
from auth_service.protocol.clients import Client
from auth_service.protocol.display import display_text
from auth_service.protocol.errors import AuthorizationRedirectError, ClientDocumentError, OAuthError, PageError
from auth_service.settings import Settings
from auth_service.storage.codes import Code
from auth_service.storage.grants import Grant, new_sid
from auth_service.storage.store import Store

from .client_authentication import ClientAuthenticator
from .client_lookup import ClientLookup
from .document_pages import explain_document_error
from .revocation import Revocation
from .user_access import UserAccess

_DESCRIPTIONS = {
    "invalid_grant": "the refresh token is unknown, expired, revoked or of another client: log in again",
    "unsupported_grant_type": "grant_type must be one of authorization_code, refresh_token",
    "unauthorized_client": "the client has not registered this grant type: register it in grant_types",
}
"""What to say of errors that Authlib describes by the client's own words, or not at all."""

# Authlib writes whole tokens into its DEBUG lines.
logging.getLogger("authlib").setLevel(logging.INFO)

ON_THE_WAY_SECONDS = 5
"""How much longer an access token is good than `expires_in` says.

A client counts from when it reads the answer, and a request takes its time to arrive. Some clients take a 401 on a
token that they believe in for the end of the login, and send their user to log in again instead of refreshing.
"""


@dataclass(frozen=True, kw_only=True)
class AuthorizationRequest:
    """A validated authorization request: what the user is asked to approve."""

    client: Client
    redirect_uri: str
    state: str | None
    code_challenge: str
    resource_name: str
    scopes: tuple[str, ...]
    names_scopes: bool = True
    """Whether the client asked for these; the resource's own choice stands in for a request that named none."""

    @property
    def client_id(self) -> str:
        """The client's identifier."""
        return self.client.client_id

    @property
    def client_name(self) -> str:
        """What the client calls itself."""
        return self.client.name

    @property
    def client_host(self) -> str | None:
        """The host that vouches for the client's name; None for a registered client, for which nobody does."""
        return client_documents.host_of(self.client.client_id)


class FormRequest(OAuth2Request):  # type: ignore[misc]  # Authlib ships no types
    """A request as Authlib wants it, from parameters that were already read from the right place."""

    def __init__(self, uri: str, parameters: Mapping[str, str], *, authorization: str | None = None) -> None:
        headers = {} if authorization is None else {"Authorization": authorization}
        super().__init__("POST", uri, headers=headers)
        self.payload = BasicOAuth2Payload(dict(parameters))

    @property
    def form(self) -> dict[str, str]:
        """The parameters."""
        return cast("dict[str, str]", self.payload.data)


class AuthorizationServer(AuthlibServer):  # type: ignore[misc]  # Authlib ships no types
    """Validates authorization and token requests, and issues codes and tokens."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        keys: SigningKeys,
        user_access: UserAccess,
        clients: ClientLookup,
        *,
        revocation: Revocation,
        refresh_key: bytes,
    ) -> None:
        """`refresh_key` makes refresh tokens, which need not be stored that way."""
        super().__init__()
        self.settings = settings
        self.store = store
        self.keys = keys
        self.user_access = user_access
        self.clients = clients
        self.revocation = revocation
        self.authenticator = ClientAuthenticator(clients, store.identifiers, issuer=settings.issuer)
        self.refresh_key = refresh_key

    # What Authlib asks of a framework integration

    def query_client(self, client_id: str) -> Client | None:
        """Return the client of that identifier."""
        return self.clients.find(client_id)

    def create_oauth2_request(self, request: FormRequest) -> FormRequest:
        """Take the request as it is."""
        return request

    def handle_response(self, _status: int, body: dict[str, Any], _headers: Any) -> dict[str, Any]:
        """Return the body; the views know the rest."""
        return body

    def handle_error_response(self, _request: OAuth2Request, error: OAuth2Error) -> NoReturn:
        """Raise Authlib's error as ours, which one handler renders."""
        raise OAuthError(error.error, _DESCRIPTIONS.get(error.error) or error.description) from error

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Authlib's signals have no listener."""

    def authenticate_client(
        self,
        request: FormRequest,
        methods: list[str],
        endpoint: str = "token",
    ) -> Client:
        """Return the client that the request proves (`client_authentication`)."""
        authenticated = self.authenticator.authenticate(
            request.form, authorization=request.headers.get("Authorization")
        )
        request.auth_method = authenticated.method
        return authenticated.client

    # Authorization endpoint

    def parse_authorization_request(self, parameters: Mapping[str, str]) -> AuthorizationRequest:
        """Validate an authorization request; has no side effect.

        Raises PageError while the redirect URI is not known to be the client's (RFC 6749 §4.1.2.1),
        AuthorizationRedirectError after that.
        """
        client = self._parse_client(parameters.get("client_id"))
        redirect_uri = self._parse_redirect_uri(client, parameters.get("redirect_uri"))
        try:
            return self._parse_validated(client, redirect_uri, parameters)
        except OAuthError as error:
            raise AuthorizationRedirectError(error, redirect_uri=redirect_uri, state=parameters.get("state")) from error

    def _parse_client(self, client_id: str | None) -> Client:
        if client_id is None:
            raise PageError(
                "This link does not say which application asks",
                "Its client_id is missing. Nothing was granted: start again from the application that you want to "
                "connect.",
            )
        try:
            client = self.query_client(client_id)
        except ClientDocumentError as error:
            raise explain_document_error(client_id, error) from error
        if client is None:
            raise PageError(
                "This application is not known here",
                "Its registration has expired or was removed. The application must register anew.",
                help_clients=True,
            )
        return client

    def _parse_redirect_uri(self, client: Client, requested: str | None) -> str:
        """Return where a client's answer may go. Raises PageError."""
        redirect_uri = requested if requested is not None else client.get_default_redirect_uri()
        if redirect_uri is None or not client.check_redirect_uri(redirect_uri):
            raise PageError(
                "This application asked for an answer at an address it has not registered",
                "Nothing was sent there. If you started this yourself, remove the connection "
                "in the application and add it again.",
                help_clients=True,
            )
        try:
            # The rules may have been others when it was registered.
            redirect_uris.check(redirect_uri, self.settings.clients.redirect_schemes)
        except OAuthError as error:
            raise PageError(
                "This application asked for an answer at an address where none may go",
                f"Nothing was sent there: {display_text(error.description)}. The application must register another.",
                help_clients=True,
            ) from error
        # An answer that leads back here would be a request of this gateway's own making, which browsers vouch for
        # (protocol/consent.py, rule 3): it could ask for what the user has approved for another client.
        if redirect_uris.has_origin_of(redirect_uri, self.settings.issuer):
            raise PageError(
                "This application asked for an answer at this gateway itself",
                "No honest application does. Nothing was sent there.",
            )
        return redirect_uri

    def _parse_validated(
        self, client: Client, redirect_uri: str, parameters: Mapping[str, str]
    ) -> AuthorizationRequest:
        if parameters.get("response_type") is None:
            raise OAuthError("invalid_request", "response_type is missing")
        if parameters["response_type"] != "code":
            raise OAuthError("unsupported_response_type", "response_type must be code")
        if parameters.get("response_mode", "query") != "query":
            raise OAuthError("invalid_request", "response_mode must be query")
        if "request" in parameters or "request_uri" in parameters:
            raise OAuthError("request_not_supported", "request objects are not supported")
        challenge = pkce.parse_challenge(parameters.get("code_challenge"), parameters.get("code_challenge_method"))
        name = resources.parse_resource(
            parameters.get("resource"),
            {name: resource.url for name, resource in self.settings.resources.items()},
            default=self.settings.default_resource,
        )
        supported = self.settings.resources[name].scopes
        required = [scope for scope, definition in supported.items() if definition.required]
        requested = scopes.parse(parameters.get("scope"))
        chosen = scopes.grantable(requested, supported=supported, default=required or list(supported))
        return AuthorizationRequest(
            client=client,
            redirect_uri=redirect_uri,
            state=parameters.get("state"),
            code_challenge=challenge,
            resource_name=name,
            scopes=chosen,
            names_scopes=not set(chosen).isdisjoint(requested),
        )

    def issue_code(self, request: AuthorizationRequest, *, sub: str, name: str) -> str:
        """Issue the code for an approved request of a user who is allowed in; the caller has seen to both.

        It is good for the client as the request has it: one that has changed by the time it redeems the code gets
        nothing.
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
        self.store.codes.add(code, record, grant)
        audit.record(Event.CODE_ISSUED, of=grant, scope=grant.scope, redirect=grant.redirect)
        return code

    # Tokens

    def token_response(self, grant: Grant, *, scope: str, refresh_token: str | None) -> dict[str, Any]:
        """Return a token response (RFC 6749 §5.1) with a new access token of that grant."""
        lifetime = self.settings.lifetimes.access_token
        response: dict[str, Any] = {
            "access_token": issue_access_token(
                self.keys,
                issuer=self.settings.issuer,
                sub=grant.sub,
                name=grant.name,
                client_id=grant.client_id,
                scope=scope,
                resource=grant.resource,
                sid=grant.sid,
                lifetime=lifetime + ON_THE_WAY_SECONDS,
                now=int(time.time()),
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

        Made, not stored: the same generation always yields the same token, which lets a repeated request
        have the same successor although nothing that could be stolen from Redis would yield it.
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

    def check_resource(self, requested: str | None, granted: str) -> None:
        """Check the `resource` of a token request, which may be left out but not be another (RFC 8707)."""
        if requested is None:
            return
        urls = {name: resource.url for name, resource in self.settings.resources.items()}
        if urls[resources.parse_resource(requested, urls, default=None)] != granted:
            raise OAuthError("invalid_target", "the grant is for another resource")

    def scopes_of(self, grant: Grant) -> tuple[str, ...]:
        """Return what was granted, without the scopes that the operator has taken from the resource since.

        Raises OAuthError if nothing remains. Not checked: that the resource is still there.
        """
        granted = scopes.parse(grant.scope)
        if (name := self.settings.find_resource_name(grant.resource)) is None:
            return granted
        remaining = tuple(scope for scope in granted if scope in self.settings.resources[name].scopes)
        if not remaining:
            raise OAuthError("invalid_grant", "the resource no longer has any scope that was granted")
        return remaining
