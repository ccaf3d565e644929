"""`/verify/NAME`: Traefik's ForwardAuth asks it before each request to resource NAME.

It is the hot path, so it is one ASGI callable without a framework. A token that has passed every check is remembered
with its answer (`token_cache`). It passes again while the answer is fresh (REFRESH_SECONDS, at most until the token
expires) and its grant is known to be live (`grant_liveness`). After that it is checked again, and refused if that is
not possible.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import MutableMapping
from typing import Any, Final
from urllib.parse import parse_qsl

from auth_service.app.responses import Header, Receive, Response, Send, json_response, json_rpc_response
from auth_service.keys.access_tokens import ForgedTokenError, InvalidTokenError, VerifiedClaims, verify_access_token
from auth_service.keys.signing_keys import SigningKeys
from auth_service.oauth.settings_trust import make_trust
from auth_service.protocol.errors import ServiceUnavailable
from auth_service.settings import Credentials, Settings

from .grant_liveness import GrantWatch
from .protected_resource import NO_TOKEN, ProtectedResource
from .token_cache import CheckedToken, TokenCache

PATH_PREFIX: Final = "/verify/"
REFRESH_SECONDS: Final = 25
"""Bridges accept an assertion for 60 s: also the last answer with it leaves more than half of that."""
MAX_TOKEN_BYTES: Final = 4096
MAX_URI_BYTES: Final = 16 * 1024
METHODS: Final = frozenset({b"GET", b"POST", b"DELETE", b"HEAD", b"OPTIONS"})
"""What may reach an MCP server. A server that answers TRACE would give away the credential that the gateway adds."""
PASSED: Final = "passed"
INSUFFICIENT_SCOPE: Final = "insufficient_scope"

_TOKEN68 = re.compile(rb"[A-Za-z0-9\-._~+/]+=*")  # RFC 7235 §2.1
_AMBIGUOUS_PATH = re.compile(rb"%2f|%5c|%2e|%25|%00|\.\.|;|\\|//", re.IGNORECASE)


class MethodNotAllowedError(Exception):
    """The request has a method that no MCP server gets."""


class MalformedRequestError(Exception):
    """The request has a token, a path or forwarded headers in a form that is refused. The text is for the client."""

    def __init__(self, text: str, *, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


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


class Verifier:
    """The ASGI callable behind `/verify/`."""

    def __init__(self, settings: Settings, credentials: Credentials, keys: SigningKeys, watch: GrantWatch) -> None:
        self._issuer = settings.issuer
        self._trust = make_trust(settings, credentials)
        self._keys = keys
        self._watch = watch
        self._resources = {
            PATH_PREFIX + name: ProtectedResource(name, resource, credentials)
            for name, resource in settings.resources.items()
        }
        self.outcomes = {resource.name: resource.outcomes for resource in self._resources.values()}
        self.cache = TokenCache()

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
            except MethodNotAllowedError:
                answer = resource.refuse(_METHOD_NOT_ALLOWED, "method_not_allowed")
            except MalformedRequestError as error:
                refusal = resource.refusal(error.status, "invalid_request", str(error))
                answer = resource.refuse(refusal, "malformed_request")
            except ServiceUnavailable as error:
                answer = resource.refuse(_unavailable(error.retry_after), "unavailable")
        await send(answer.start)
        await send(answer.body)

    def forget(self) -> None:
        """Forget all tokens, as a key that signed some of them was removed."""
        self.cache.clear()

    @staticmethod
    def _find_authorization(resource: ProtectedResource, headers: list[Header]) -> bytes | None:
        """Return the one Authorization header. Raises MalformedRequestError, MethodNotAllowedError.

        With a token, the router must say which method and URL the client has sent: without them nothing is checked.
        """
        authorization: bytes | None = None
        has_uri = has_method = False
        for name, value in headers:
            if name == b"authorization":
                if authorization is not None:
                    raise MalformedRequestError("more than one Authorization header")
                authorization = value
            elif name == b"x-forwarded-uri":
                has_uri = True
                if value != resource.usual_uri:
                    check_forwarded_uri(value)
            elif name == b"x-forwarded-method":
                has_method = True
                if value not in METHODS:
                    raise MethodNotAllowedError
        if authorization is not None and not (has_uri and has_method):
            raise MalformedRequestError("the router does not say which method and URL the request has")
        return authorization

    async def _decide(self, resource: ProtectedResource, authorization: bytes) -> Response:
        """Return the answer to a request with this header.

        Raises MalformedRequestError, ServiceUnavailable.
        """
        key = (resource.name, authorization)
        remembered = self.cache.find(key)
        if remembered is None or not remembered.is_fresh():
            token = parse_bearer_token(authorization)
            if token is None:
                return resource.refuse(resource.no_token, NO_TOKEN)
            # Only in the usual form: with other spaces and case, one token could fill the memory of all.
            key = (resource.name, b"Bearer " + token)
            remembered = self.cache.find(key)
            if remembered is None or not remembered.is_fresh():
                try:
                    remembered = self._verify(resource, token, remembered)
                except InvalidTokenError as error:
                    self.cache.drop(key)
                    return resource.refuse(resource.invalid_token, str(error))
                self.cache.keep(key, remembered)
        alive = self._watch.find_alive(remembered.grant)
        if alive is None:
            alive = await self._watch.is_alive(remembered.grant)
        if not alive:
            return resource.refuse(resource.invalid_token, "grant_ended", token=remembered)
        self.cache.note_use(key)
        if remembered.outcome is not PASSED:
            return resource.refuse(remembered.answer, remembered.outcome, token=remembered)
        resource.outcomes[PASSED] += 1
        return remembered.answer

    def _verify(
        self, resource: ProtectedResource, unverified_token: bytes, remembered: CheckedToken | None
    ) -> CheckedToken:
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
        if self.cache.is_forged(digest):
            raise ForgedTokenError("forged")
        try:
            claims = verify_access_token(
                self._keys, unverified_token.decode("ascii"), issuer=self._issuer, resources=[resource.url]
            )
        except ForgedTokenError:
            self.cache.note_forged(digest)
            raise
        if not self._trust.allows_token(claims):
            raise InvalidTokenError("grant_ended")
        return self._remember(resource, claims, now=now)

    def _remember(self, resource: ProtectedResource, claims: VerifiedClaims, *, now: float) -> CheckedToken:
        suffices = resource.required_scopes <= claims.scopes
        return CheckedToken(
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


_METHOD_NOT_ALLOWED: Final = json_rpc_response(
    405,
    "an MCP server gets only requests of the methods that the Allow header names",
    [(b"allow", b", ".join(sorted(METHODS)))],
)
_NOT_FOUND: Final = json_response(404, b'{"error":"not_found"}')
