"""Cookies and form tokens, which tie pages and logins to one browser.

Two cookies, both unreadable to scripts, for this host only (`__Host-`: no other subdomain can set them), and not sent
with other sites' forms and frames (`SameSite=Lax`):
- the browser's: a random value that says nothing about the user, set by the first page;
- the session's: the secret of a server-side session, new at each sign-in (`Store.sessions`).

A form token is a hidden field of every form. It protects against forged requests (CSRF): it is signed for one browser
and one purpose, and has a nonce of its own, so that two tabs do not disturb each other.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Any

from flask import Response, g, request
from itsdangerous import BadData, BadTimeSignature, SignatureExpired, URLSafeTimedSerializer

from auth_service.app.composition import Parts
from auth_service.keys.serializers import make_serializer
from auth_service.protocol.access import Profile
from auth_service.protocol.errors import PageError
from auth_service.storage.sessions import Session

_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
"""What `secrets.token_urlsafe(32)` makes; anything else in a cookie is not ours."""
FORM_TOKEN_FIELD = "ticket"  # noqa: S105 - a name
"""This name, the salt and the key's name are those of pages that were open before an update."""


def browser_id(parts: Parts) -> str:
    """Return this browser's identifier, or a new one that `keep_browser` then sets."""
    if "browser" not in g:
        g.browser = _find_cookie(parts, "browser") or secrets.token_urlsafe(32)
    return str(g.browser)


def browser_fingerprint(parts: Parts) -> str:
    """Return the hash of the browser's identifier, the form in which it is stored and signed."""
    return hashlib.sha256(browser_id(parts).encode()).hexdigest()


def keep_browser(parts: Parts, response: Response) -> None:
    """Set the cookie with the browser's identifier."""
    _set_cookie(parts, response, "browser", browser_id(parts))


def sends_cookies(parts: Parts) -> bool:
    """Whether the browser sent the cookie that every page sets. One that blocks cookies does not."""
    return _find_cookie(parts, "browser") is not None


def find_session(parts: Parts) -> Session | None:
    """Return the session of this browser, if a user is signed in."""
    if "session" not in g:
        secret = _session_secret(parts)
        g.session = parts.store.sessions.find(secret) if secret else None
    found: Session | None = g.session
    return found


def is_signed_in_still(parts: Parts, sub: str) -> bool:
    """Return whether this browser still has a session of a user. Redis is asked again, as it may have ended."""
    g.pop("session", None)
    session = find_session(parts)
    return session is not None and session.sub == sub


def start_session(parts: Parts, response: Response, profile: Profile) -> None:
    """Sign this browser in, and end the session that it had."""
    sessions = parts.store.sessions
    if (former := _session_secret(parts)) is not None:
        sessions.end(former)
    secret = sessions.start(
        sub=profile.subject,
        name=profile.login,
        sealed_profile=parts.user_access.seal_profile(profile),
        lifetime=parts.settings.lifetimes.session,
    )
    _set_cookie(parts, response, "session", secret)


def forget_session(parts: Parts) -> None:
    """Sign this browser out. Its cookie stays and is worth nothing."""
    if (secret := _session_secret(parts)) is not None:
        parts.store.sessions.end(secret)
    g.session = None


def end_session(parts: Parts, response: Response) -> None:
    """Sign this browser out, and remove its cookie."""
    forget_session(parts)
    response.delete_cookie(
        _cookie_name(parts, "session"), path="/", secure=_is_secure(parts), httponly=True, samesite="Lax"
    )


def _session_secret(parts: Parts) -> str | None:
    return _find_cookie(parts, "session")


def _find_cookie(parts: Parts, which: str) -> str | None:
    """Return a cookie's value; None if it is not there exactly once, or has another form than ours.

    The name must have exactly these bytes. Werkzeug 3.1.3 strips all of Unicode's spaces, so it takes `\u2000__Host-x`,
    which any subdomain can set, for `__Host-x`.
    """
    name = _cookie_name(parts, which)
    pairs = (pair.strip(" ").partition("=") for pair in request.headers.get("Cookie", "").split(";"))
    values = [value for found, _, value in pairs if found == name]
    return values[0] if len(values) == 1 and _SECRET.fullmatch(values[0]) else None


def _is_secure(parts: Parts) -> bool:
    # The prefix needs Secure, which plain http rules out; settings allow that for a loopback issuer only.
    return parts.settings.issuer.startswith("https:")


def _cookie_name(parts: Parts, which: str) -> str:
    return f"{'__Host-' if _is_secure(parts) else ''}mcp-gateway-{which}"


def _set_cookie(parts: Parts, response: Response, which: str, value: str) -> None:
    response.set_cookie(
        _cookie_name(parts, which), value, secure=_is_secure(parts), httponly=True, samesite="Lax", path="/"
    )


# Form tokens


@dataclass(frozen=True, kw_only=True)
class FormToken:
    """A form token that this service signed for this purpose."""

    content: dict[str, Any]
    is_good: bool
    """Whether it is recent and of this browser. If not, the form is not the user's decision."""


def make_form_token(parts: Parts, purpose: str, content: dict[str, Any]) -> str:
    """Return a form's hidden field: what the form is about, bound to this browser."""
    members = {"browser": browser_fingerprint(parts), "nonce": secrets.token_urlsafe(8), "content": content}
    return str(_serializer(parts, purpose).dumps(members))


def parse_form_token(parts: Parts, purpose: str, unverified_token: str, *, lifetime: int | None = None) -> FormToken:
    """Return what the form token of a submitted form says. `lifetime` is in seconds, by default that of a login.

    Raises PageError if another site sent the form, or if this service did not sign the token.
    """
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        raise PageError(
            "Another website tried to answer for you",
            "The request was refused, and nothing was changed. Close that website if you do not know it.",
        )
    serializer = _serializer(parts, purpose)
    is_recent = True
    try:
        members = serializer.loads(unverified_token, max_age=lifetime or parts.settings.lifetimes.login)
    except SignatureExpired:
        members, is_recent = serializer.loads(unverified_token), False
    except (BadTimeSignature, BadData) as error:
        raise PageError(
            "This form was not made here",
            "Nothing was changed. Go back, reload the page, and try again.",
        ) from error
    is_same_browser = hmac.compare_digest(members["browser"], browser_fingerprint(parts))
    return FormToken(content=members["content"], is_good=is_recent and is_same_browser)


def _serializer(parts: Parts, purpose: str) -> URLSafeTimedSerializer:
    return make_serializer(parts.form_token_key, salt=f"mcp-oauth-gateway.ticket.{purpose}")
