"""The grant type of token requests with an assertion of a third party (RFC 7523 §2.1)."""

from __future__ import annotations

from typing import Any

from authlib.oauth2.rfc6749.grants import BaseGrant, TokenEndpointMixin

from auth_service.protocol.clients import JWT_BEARER_GRANT
from auth_service.protocol.errors import OAuthError

from . import machine_tokens
from .machine_tokens import Machine
from .server import AuthorizationServer
from .workloads import client_of

_CLIENT_PARAMETERS = ("client_id", "client_secret", "client_assertion", "client_assertion_type")


class AssertionGrant(BaseGrant, TokenEndpointMixin):  # type: ignore[misc]  # Authlib ships no types
    """Issue tokens to workloads, for which the issuer of their assertion vouches."""

    GRANT_TYPE = JWT_BEARER_GRANT
    server: AuthorizationServer

    def validate_token_request(self) -> None:
        """Refuse a request of a client: no client may use this grant type, whatever it has registered."""
        names_client = any(name in self.request.form for name in _CLIENT_PARAMETERS)
        if names_client or "Authorization" in self.request.headers:
            raise OAuthError(
                "unauthorized_client", "a workload sends its assertion without client_id and client authentication"
            )
        if "assertion" not in self.request.form:
            raise OAuthError("invalid_request", "assertion is missing: send the workload's token")

    def create_token_response(self) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
        """Verify the workload's token and the request, then use the token up, then issue an access token."""
        server, form = self.server, self.request.form
        workload = server.workloads.verify(form["assertion"])
        target = machine_tokens.choose_target(server, workload.trusted, form)
        # Last, so that a request that is refused for another reason can be sent again.
        server.workloads.use_up(workload)
        server.store.issuers.note(workload.name)
        client_id = client_of(workload.name)
        machine = Machine(
            user=workload.user,
            name=workload.user,
            client_id=client_id,
            client_name=client_id,
            needs_authentication=False,
        )
        return 200, machine_tokens.issue(server, machine, target, lifetime=workload.trusted.lifetime), []
