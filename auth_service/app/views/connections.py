"""Connect an account at another service, for a server that acts there in the user's name.

Only the browser that was sent away can come back, as the same user, once, to the callback of this one variable: each
has a callback URL of its own, so that one service cannot pass for another (RFC 9700 §4.4.2).
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from flask import Response, request

from auth_service.app.composition import Parts
from auth_service.idp.connected_service import AccountRefusedError, known_error
from auth_service.ops.audit import Event
from auth_service.protocol import redirect_uris
from auth_service.protocol.display import display_text_in_full
from auth_service.protocol.errors import PageError, ServiceUnavailable
from auth_service.storage.user_credentials import Secret

from . import Endpoints, credential_fields, note, query_parameters, record
from .browser import browser_fingerprint, find_session, keep_browser, sends_cookies
from .pages import answer_head, redirect_to

blueprint = Endpoints("connections", __name__)

CONNECT_FIELD: Final = "connect"
"""The field of a form whose value is the variable that the user wants to connect an account for."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """Why a browser was sent to the other service."""

    resource_name: str
    variable: str
    sub: str
    name: str
    back: str
    """The page of the gateway from which it was sent away."""
    done: str
    """The page to show once the account is connected."""


def send(parts: Parts, attempt: Attempt) -> Response:
    """Send this browser to the other service. Not checked here: that the user wants it, by a form of this browser."""
    state = secrets.token_urlsafe(32)
    parts.store.pending_connections.add(
        state,
        {"browser": browser_fingerprint(parts), "attempt": dataclasses.asdict(attempt)},
        lifetime=parts.settings.lifetimes.login,
    )
    url = parts.connections.authorization_url(attempt.resource_name, attempt.variable, state=state)
    response = redirect_to(url)
    keep_browser(parts, response)
    return response


def form_targets(parts: Parts, resource_names: Collection[str]) -> tuple[str, ...]:
    """Return the CSP sources that connecting an account for these servers may lead through.

    Browsers check each redirect that follows a form. A service may send them on to a company's own login.
    """
    accounts = [each for name in resource_names for each in parts.settings.resources[name].connections.values()]
    endpoints = [each.authorization_endpoint for each in accounts]
    return tuple(dict.fromkeys([*map(redirect_uris.form_action_source, endpoints), *(["https:"] if endpoints else [])]))


@blueprint.get("/connections/callback/<resource_name>/<variable>")
def callback(parts: Parts, resource_name: str, variable: str) -> Response:
    """Take what the other service has sent this browser back with, and keep the account's tokens."""
    parameters = query_parameters()
    if request.method == "HEAD":
        return answer_head()
    state = parameters.get("state", "")
    attempt = _consume(parts, state)
    note(user=attempt.sub, name=attempt.name, credential=attempt.variable)
    if (resource_name, variable) != (attempt.resource_name, attempt.variable):
        raise _failed(attempt, "This answer is not of the service that you were sent to", "Nothing was kept.")
    session = find_session(parts)
    if session is None or session.sub != attempt.sub:
        raise _signed_out(attempt)
    label = _find_label(parts, attempt)
    if not parts.connections.is_issuer(resource_name, variable, parameters.get("iss")):
        raise _failed(attempt, f"The answer about {label} names another service", "Nothing was kept.")
    if "code" not in parameters:
        if parameters.get("error") == "access_denied":
            record(Event.CONNECTION_REFUSED, reason="the user declined at the other service")
            return redirect_to(attempt.back)
        raise _failed(
            attempt,
            f"{label} could not be connected",
            "The other service sent you back with an error, and nothing was kept. Please try again. If that does not "
            "help, tell the operator of this gateway.",
        ) from AccountRefusedError(f"the browser brought the error {known_error(parameters.get('error'))}")
    secret = _redeem(parts, attempt, label, code=parameters["code"], state=state)
    # The user may have been revoked while the other service was asked.
    if credential_fields.keep(parts, resource_name, attempt.sub, attempt.name, {variable: secret}):
        return redirect_to(attempt.done)
    raise _signed_out(attempt)


def _consume(parts: Parts, state: str) -> Attempt:
    """Return why this browser was sent away, once. Raises PageError if it was another browser, or too long ago."""
    kept = parts.store.pending_connections.consume(state, browser=browser_fingerprint(parts)) if state else None
    if kept is not None:
        return Attempt(**kept["attempt"])
    if state:
        # The browser that began has sent its URL of the other service to this one, whose user has approved. This one
        # shows state and code in its address bar. With them the first browser could connect this user's account.
        parts.store.pending_connections.drop(state)
    if not sends_cookies(parts):
        raise PageError(
            "This browser sent no cookie",
            "An account must be connected in the browser in which you began, which the gateway recognizes by a cookie. "
            f"Nothing was kept. Allow cookies for {parts.host}, then start again.",
        )
    raise PageError(
        "This account cannot be connected now",
        "It is connected already, the attempt took too long, or it began in another browser. Nothing was kept. Start "
        "again from the page that asked for the account.",
    )


def _find_label(parts: Parts, attempt: Attempt) -> str:
    """Return what the operator calls the account. Raises PageError if the server asks for it no more."""
    resource = parts.settings.resources.get(attempt.resource_name)
    credential = None if resource is None else resource.user_credentials.get(attempt.variable)
    if credential is None or credential.oauth is None:
        raise _failed(attempt, "The server does not ask for this account any more", "Nothing was kept.")
    return display_text_in_full(credential.label)


def _redeem(parts: Parts, attempt: Attempt, label: str, *, code: str, state: str) -> Secret:
    try:
        return parts.connections.redeem(attempt.resource_name, attempt.variable, code=code, state=state)
    except AccountRefusedError as error:
        raise _failed(
            attempt,
            f"{label} could not be connected",
            "The other service no longer accepts what it sent you back with, perhaps because it took too long. Nothing "
            "was kept. Please try again.",
        ) from error
    except ServiceUnavailable as error:
        if error.dependency != parts.connections.name_of(attempt.resource_name, attempt.variable):
            raise
        raise _failed(
            attempt,
            f"{label} cannot be connected at the moment",
            "The other service gave no usable answer, and nothing was kept. Please try again in a moment. If that does "
            "not help, tell the operator of this gateway.",
            status=503,
        ) from error


def _signed_out(attempt: Attempt) -> PageError:
    return _failed(
        attempt,
        "You are no longer signed in as the same user",
        "The account was to be connected for another user. Nothing was kept.",
    )


def _failed(attempt: Attempt, title: str, explanation: str, *, status: int = 400) -> PageError:
    return PageError(title, explanation, status=status, links=(("Back", attempt.back),))
