"""One resource at `/verify`: its answers, with challenges (RFC 6750, RFC 9728) and identity assertions."""

from __future__ import annotations

from collections import Counter
from typing import Final
from urllib.parse import quote, urlsplit

from auth_service.app.responses import Response, empty_response, json_rpc_response
from auth_service.backends.assertions import BackendSigner, derive_identity_key
from auth_service.keys.access_tokens import VerifiedClaims
from auth_service.ops import audit
from auth_service.ops.audit import Event
from auth_service.protocol.clients import MACHINE_PREFIX, WORKLOAD_PREFIX
from auth_service.protocol.metadata import protected_resource_url
from auth_service.settings import Credentials, Resource

from .token_cache import CheckedToken

NO_TOKEN: Final = "no_token"  # noqa: S105 - a name

_HEADER_SAFE = "!\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"


def header_text(value: str) -> str:
    """Return a value as visible ASCII; other characters, and the percent sign, are percent-encoded as UTF-8."""
    return quote(value, safe=_HEADER_SAFE)


def challenge_without_token(resource: Resource) -> str:
    """Return the challenge to a request without a token (RFC 9728 §5.1, RFC 6750 §3)."""
    required = sorted(resource.required_scopes)
    members = {"resource_metadata": protected_resource_url(resource.url)}
    return _challenge(members | ({"scope": " ".join(required)} if required else {}))


def _challenge(members: dict[str, str]) -> str:
    return "Bearer " + ", ".join(f'{member}="{value}"' for member, value in members.items())


class ProtectedResource:
    """One resource: its challenges and its signer."""

    def __init__(self, name: str, resource: Resource, credentials: Credentials) -> None:
        self.name = name
        self.url = resource.url
        self.outcomes: Counter[str] = Counter()
        """The number of answers by outcome: `passed`, or the reason for a refusal."""
        self.usual_uri = urlsplit(resource.url).path.encode()
        self.required_scopes = resource.required_scopes
        # Prepared, as it is the same in each answer. None of the user's own header reaches the backend.
        self._credential = (
            {b"authorization": f"Bearer {credentials.backends[name]}"} if resource.backend_credential else {}
        )
        self._signer = BackendSigner(derive_identity_key(credentials, name))
        self._scopes = frozenset(resource.scopes)
        self._open_scopes = frozenset(
            scope for scope, definition in resource.scopes.items() if definition.allowed is None
        )
        """The scopes that everyone may be granted who may use the resource."""
        self._metadata_url = protected_resource_url(resource.url)
        self.no_token = self.refusal(401, None, "log in first: the WWW-Authenticate header says where")
        self.invalid_token = self.refusal(401, "invalid_token", "the access token is not valid here: log in again")

    def refusal(
        self, status: int, error: str | None, description: str, *, held_scopes: frozenset[str] = frozenset()
    ) -> Response:
        """Return a refusal with its challenge (RFC 6750 §3, RFC 9728 §5.1), which has no error if there was no token.

        It names every scope that the next token should have: those that each request needs, and those that the token
        has already, which a client would lose that asks for the scopes of the challenge only (step-up).
        """
        members = {} if error is None else {"error": error, "error_description": description}
        scopes = self.required_scopes | (held_scopes & self._scopes)
        challenge = (
            members
            | {"resource_metadata": self._metadata_url}
            | ({"scope": " ".join(sorted(scopes))} if scopes else {})
        )
        header = _challenge(challenge).encode("ascii")
        return json_rpc_response(status, description, [(b"www-authenticate", header)])

    def refuse(self, answer: Response, reason: str, *, token: CheckedToken | None = None) -> Response:
        """Count a refusal, write it to the audit log, and return it; `token` is one that this service has signed."""
        self.outcomes[reason] += 1
        if token is not None:
            sid = token.grant.sid
            audit.record(
                Event.VERIFY_REFUSED,
                resource=self.url,
                grant=sid,
                user=token.claims.subject,
                client=token.claims.client_id,
                reason=reason,
            )
        elif reason != NO_TOKEN:  # every client begins like this
            audit.record(Event.VERIFY_REFUSED, resource=self.url, reason=reason)
        return answer

    def demand_scope(self, claims: VerifiedClaims) -> Response:
        """Return the answer to a token that lacks a scope."""
        return self.refusal(
            403,
            "insufficient_scope",
            "the access token lacks a scope that this server requires",
            held_scopes=claims.scopes,
        )

    def admit(self, claims: VerifiedClaims) -> Response:
        """Return the answer that lets a request pass, with a new identity assertion."""
        # The token says what its user may be granted of the scopes with an allow-list. One that says nothing of them,
        # as those of earlier versions, stands for a user who may be granted none.
        grantable = claims.grantable_scopes & self._scopes
        # A machine or workload has what the operator has declared, and no user that could be asked for more.
        if not claims.subject.startswith((MACHINE_PREFIX, WORKLOAD_PREFIX)):
            grantable |= self._open_scopes
        values = self._credential | {
            b"x-gateway-identity": self._signer.sign_identity(claims, grantable=sorted(grantable - claims.scopes)),
            b"x-user-id": header_text(claims.subject),
            b"x-user-name": header_text(claims.name),
            b"x-client-id": header_text(claims.client_id),
            b"x-scopes": " ".join(header_text(scope) for scope in claims.scope.split()),
        }
        return empty_response(200, [(name, value.encode("ascii")) for name, value in values.items()])
