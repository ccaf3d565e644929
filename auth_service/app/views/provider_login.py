"""Send the browser to the identity provider, and recognize it when it returns."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit

from flask import Response, request

from auth_service.app.composition import Parts
from auth_service.idp import Login
from auth_service.protocol.errors import PageError

from .browser import browser_fingerprint, keep_browser, sends_cookies
from .pages import redirect_to
from .shown_request import Shown


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """Why a browser was sent to the identity provider."""

    shown: Shown | None = None
    """The authorization request; None for a sign-in to the gateway's own pages."""
    scopes: tuple[str, ...] = ()
    """The scopes that the user allowed."""
    home: bool = False
    """Whether a sign-in began on the home page."""


def send(parts: Parts, attempt: Attempt, *, other_account: bool = False) -> Response:
    """Send this browser to the identity provider; the login can only end in this browser."""
    state = secrets.token_urlsafe(32)
    parts.store.pending_logins.add(
        state,
        {"browser": browser_fingerprint(parts), "attempt": dataclasses.asdict(attempt)},
        lifetime=parts.settings.lifetimes.login,
    )
    url = parts.provider.authorization_url(state=state, code_challenge=_challenge(_verifier(parts, state)))
    response = redirect_to(_selecting_account(url) if other_account else url)
    keep_browser(parts, response)
    return response


def consume(parts: Parts, state: str) -> Attempt:
    """Return why this browser was sent away, once. Raises PageError if it was another browser, or too long ago."""
    login = parts.store.pending_logins.consume(state, browser=browser_fingerprint(parts)) if state else None
    if login is None and state and _is_of_a_browser(parts):
        # An attacker may have begun the login and sent the provider's URL to this user. The address bar of this browser
        # shows state and code now. If the user hands them over, the attacker could go on as this user.
        parts.store.pending_logins.drop(state)
    if login is None or "shown" not in login["attempt"]:  # from an earlier version, before the update
        raise cannot_be_continued(parts)
    attempt = login["attempt"]
    return Attempt(
        shown=Shown(**attempt["shown"]) if attempt["shown"] is not None else None,
        scopes=tuple(attempt["scopes"]),
        home=attempt.get("home", False),
    )


def _is_of_a_browser(parts: Parts) -> bool:
    """Whether a browser opens this page, and not a program that looks at each URL of its users, which has no cookie."""
    return sends_cookies(parts) or request.headers.get("Sec-Fetch-Mode") == "navigate"


def cannot_be_continued(parts: Parts) -> PageError:
    """Return the error for a login that is not under way in this browser."""
    if not sends_cookies(parts):
        return PageError(
            "This browser sent no cookie",
            "A sign-in must end in the browser in which it began, which a cookie tells. Nothing was allowed. Allow "
            f"cookies for {parts.host}, then start again from the application that you want to connect.",
            help_clients=True,
        )
    return PageError(
        "This sign-in cannot be continued",
        "It is finished already, took too long, or began in another browser. "
        "Nothing was allowed. Start again from the application that you want to connect.",
        help_clients=True,
    )


def finish(parts: Parts, parameters: dict[str, str]) -> Login:
    """Redeem the code that the browser has brought back. Raises LoginError, or ServiceUnavailable."""
    return parts.provider.finish_login(code=parameters["code"], code_verifier=_verifier(parts, parameters["state"]))


def _verifier(parts: Parts, state: str) -> str:
    """Return the code verifier of a login at the provider, derived from its state, so that nothing stores it."""
    return hmac.new(parts.provider_login_key, state.encode(), "sha256").hexdigest()


def _challenge(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def _selecting_account(url: str) -> str:
    """Ask the provider to let the user choose an account. GitHub and OpenID Connect use the same parameter."""
    parts = urlsplit(url)
    query = {**dict(parse_qsl(parts.query, keep_blank_values=True)), "prompt": "select_account"}
    return parts._replace(query=urlencode(query)).geturl()
