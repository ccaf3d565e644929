"""`/verify/NAME`: Traefik's ForwardAuth asks it before each request to resource NAME.

It is the hot path, so it is one ASGI callable without a framework. A token that has passed every check is remembered
with its answer. It passes again while the answer is fresh (REFRESH_SECONDS, at most until the token expires) and its
grant is known to be live (`grant_liveness`). After that it is checked again, and refused if that is not possible.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter, OrderedDict
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlsplit

from auth_service.app.responses import Header, Receive, Response, Send, empty_response, json_response, json_rpc_response
from auth_service.backends.assertions import BackendSigner, derive_identity_key
from auth_service.keys.access_tokens import ForgedTokenError, InvalidTokenError, VerifiedClaims, verify_access_token
from auth_service.keys.signing_keys import SigningKeys
from auth_service.ops import audit
from auth_service.ops.audit import Event
from auth_service.protocol.errors import ServiceUnavailable
from auth_service.protocol.metadata import protected_resource_url
from auth_service.settings import Credentials, Resource, Settings

from .grant_liveness import GrantLiveness, GrantWatch

PATH_PREFIX: Final = "/verify/"
REFRESH_SECONDS: Final = 25
"""Bridges accept an assertion for 60 s: also the last answer with it leaves more than half of that."""
MAX_TOKEN_BYTES: Final = 4096
MAX_URI_BYTES: Final = 16 * 1024
MAX_REMEMBERED: Final = 32_768
"""How many tokens a worker remembers, at about 3 KiB each. Only tokens that this service has signed are remembered."""
PASSED: Final = "passed"
NO_TOKEN: Final = "no_token"  # noqa: S105 - a name
INSUFFICIENT_SCOPE: Final = "insufficient_scope"
MAX_FORGERIES: Final = 4096
"""How many forged tokens are remembered, at about 150 bytes each, whose signature is not checked again."""

_TOKEN68 = re.compile(rb"[A-Za-z0-9\-._~+/]+=*")  # RFC 7235 §2.1
_AMBIGUOUS_PATH = re.compile(rb"%2f|%5c|%2e|%25|%00|\.\.|;|\\|//", re.IGNORECASE)
_HEADER_SAFE = "!\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"


class MalformedRequestError(Exception):
    """The request has a token or a path in a form that is refused. The text is for the client."""

    def __init__(self, text: str, *, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


@dataclass(slots=True, eq=False)
class _Remembered:
    """A token of this service for this resource, and the answer for it while its grant is live."""

    grant: GrantLiveness
    claims: VerifiedClaims
    answer: Response
    outcome: str
    fresh_from: float
    fresh_until: float

    def is_fresh(self) -> bool:
        """Whether the answer may be given again. After a clock was set back, an answer from the future may not."""
        return self.fresh_from <= time.time() < self.fresh_until


def parse_bearer_token(authorization: bytes) -> bytes | None:
    """Return the unverified token, or None if the scheme is another one.

    Raises MalformedRequestError if its syntax or length is not that of a token (RFC 6750 §2.1, RFC 7235 §2.1).
    """
    scheme, _, rest = authorization.partition(b" ")
    if scheme.lower() != b"bearer":
        return None
    token = rest.strip(b" ")
    if len(token) > MAX_TOKEN_BYTES or not _TOKEN68.fullmatch(token):
        raise MalformedRequestError("the Authorization header holds no well-formed bearer token")
    return token


def check_forwarded_uri(uri: bytes) -> None:
    """Refuse a token in the query (RFC 6750 §2.3), and paths that a router and a backend may read differently.

    `uri` is the path and query that the client sent to the router. Raises MalformedRequestError.
    """
    if len(uri) > MAX_URI_BYTES:
        raise MalformedRequestError(f"the URL is longer than {MAX_URI_BYTES} bytes: send less in it", status=414)
    path, _, query = uri.partition(b"?")
    if _AMBIGUOUS_PATH.search(path):
        raise MalformedRequestError("the path is ambiguous")
    if any(name == "access_token" for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True)):
        raise MalformedRequestError("a token in the query is not accepted")


def header_text(value: str) -> str:
    """Return a value as visible ASCII; other characters, and the percent sign, are percent-encoded as UTF-8."""
    return quote(value, safe=_HEADER_SAFE)


def challenge_without_token(resource: Resource) -> str:
    """Return the challenge to a request without a token (RFC 9728 §5.1, RFC 6750 §3)."""
    required = sorted(scope for scope, definition in resource.scopes.items() if definition.required)
    members = {"resource_metadata": protected_resource_url(resource.url)}
    return _challenge(members | ({"scope": " ".join(required)} if required else {}))


def _challenge(members: dict[str, str]) -> str:
    return "Bearer " + ", ".join(f'{member}="{value}"' for member, value in members.items())


class _ProtectedResource:
    """One resource: its challenges and its signer."""

    def __init__(self, name: str, resource: Resource, credentials: Credentials) -> None:
        self.name = name
        self.url = resource.url
        self.outcomes: Counter[str] = Counter()
        """The number of answers by outcome: `passed`, or the reason for a refusal."""
        self.usual_uri = urlsplit(resource.url).path.encode()
        self.required_scopes = resource.required_scopes
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

    def refuse(self, answer: Response, reason: str, *, token: _Remembered | None = None) -> Response:
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
        grantable = self._open_scopes | (claims.grantable_scopes & self._scopes)
        values = {
            b"x-gateway-identity": self._signer.sign_identity(claims, grantable=sorted(grantable - claims.scopes)),
            b"x-user-id": header_text(claims.subject),
            b"x-user-name": header_text(claims.name),
            b"x-client-id": header_text(claims.client_id),
            b"x-scopes": " ".join(header_text(scope) for scope in claims.scope.split()),
        }
        return empty_response(200, [(name, value.encode("ascii")) for name, value in values.items()])


class Verifier:
    """The ASGI callable behind `/verify/`."""

    def __init__(self, settings: Settings, credentials: Credentials, keys: SigningKeys, watch: GrantWatch) -> None:
        self._issuer = settings.issuer
        self._keys = keys
        self._watch = watch
        self._resources = {
            PATH_PREFIX + name: _ProtectedResource(name, resource, credentials)
            for name, resource in settings.resources.items()
        }
        self.outcomes = {resource.name: resource.outcomes for resource in self._resources.values()}
        self._remembered: OrderedDict[tuple[_ProtectedResource, bytes], _Remembered] = OrderedDict()
        self._forgeries: OrderedDict[bytes, None] = OrderedDict()

    async def __call__(self, scope: MutableMapping[str, Any], _receive: Receive, send: Send) -> None:
        """Answer one ForwardAuth request; the resource is in the path, which Traefik's configuration sets."""
        resource = self._resources.get(scope["path"])
        if resource is None:
            answer = _NOT_FOUND
        else:
            try:
                authorization = self._find_authorization(resource, scope["headers"])
                if authorization is None:
                    answer = resource.refuse(resource.no_token, NO_TOKEN)
                else:
                    answer = await self._decide(resource, authorization)
            except MalformedRequestError as error:
                refusal = resource.refusal(error.status, "invalid_request", str(error))
                answer = resource.refuse(refusal, "malformed_request")
            except ServiceUnavailable as error:
                answer = resource.refuse(_unavailable(error.retry_after), "unavailable")
        await send(answer.start)
        await send(answer.body)

    def forget(self) -> None:
        """Forget all tokens, as a key that signed some of them was removed."""
        self._remembered.clear()

    @staticmethod
    def _find_authorization(resource: _ProtectedResource, headers: list[Header]) -> bytes | None:
        """Return the one Authorization header. Raises MalformedRequestError."""
        authorization: bytes | None = None
        for name, value in headers:
            if name == b"authorization":
                if authorization is not None:
                    raise MalformedRequestError("more than one Authorization header")
                authorization = value
            elif name == b"x-forwarded-uri" and value != resource.usual_uri:
                check_forwarded_uri(value)
        return authorization

    async def _decide(self, resource: _ProtectedResource, authorization: bytes) -> Response:
        """Return the answer to a request with this header.

        Raises MalformedRequestError, ServiceUnavailable.
        """
        key = (resource, authorization)
        remembered = self._remembered.get(key)
        if remembered is None or not remembered.is_fresh():
            token = parse_bearer_token(authorization)
            if token is None:
                return resource.refuse(resource.no_token, NO_TOKEN)
            # Only in the usual form: with other spaces and case, one token could fill the memory of all.
            key = (resource, b"Bearer " + token)
            remembered = self._remembered.get(key)
            if remembered is None or not remembered.is_fresh():
                try:
                    remembered = self._verify(resource, token, remembered)
                except InvalidTokenError as error:
                    self._remembered.pop(key, None)
                    return resource.refuse(resource.invalid_token, str(error))
                self._remembered[key] = remembered
                if len(self._remembered) > MAX_REMEMBERED:
                    self._remembered.popitem(last=False)
        alive = self._watch.find_alive(remembered.grant)
        if alive is None:
            alive = await self._watch.is_alive(remembered.grant)
        if not alive:
            return resource.refuse(resource.invalid_token, "grant_ended", token=remembered)
        if key in self._remembered:  # after waiting for Redis it may be gone
            self._remembered.move_to_end(key)
        if remembered.outcome is not PASSED:
            return resource.refuse(remembered.answer, remembered.outcome, token=remembered)
        resource.outcomes[PASSED] += 1
        return remembered.answer

    def _verify(
        self, resource: _ProtectedResource, unverified_token: bytes, remembered: _Remembered | None
    ) -> _Remembered:
        """Check all but the grant, and sign an answer. Raises InvalidTokenError.

        For a remembered token it checks only what can change with time: its expiry, and whether its key is still there.
        """
        now = time.time()
        if (
            remembered is not None
            and remembered.fresh_from <= now < remembered.claims.expires_at
            and self._keys.find_key(unverified_token.partition(b".")[0].decode("ascii")) is not None
        ):
            return self._remember(resource, remembered.claims, now=now)
        digest = hashlib.sha256(unverified_token).digest()
        if digest in self._forgeries:
            raise ForgedTokenError("forged")
        try:
            claims = verify_access_token(
                self._keys, unverified_token.decode("ascii"), issuer=self._issuer, resources=[resource.url]
            )
        except ForgedTokenError:
            self._forgeries[digest] = None
            if len(self._forgeries) > MAX_FORGERIES:
                self._forgeries.popitem(last=False)
            raise
        return self._remember(resource, claims, now=now)

    def _remember(self, resource: _ProtectedResource, claims: VerifiedClaims, *, now: float) -> _Remembered:
        suffices = resource.required_scopes <= claims.scopes
        return _Remembered(
            grant=self._watch.grant(claims.sid),
            claims=claims,
            answer=resource.admit(claims) if suffices else resource.demand_scope(claims),
            outcome=PASSED if suffices else INSUFFICIENT_SCOPE,
            fresh_from=now,
            fresh_until=min(now + REFRESH_SECONDS, claims.expires_at),
        )


def _unavailable(retry_after: int) -> Response:
    text = f"the gateway cannot check the access token now: try again in {retry_after} seconds"
    return json_rpc_response(503, text, [(b"retry-after", str(retry_after).encode())])


_NOT_FOUND: Final = json_response(404, b'{"error":"not_found"}')
