"""A service at which users connect their accounts: authorization code with PKCE, refresh, revocation (RFC 6749, 7009).

Services differ in how they answer, and tokens may stand anywhere in an answer, also in its errors. So nothing of an
answer but an error code that is known here goes into a log, an exception or a page.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeGuard
from urllib.parse import parse_qsl, quote_plus, urlencode, urlsplit

from auth_service.protocol.errors import GatewayError, ServiceUnavailable
from auth_service.settings import Connection

from . import http
from .thread_limit import ThreadLimit

MAX_CONCURRENT: Final = 8
"""How many threads of a worker may wait for all these services together."""
MAX_CONCURRENT_OF_ONE: Final = 4
"""How many of them may wait for one service."""
CALL_SECONDS: Final = 20
"""How long a call, and each read of it, may take.

That is long, as an answer that comes too late may hold the only refresh token that still works.
"""
MAX_TOKEN_BYTES: Final = 6000
"""A bridge hands at most 128 KiB over to a process: twenty of these, with their names."""

_VISIBLE = re.compile(r"[!-~]+")
ACCOUNT_REFUSED: Final = frozenset(
    {
        *("invalid_grant", "access_denied", "interaction_required", "login_required", "consent_required"),
        *("bad_refresh_token", "bad_verification_code"),  # GitHub
        *("invalid_refresh_token", "invalid_code", "code_already_used", "token_revoked", "token_expired"),  # Slack
        "account_inactive",
    }
)
"""Errors of the token endpoint after which only the user can connect the account again."""
CLIENT_REFUSED: Final = frozenset(
    {
        *("invalid_client", "unauthorized_client"),
        *("incorrect_client_credentials", "application_suspended"),  # GitHub
        *("bad_client_secret", "invalid_client_id"),  # Slack
    }
)
"""Errors of the token endpoint that say that the client or its secret is wrong."""
REDIRECT_REFUSED: Final = frozenset({"redirect_uri_mismatch", "bad_redirect_uri"})
"""Errors of the token endpoint that say that the callback URL is not registered: GitHub's, Slack's."""
_KNOWN: Final = (
    ACCOUNT_REFUSED
    | CLIENT_REFUSED
    | REDIRECT_REFUSED
    | {
        *("invalid_request", "invalid_scope", "unsupported_grant_type", "unsupported_response_type"),
        *("server_error", "temporarily_unavailable", "slow_down", "ratelimited", "unverified_user_email"),
    }
)
"""Errors that a log may name. Others are not quoted, as a token could stand in their place."""

log = logging.getLogger(__name__)


class AccountRefusedError(GatewayError):
    """The service refuses a code or a refresh token: the user has to connect the account again."""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What the token endpoint has given."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    lifetime: int | None = None
    """For how many seconds the access token is good; None if the service named no end."""


class ConnectedService:
    """One service, as one application that is registered there."""

    def __init__(
        self,
        settings: Connection,
        *,
        name: str,
        client_secret: str | None,
        callback_url: str,
        shared_limit: threading.BoundedSemaphore,
    ) -> None:
        """`name` is the key of the settings, for errors. `callback_url` is this application's alone.

        `shared_limit` bounds the threads that wait for all services together.
        """
        self.name = name
        self._settings = settings
        self._client_secret = client_secret
        self.callback_url = callback_url
        self.token_endpoint = settings.token_endpoint
        self.waiting = ThreadLimit(name, threading.BoundedSemaphore(MAX_CONCURRENT_OF_ONE), shared_limit).waiting
        """Counts this thread as waiting for the service. Raises ServiceUnavailable above a limit."""

    def authorization_url(self, *, state: str, code_challenge: str) -> str:
        """Return where to send the browser (RFC 6749 §4.1.1, RFC 7636 §4.3)."""
        parameters = {
            **self._settings.authorization_parameters,
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": self.callback_url,
            "state": state,
            "code_challenge": code_challenge,
            "code_challenge_method": "S256",
        }
        if self._settings.scopes:
            parameters["scope"] = " ".join(self._settings.scopes)
        return f"{self._settings.authorization_endpoint}?{urlencode(parameters)}"

    def is_issuer(self, issuer: str | None) -> bool:
        """Whether an answer with this `iss` can be of this service (RFC 9207 §2.4); most services send none."""
        if issuer is None:
            return True
        if self._settings.issuer is not None:
            return issuer == self._settings.issuer
        return _origin(issuer) == _origin(self._settings.authorization_endpoint)

    def redeem(self, *, code: str, code_verifier: str) -> Tokens:
        """Exchange a code. Raises AccountRefusedError, or ServiceUnavailable."""
        return self._ask_for_tokens(
            {
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": self.callback_url,
                "code_verifier": code_verifier,
            }
        )

    def refresh(self, refresh_token: str) -> Tokens:
        """Return new tokens; with the old refresh token if it was not replaced (RFC 6749 §6).

        Raises AccountRefusedError, or ServiceUnavailable.
        """
        tokens = self._ask_for_tokens({"grant_type": "refresh_token", "refresh_token": refresh_token})
        if tokens.refresh_token is not None:
            return tokens
        return dataclasses.replace(tokens, refresh_token=refresh_token)

    def try_code(self, code: str) -> tuple[int, str | None]:
        """Return how the token endpoint refuses a code that it has not issued: its status, and its error if it has one.

        Raises ServiceUnavailable if no whole answer comes.
        """
        form = {"grant_type": "authorization_code", "code": code, "code_verifier": code}
        answer = self._post(self._settings.token_endpoint, {**form, "redirect_uri": self.callback_url})
        try:
            error = _read(answer).get("error")
        except ServiceUnavailable:
            error = None  # it speaks no OAuth
        return answer.status, None if error is None else known_error(error)

    @property
    def can_revoke(self) -> bool:
        """Whether the service has an endpoint where tokens are revoked."""
        return self._settings.revocation_endpoint is not None

    def revoke(self, token: str, *, is_refresh_token: bool) -> None:
        """Revoke a token (RFC 7009). Raises ServiceUnavailable if the service does not say that it has."""
        endpoint = self._settings.revocation_endpoint
        if endpoint is None:
            return
        hint = "refresh_token" if is_refresh_token else "access_token"
        answer = self._post(endpoint, {"token": token, "token_type_hint": hint})
        if answer.status not in {200, 204}:
            raise ServiceUnavailable(self.name)

    def _post(self, endpoint: str, form: Mapping[str, str]) -> http.Answer:
        client_id, secret = self._settings.client_id, self._client_secret
        basic = None
        if secret is None:
            form = {**form, "client_id": client_id}
        elif self._settings.token_endpoint_auth_method == "client_secret_post":  # noqa: S105 - the name of a method
            form = {**form, "client_id": client_id, "client_secret": secret}
        else:
            # Both parts are form-encoded first (RFC 6749 §2.3.1).
            basic = quote_plus(client_id), quote_plus(secret)
        with self.waiting(), http.Session(seconds=CALL_SECONDS) as session:
            return http.call(session, "POST", endpoint, provider=self.name, basic=basic, data=form)

    def _ask_for_tokens(self, form: Mapping[str, str]) -> Tokens:
        answer = self._post(self._settings.token_endpoint, form)
        if answer.status not in {200, 201, 400, 401, 403}:
            log.error("%s: the token endpoint answered %d", self.name, answer.status)
            raise ServiceUnavailable(self.name)
        document = _read(answer)
        error = document.get("error") or None  # some services send an empty one with their tokens
        if error is not None or answer.status >= 400 or document.get("ok") is False:
            raise self._explain(error)
        if (tokens := _find_tokens(document)) is None:
            log.error("%s: the token endpoint answered without a usable access token", self.name)
            raise ServiceUnavailable(self.name)
        return tokens

    def _explain(self, error: object) -> AccountRefusedError | ServiceUnavailable:
        if isinstance(error, str) and error in ACCOUNT_REFUSED:
            return AccountRefusedError(f"{self.name}: {error}")
        # Such as a wrong client secret, which only the operator can mend: the user's account stays.
        log.error("%s: the token endpoint answered with the error %s", self.name, known_error(error))
        return ServiceUnavailable(self.name)


def known_error(error: object) -> str:
    """Return an OAuth error for the log."""
    return error if isinstance(error, str) and error in _KNOWN else "(one that is not known here)"


def _read(answer: http.Answer) -> dict[str, Any]:
    """Return the members of an answer: JSON, or a form as some services send it. Raises ServiceUnavailable."""
    media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type != "application/x-www-form-urlencoded":
        return answer.document()
    try:
        return dict(parse_qsl(answer.body.decode("utf-8", "replace"), max_num_fields=100))
    except ValueError as error:  # more fields
        raise ServiceUnavailable(answer.provider) from error


def _find_tokens(document: Mapping[str, Any]) -> Tokens | None:
    # Slack's token of a user, if no token of a bot was asked for.
    user = document.get("authed_user")
    if "access_token" not in document and isinstance(user, dict):
        document = user
    # `token_type` says nothing here: who uses the token knows what it is, and some services write a word of their own.
    access_token, refresh_token = document.get("access_token"), document.get("refresh_token")
    if not _is_token(access_token):
        return None
    return Tokens(
        access_token=access_token,
        refresh_token=refresh_token if _is_token(refresh_token) else None,
        lifetime=_find_lifetime(document.get("expires_in")),
    )


def _is_token(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and len(value) <= MAX_TOKEN_BYTES and _VISIBLE.fullmatch(value) is not None


def _find_lifetime(expires_in: object) -> int | None:
    """Return how long a token is good. Some services send a string, or 0 for a token that does not end."""
    if not isinstance(expires_in, int | float | str) or isinstance(expires_in, bool):
        return None
    try:
        seconds = int(float(expires_in))
    except (ValueError, OverflowError):
        return None
    return seconds if 0 < seconds < 10**10 else None


def _origin(url: str) -> tuple[str, str | None, int | None] | None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    return parts.scheme, parts.hostname, port
