"""The grant type of token requests with an assertion of a third party (RFC 7523 §2.1).

The header `typ` of an assertion says what it is. An ID-JAG is about the user of a client, and that client has to
authenticate. Any other assertion is about a workload, which has no client.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from authlib.oauth2.rfc6749.grants import BaseGrant, TokenEndpointMixin

from auth_service.ops import audit
from auth_service.ops.audit import Event
from auth_service.protocol import resources, scopes
from auth_service.protocol.clients import JWT_BEARER_GRANT, Client
from auth_service.protocol.errors import OAuthError

from . import machine_tokens
from .id_jag import UserAssertion, UserAssertions, is_id_jag
from .machine_tokens import Holder, Target
from .server import AuthorizationServer
from .workloads import client_of

_CLIENT_PARAMETERS: Final = ("client_id", "client_secret", "client_assertion", "client_assertion_type")


class AssertionGrant(BaseGrant, TokenEndpointMixin):  # type: ignore[misc]  # Authlib ships no types
    """Issue an access token for an assertion of a trusted issuer. There is no refresh token."""

    GRANT_TYPE = JWT_BEARER_GRANT
    server: AuthorizationServer

    def validate_token_request(self) -> None:
        """Authenticate the client if the request must be of one."""
        if not self._unverified_assertion:
            raise OAuthError("invalid_request", "assertion is missing: send the token of a workload, or an ID-JAG")
        if self.server.user_assertions is not None and is_id_jag(self._unverified_assertion):
            self._authenticate_client()
        else:
            self._refuse_client()

    def create_token_response(self) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
        """Verify the assertion and the request, then use the assertion up, then issue an access token."""
        users, client = self.server.user_assertions, self.request.client
        if users is not None and client is not None:
            return 200, self._issue_to_user(users, client), []
        return 200, self._issue_to_workload(), []

    @property
    def _unverified_assertion(self) -> str:
        """The assertion. A file that it comes from may end with a line break."""
        return str(self.request.form.get("assertion", "")).strip()

    def _refuse_client(self) -> None:
        """Refuse a workload's request that names a client: no client may use its token, whatever it has registered."""
        names_client = any(name in self.request.form for name in _CLIENT_PARAMETERS)
        if names_client or "Authorization" in self.request.headers:
            raise OAuthError(
                "unauthorized_client", "a workload sends its assertion without client_id and client authentication"
            )

    def _authenticate_client(self) -> None:
        """Set the client of the request. No client has this grant type unless the operator has declared it so."""
        client = self.authenticate_token_endpoint_client()
        if self.request.auth_method == "none" or not client.check_grant_type(JWT_BEARER_GRANT):
            raise OAuthError("unauthorized_client", "the operator has not declared this client for assertions of users")
        self.request.client = client

    def _issue_to_workload(self) -> dict[str, Any]:
        server, form = self.server, self.request.form
        workload = server.workloads.verify(self._unverified_assertion)
        target = machine_tokens.choose_target(server, workload.trusted, form)
        # Last, so that a request that is refused for another reason can be sent again.
        server.workloads.use_up(workload)
        client_id = client_of(workload.name)
        holder = Holder(
            user=workload.user,
            name=workload.user,
            client_id=client_id,
            client_name=client_id,
            needs_authentication=False,
            basis=server.trust.basis_of_workload(workload.trusted, workload.key),
        )
        lifetime = workload.trusted.lifetime
        return machine_tokens.issue(server, holder, target, allowed=target.scope.split(), lifetime=lifetime)

    def _issue_to_user(self, users: UserAssertions, client: Client) -> dict[str, Any]:
        server = self.server
        assertion = users.verify(self._unverified_assertion, client_id=client.client_id)
        urls = {name: resource.url for name, resource in server.settings.resources.items()}
        name = resources.parse_resource(assertion.resource, urls, default=None)
        server.check_resource(self.request.form.get("resource"), urls[name])
        record = partial(
            audit.record,
            user=assertion.profile.subject,
            name=assertion.profile.login,
            client=client.client_id,
            resource=urls[name],
        )
        allowed = server.user_access.find_allowed(assertion.profile, name)
        if not allowed:
            record(Event.LOGIN_REFUSED, reason="the user may not use this server")
            raise OAuthError("invalid_grant", "the user may not use this server")
        target = Target(resource_url=urls[name], scope=self._choose_scope(assertion, name, allowed))
        if server.lacks_credentials(name, assertion.profile.subject):
            record(Event.LOGIN_REFUSED, reason="a credential is missing")
            raise OAuthError(
                "invalid_grant",
                "the server needs a credential of the user, who has to log in once with a browser: a page asks for it",
            )
        users.use_up(assertion)
        record(Event.LOGIN_ACCEPTED)
        holder = Holder(
            user=assertion.profile.subject,
            name=assertion.profile.login,
            client_id=client.client_id,
            client_name=client.name,
            needs_authentication=True,
            basis=server.trust.basis_of_user_assertion(client, self.request.client_key),
        )
        lifetime = server.settings.lifetimes.access_token
        return machine_tokens.issue(server, holder, target, allowed=allowed, lifetime=lifetime)

    def _choose_scope(self, assertion: UserAssertion, resource_name: str, allowed: frozenset[str]) -> str:
        """Return the scopes that the user may have, of those that the provider lets the client have.

        Raises OAuthError.
        """
        resource = self.server.settings.resources[resource_name]
        approved = resource.scopes if assertion.scope is None else scopes.parse(assertion.scope)
        may_have = [scope for scope in resource.scopes if scope in approved and scope in allowed]
        if not may_have or not resource.required_scopes <= set(may_have):
            raise OAuthError("invalid_scope", "the assertion lacks a scope that each request to this server needs")
        default = (assertion.scope is None and resource.required_scopes) or may_have
        requested = scopes.grantable(scopes.parse(self.request.form.get("scope")), supported=may_have, default=default)
        return " ".join(each for each in may_have if each in requested or each in resource.required_scopes)
