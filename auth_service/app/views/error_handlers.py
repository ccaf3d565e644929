"""Turn errors into responses."""

from __future__ import annotations

import contextlib
import logging
from functools import partial

from flask import Flask, Response, abort, jsonify, make_response, request
from werkzeug.exceptions import HTTPException

from auth_service.app.composition import Parts
from auth_service.ops.audit import Event
from auth_service.protocol import redirect_uris
from auth_service.protocol.display import display_text
from auth_service.protocol.errors import (
    AuthorizationRedirectError,
    ConsentDeclined,
    GatewayError,
    OAuthError,
    PageError,
    ServiceUnavailable,
    TooManyRequests,
    UnknownKey,
    oauth_text,
)
from auth_service.protocol.redirect_uris import TargetKind

from . import allow_any_origin, client_address, forbid_storing, record, statuses
from .pages import redirect_to, render_page, wants_page
from .shown_request import has_decided

log = logging.getLogger(__name__)

REFUSAL = "gateway.refusal"
"""The member of an ASGI scope that holds the status of a refusal which the ASGI layer has decided."""

_REFUSALS = {
    "authorize.authorize": Event.AUTHORIZATION_REFUSED,
    "authorize.decide": Event.CONSENT_REFUSED,
    "callback.callback": Event.LOGIN_REFUSED,
    "provide.show": Event.LOGIN_REFUSED,
    "provide.act": Event.LOGIN_REFUSED,
    "connections.callback": Event.CONNECTION_REFUSED,
    "account.act": Event.CONSENT_REFUSED,
    "registration.register": Event.REGISTRATION_REFUSED,
    "registration.read": Event.REGISTRATION_REFUSED,
    "registration.update": Event.REGISTRATION_REFUSED,
    "registration.delete": Event.REGISTRATION_REFUSED,
    "token.token": Event.TOKEN_REFUSED,
    "token.revoke": Event.REVOCATION_REFUSED,
    "token.introspect": Event.INTROSPECTION_REFUSED,
}
"""The audit event for an error of each endpoint."""


def register(app: Flask, parts: Parts) -> None:
    """Install the handlers."""
    app.register_error_handler(AuthorizationRedirectError, partial(_redirect_error, parts))
    app.register_error_handler(OAuthError, partial(_render_oauth_error, parts))
    app.register_error_handler(PageError, partial(_render_page_error, parts))
    app.register_error_handler(ServiceUnavailable, partial(_render_unavailable, parts))
    app.register_error_handler(TooManyRequests, partial(_render_too_many, parts))
    app.register_error_handler(HTTPException, partial(_render_http_error, parts))
    app.register_error_handler(Exception, partial(_render_unexpected, parts))
    app.before_request(_refuse_unread)


def _redirect_error(parts: Parts, error: AuthorizationRedirectError) -> Response:
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
            "iss": parts.settings.issuer,
        },
    )
    # Anyone may register any website, local server or application's callback. Before the user has decided in this
    # browser, a link to this gateway must not redirect there (RFC 9700 §4.11.2).
    if not has_decided():
        return _show(parts, _invalid_request(error, links=((_way_back(parts, error.redirect_uri), location),)))
    return redirect_to(location)


def _way_back(parts: Parts, redirect_uri: str) -> str:
    target = redirect_uris.describe_target(redirect_uri, parts.settings.clients.redirect_schemes)
    if target.kind is TargetKind.LOCAL_PROGRAM:
        return f"Go back to the program at {target.name} on this computer"
    return f"Go back to {target.name}"


def _render_oauth_error(parts: Parts, error: OAuthError) -> Response:
    _record_refusal(error)
    if wants_page():
        return _show(parts, _invalid_request(error))
    body = jsonify(error=error.error, error_description=error.description)
    response = forbid_storing(make_response(body, error.status))
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer" if error.error == "invalid_token" else 'Basic realm="token"'
    return response


def _invalid_request(error: OAuthError, *, links: tuple[tuple[str, str], ...] = ()) -> PageError:
    return PageError(
        "The application sent a request that is not valid",
        f"The reason: {display_text(error.description)}. Nothing was allowed. Start again from the "
        "application. If that does not help, tell its makers the reason.",
        status=error.status,
        links=links,
    )


def _render_page_error(parts: Parts, error: PageError) -> Response:
    _record_refusal(error)
    return _show(parts, error)


def _show(parts: Parts, error: PageError) -> Response:
    return render_page(parts, "error.html", status=error.status, error=error)


def _render_unavailable(parts: Parts, error: ServiceUnavailable) -> Response:
    if not isinstance(error, UnknownKey):
        log.error("%s", error)
    _record_refusal(error)
    return statuses.respond(parts, 503, retry_after=error.retry_after)


def _render_too_many(parts: Parts, error: TooManyRequests) -> Response:
    """Answer RFC 6585 §4."""
    _record_refusal(error)
    # Traefik cannot tell this 429 from one of its own, and replaces it by what `router_refusals` answers.
    with contextlib.suppress(ServiceUnavailable):
        group = request.blueprint if request.blueprint in {"registration", "token"} else "authorization"
        parts.store.quotas.note_wait(f"{group} {client_address(parts)}", error.retry_after)
    return statuses.respond(parts, 429, retry_after=error.retry_after)


def _render_http_error(parts: Parts, error: HTTPException) -> Response:
    status = error.code or 500
    # If this preflight fails, a client in a browser does not go on to look for its documents elsewhere.
    if status == 404 and request.method == "OPTIONS" and request.path.startswith("/.well-known/"):
        return allow_any_origin(make_response("", 204))
    return statuses.respond(parts, status, allowed=tuple(sorted(getattr(error, "valid_methods", None) or ())))


def _render_unexpected(parts: Parts, error: Exception) -> Response:
    log.error("unexpected error", exc_info=error)
    return statuses.respond(parts, 500)


def _refuse_unread() -> None:
    """Refuse, in the form of the endpoint, a request that the ASGI layer found too large or too slow."""
    scope = request.environ.get("asgi.scope") or {}
    if (status := scope.get(REFUSAL)) is not None:
        abort(status)


def _record_refusal(error: GatewayError) -> None:
    """Write the refusal of a request to the audit log, with all its causes, which the response does not name."""
    if (event := _REFUSALS.get(request.endpoint or "")) is not None:
        reasons = [str(error)]
        while isinstance(error.__cause__, GatewayError):
            error = error.__cause__
            # An error often quotes its cause, in the characters that `error_description` allows.
            if not any(oauth_text(str(error)) in oauth_text(reason) for reason in reasons):
                reasons.append(str(error))
        record(event, reason=": ".join(reasons))
