"""Render pages, with headers that prevent framing, caching and scripts."""

from __future__ import annotations

import functools
import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Response, make_response, redirect, render_template, request
from werkzeug.datastructures import Headers

from auth_service.app.composition import Parts
from auth_service.protocol import redirect_uris
from auth_service.protocol.errors import ServiceUnavailable

from . import forbid_storing

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_PAGE_ENDPOINTS = frozenset(
    {
        *("authorize.authorize", "authorize.decide", "callback.callback", "provide.show", "provide.act"),
        *("account.show", "account.act", "connections.callback", "home.show"),
    }
)
_STYLESHEET = Path(__file__).parent / "static" / "style.css"


class ExactResponse(Response):
    """A response whose `Location` is sent as it was set: Werkzeug would rewrite `app:///done` to `app:/done`."""

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:
        """Return the headers that are sent."""
        headers = super().get_wsgi_headers(environ)
        if (location := self.headers.get("Location")) is not None:
            headers["Location"] = location
        return headers


def wants_page() -> bool:
    """Whether the answer to this request is for a person in front of a browser."""
    return request.endpoint in _PAGE_ENDPOINTS or (request.endpoint is None and accepts_page())


def accepts_page() -> bool:
    """Whether the request asks for a page, as browsers do. Programs accept JSON or anything, but do not name HTML."""
    return "text/html" in request.headers.get("Accept", "")


def render_page(
    parts: Parts, template: str, *, status: int = 200, form_targets: tuple[str, ...] = (), **context: Any
) -> Response:
    """Render a page. `form_targets` are further CSP sources that the answer to its form may redirect to."""
    issuer = parts.settings.issuer
    response = make_response(
        render_template(
            template,
            stylesheet=f"{issuer}/style.css?{_stylesheet_version()}",
            account=f"{issuer}/account",
            home=f"{issuer}/" if parts.settings.home_page.enabled else None,
            host=parts.host,
            **context,
        ),
        status,
    )
    protect(response, form_targets=form_targets)
    return response


def redirect_to(url: str) -> Response:
    """Redirect the browser to a URL, for which it sends GET (303)."""
    response = make_response(redirect(url, code=303))
    protect(response)
    return response


def answer_head() -> Response:
    """Answer HEAD where GET would use up the browser's login or connection: a program only looked at the URL."""
    response = make_response("")
    protect(response)
    return response


def protect(response: Response, *, form_targets: tuple[str, ...] = ()) -> None:
    """Set the security headers of a page or of a redirect that belongs to the login."""
    form_action = " ".join(("'self'", *form_targets))
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action {form_action}"
    )
    response.headers["X-Frame-Options"] = "DENY"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    forbid_storing(response)


def provider_targets(parts: Parts) -> tuple[str, ...]:
    """Return the CSP sources that a login may lead through before it ends.

    Browsers check each redirect that follows a form against `form-action`. GitHub redirects to itself only. Other
    providers may redirect to hosts that are not known here, such as a company's own login: any https host may follow.
    """
    try:
        url = parts.provider.authorization_url(state="", code_challenge="")
    except ServiceUnavailable:  # it may answer again when the form is sent
        return ("https:",)
    source = redirect_uris.form_action_source(url)
    return (source,) if source in _SELF_CONTAINED else (source, "https:")


def moment(seconds: int) -> datetime:
    """Return a time as pages show it."""
    return datetime.fromtimestamp(seconds, UTC)


def capitalized(text: str) -> str:
    """Return a text with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]


_SELF_CONTAINED = frozenset({"https://github.com"})


@functools.cache
def _stylesheet_version() -> str:
    """Return the version of the stylesheet, so that no browser uses an old one with a new page."""
    return hashlib.sha256(_STYLESHEET.read_bytes()).hexdigest()[:12]
