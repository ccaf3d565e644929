"""Authorization requests: what a client asks a user to approve (RFC 6749 §4.1.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from auth_service.protocol import client_documents, pkce, redirect_uris, resources, scopes
from auth_service.protocol.clients import Client
from auth_service.protocol.display import display_text
from auth_service.protocol.errors import AuthorizationRedirectError, ClientDocumentError, OAuthError, PageError
from auth_service.settings import Settings

from .client_lookup import ClientLookup
from .document_pages import explain_document_error


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
    """Whether the client has named any of these; if not, they are the resource's default."""

    def without(self, scopes: Collection[str]) -> AuthorizationRequest:
        """Return the request without these scopes."""
        return dataclasses.replace(self, scopes=tuple(scope for scope in self.scopes if scope not in scopes))

    @property
    def client_id(self) -> str:
        """The client's identifier."""
        return self.client.client_id

    @property
    def client_name(self) -> str:
        """The name that the client has given itself."""
        return self.client.name

    @property
    def client_host(self) -> str | None:
        """The host that vouches for the client's name; None for a registered client, which no host vouches for."""
        return client_documents.host_of(self.client.client_id)


class AuthorizationRequests:
    """Validates authorization requests, of clients of either kind."""

    def __init__(self, settings: Settings, clients: ClientLookup) -> None:
        self._settings = settings
        self._clients = clients

    def parse(self, parameters: Mapping[str, str]) -> AuthorizationRequest:
        """Validate an authorization request, without side effects.

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
                "This link does not name an application",
                "Its client_id is missing. Nothing was allowed. Start again from the application that you want to "
                "connect.",
            )
        try:
            client = self._clients.find(client_id)
        except ClientDocumentError as error:
            raise explain_document_error(client_id, error) from error
        if client is None:
            raise PageError(
                "This application is not known here",
                "Its registration has expired or was removed. The application must register again.",
                help_clients=True,
            )
        return client

    def _parse_redirect_uri(self, client: Client, requested: str | None) -> str:
        """Return the redirect URI for the answer. Raises PageError."""
        redirect_uri = requested if requested is not None else client.get_default_redirect_uri()
        if redirect_uri is None or not client.check_redirect_uri(redirect_uri):
            raise PageError(
                "This application asked for an answer at an address that it has not registered",
                "Nothing was sent there. If you started this yourself, remove the connection in the application "
                "and add it again.",
                help_clients=True,
            )
        try:
            # The rules may have changed since the registration.
            redirect_uris.check(redirect_uri, self._settings.clients.redirect_schemes)
        except OAuthError as error:
            raise PageError(
                "This application asked for an answer at an address that is not allowed",
                f"Nothing was sent there: {display_text(error.description)}. The application must register another.",
                help_clients=True,
            ) from error
        # A redirect to this gateway would be a same-origin request (protocol/consent.py, rule 3). It could use the
        # remembered consent for another client.
        if redirect_uris.has_origin_of(redirect_uri, self._settings.issuer):
            raise PageError(
                "This application asked for an answer at this gateway itself",
                "No honest application does that. Nothing was sent there.",
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
            {name: resource.url for name, resource in self._settings.resources.items()},
            default=self._settings.default_resource,
        )
        supported = self._settings.resources[name].scopes
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
