"""Pages for people: rendering, and the headers that keep them from being framed, cached or scripted."""

from __future__ import annotations

from typing import Any

from flask import Response, make_response, render_template, request

from . import gateway

_PAGE_ENDPOINTS = frozenset({"authorize.authorize", "authorize.consent", "authorize.callback"})


def wants_page() -> bool:
    """Whether a person looks at the answer to this request, rather than a program."""
    return request.endpoint in _PAGE_ENDPOINTS


def render_page(template: str, *, status: int = 200, form_targets: tuple[str, ...] = (), **context: Any) -> Response:
    """Render a page. `form_targets` are CSP sources that a form's answer may redirect to beside this
    service.
    """
    response = make_response(
        render_template(template, stylesheet=f"{gateway().settings.issuer}/style.css", **context), status
    )
    protect(response, form_targets=form_targets)
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
    response.headers["Cache-Control"] = "no-store"
