"""The one place that turns errors into responses."""

from __future__ import annotations

import logging

from flask import Flask, Response, jsonify, make_response, redirect, request
from werkzeug.exceptions import HTTPException

from auth_service.audit import Event
from auth_service.errors import (
    AuthorizationRedirectError,
    ConsentDeclined,
    GatewayError,
    OAuthError,
    PageError,
    ServiceUnavailable,
    TooManyRequests,
    oauth_text,
)
from auth_service.protocol import redirect_uris
from auth_service.protocol.display import display_text
from auth_service.protocol.redirect_uris import TargetKind

from . import gateway, record
from .pages import protect, render_page, wants_page

log = logging.getLogger(__name__)

_REFUSALS = {
    "authorize.authorize": Event.AUTHORIZATION_REFUSED,
    "authorize.decide": Event.CONSENT_REFUSED,
    "callback.callback": Event.LOGIN_REFUSED,
    "account.act": Event.CONSENT_REFUSED,
    "registration.register": Event.REGISTRATION_REFUSED,
    "registration.read": Event.REGISTRATION_REFUSED,
    "registration.update": Event.REGISTRATION_REFUSED,
    "registration.delete": Event.REGISTRATION_REFUSED,
    "token.token": Event.TOKEN_REFUSED,
    "token.revoke": Event.REVOCATION_REFUSED,
    "token.introspect": Event.INTROSPECTION_REFUSED,
}
"""What it means for the audit log that an endpoint answers with an error."""


def register(app: Flask) -> None:
    """Install the handlers."""
    app.register_error_handler(AuthorizationRedirectError, _redirect_error)
    app.register_error_handler(OAuthError, _render_oauth_error)
    app.register_error_handler(PageError, _render_page_error)
    app.register_error_handler(ServiceUnavailable, _render_unavailable)
    app.register_error_handler(TooManyRequests, _render_too_many)
    app.register_error_handler(HTTPException, _render_http_error)
    app.register_error_handler(Exception, _render_unexpected)


def _redirect_error(error: AuthorizationRedirectError) -> Response:
    """Answer RFC 6749 §4.1.2.1, with `iss` as in every authorization response (RFC 9207)."""
    if isinstance(error, ConsentDeclined):
        record(Event.CONSENT_DECLINED)
    else:
        _record_refusal(error)
    location = redirect_uris.with_parameters(
        error.redirect_uri,
        {
            "error": error.error,
            "error_description": error.description,
            "state": error.state,
            "iss": gateway().settings.issuer,
        },
    )
    target = redirect_uris.describe_target(error.redirect_uri)
    # Anyone may register any website. While the user has decided nothing, a link to this gateway must not lead there
    # by itself, or it lends its good name to whoever made the link (RFC 9700 §4.11.2).
    if request.endpoint == "authorize.authorize" and target.kind is TargetKind.WEBSITE:
        return _show(_invalid_request(error, links=((f"Go back to {target.name}", location),)))
    response = make_response(redirect(location, code=303))
    protect(response)
    return response


def _render_oauth_error(error: OAuthError) -> Response:
    _record_refusal(error)
    if wants_page():
        return _show(_invalid_request(error))
    response = make_response(jsonify(error=error.error, error_description=error.description), error.status)
    response.headers["Cache-Control"] = "no-store"
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer" if error.error == "invalid_token" else 'Basic realm="token"'
    return response


def _invalid_request(error: OAuthError, *, links: tuple[tuple[str, str], ...] = ()) -> PageError:
    return PageError(
        "The application asked in a way that is not valid",
        f"The reason: {display_text(error.description)}. Nothing was granted. Start again from the "
        "application; if that does not help, tell its makers the reason.",
        status=error.status,
        links=links,
    )


def _render_page_error(error: PageError) -> Response:
    _record_refusal(error)
    return _show(error)


def _show(error: PageError) -> Response:
    return render_page("error.html", status=error.status, error=error)


def _render_unavailable(error: ServiceUnavailable) -> Response:
    log.error("%s", error)
    _record_refusal(error)
    if wants_page():
        page = PageError(
            "The gateway cannot answer right now",
            "Something it depends on does not respond. Try again in a moment.",
            status=503,
        )
        response = _show(page)
    else:
        response = make_response(jsonify(error="temporarily_unavailable", error_description="try again later"), 503)
        response.headers["Cache-Control"] = "no-store"
    response.headers["Retry-After"] = str(error.retry_after)
    return response


def _render_too_many(error: TooManyRequests) -> Response:
    """Answer RFC 6585 §4. OAuth has no code for it; `slow_down` (RFC 8628 §3.5) says the same."""
    _record_refusal(error)
    if wants_page():
        page = PageError("Too many requests came from here", f"Try again in {error.retry_after} seconds.", status=429)
        response = _show(page)
    else:
        response = make_response(jsonify(error="slow_down", error_description="too many requests"), 429)
        response.headers["Cache-Control"] = "no-store"
    response.headers["Retry-After"] = str(error.retry_after)
    return response


def _render_http_error(error: HTTPException) -> Response:
    status = error.code or 500
    if wants_page():
        return _show(PageError(error.name, error.description or "", status=status))
    code = "invalid_request" if status < 500 else "server_error"
    response = make_response(jsonify(error=code, error_description=error.name), status)
    if (allowed := getattr(error, "valid_methods", None)) is not None:
        response.headers["Allow"] = ", ".join(allowed)
    return response


def _render_unexpected(error: Exception) -> Response:
    log.error("unexpected error", exc_info=error)
    if wants_page():
        return _show(PageError("Something went wrong here", "The operator finds the reason in the log.", status=500))
    return make_response(jsonify(error="server_error", error_description="unexpected error"), 500)


def _record_refusal(error: GatewayError) -> None:
    """Write down that a request was refused, and why: causes are for the log only."""
    if (event := _REFUSALS.get(request.endpoint or "")) is not None:
        reasons = [str(error)]
        while isinstance(error.__cause__, GatewayError):
            error = error.__cause__
            # An error often quotes its cause, in the characters that its own form allows.
            if not any(oauth_text(str(error)) in oauth_text(reason) for reason in reasons):
                reasons.append(str(error))
        record(event, reason=": ".join(reasons))
