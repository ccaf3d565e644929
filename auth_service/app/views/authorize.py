"""The authorization endpoint and the consent page.

The order of steps is the defence against the confused deputy: all clients share one application at the identity
provider, so the provider's own consent page proves nothing about a client. The user first allows the client here. A
cookie binds the login at the provider to this browser, and only this browser gets a code when it returns (callback.py).
protocol/consent.py says when a remembered consent replaces the page.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from flask import Response, request, send_from_directory

from auth_service.app.composition import Parts
from auth_service.oauth.authorization_requests import AuthorizationRequest
from auth_service.ops.audit import Event
from auth_service.protocol import redirect_uris
from auth_service.protocol.consent import may_be_remembered
from auth_service.protocol.errors import ConsentDeclined, ServiceUnavailable

from . import Endpoints, form_parameters, hosts, note, provider_login, query_parameters, record
from .browser import FORM_TOKEN_FIELD, find_session, parse_form_token, sends_cookies
from .consent_pages import (
    FORM_PURPOSE,
    SCOPE_FIELD,
    Notice,
    ask,
    find_known_user,
    find_withheld,
    no_login,
    note_request,
)
from .shown_request import Shown, consent_of, note_decision, show

blueprint = Endpoints("authorize", __name__)


@blueprint.get("/style.css")
def style(_parts: Parts) -> Response:
    """Serve the stylesheet of all pages."""
    return send_from_directory("views/static", "style.css", max_age=3600)


@blueprint.get("/authorize")
def authorize(parts: Parts) -> Response:
    """Validate the request, then ask the user or find a remembered consent. It changes nothing, as clients probe it."""
    if (elsewhere := hosts.find_page_of_issuer(parts, "/authorize")) is not None:
        return elsewhere
    parameters = query_parameters()
    note(client=parameters.get("client_id"), resource=parameters.get("resource"))
    authorization = parts.authorization_requests.parse(parameters)
    withheld = find_withheld(parts, authorization, find_known_user(parts, authorization))
    offered = authorization.without(withheld)
    consent = consent_of(parts, offered)
    if may_be_remembered(consent, parameters, dict(request.headers)):
        session = find_session(parts)
        if session is not None and parts.store.consents.is_remembered(session.sub, consent):
            note_request(parts, authorization)
            record(Event.CONSENT_REMEMBERED, user=session.sub, name=session.name, scope=" ".join(offered.scopes))
            return _send(parts, show(parts, authorization, approved_by=session.sub, withheld=withheld), offered)
    return ask(parts, authorization)


@blueprint.post("/consent")
def decide(parts: Parts) -> Response:
    """Take the user's decision. If the user allows the client, send this browser to the identity provider."""
    form = form_parameters()
    form_token = parse_form_token(parts, FORM_PURPOSE, form.get(FORM_TOKEN_FIELD, ""))
    shown = Shown(**form_token.content)
    if form_token.is_good:
        note_decision()
    note(client=shown.parameters.get("client_id"), resource=shown.parameters.get("resource"))
    authorization = parts.authorization_requests.parse(shown.parameters)
    note_request(parts, authorization)
    if not form_token.is_good:
        record(Event.CONSENT_REFUSED, reason="the page was too old, or made for another browser")
        return ask(parts, authorization, notice=Notice.STALE if sends_cookies(parts) else Notice.NO_COOKIES)
    if not shown.is_what(parts, authorization):
        record(Event.CONSENT_REFUSED, reason="what the page showed has changed since")
        return ask(parts, authorization, notice=Notice.CHANGED)
    if form.get("decision") != "approve":
        raise ConsentDeclined(redirect_uri=authorization.redirect_uri, state=authorization.state)
    session = find_session(parts)
    if session is not None and not shown.is_for(session.sub):
        record(Event.CONSENT_REFUSED, reason="the page was made for another user")
        return ask(parts, authorization, notice=Notice.CHANGED)
    other_account = form.get("account") == "other"
    if shown.approved_by is not None and other_account:
        return ask(parts, authorization)  # the remembered consent of one user is not that of another
    chosen = _chosen_scopes(parts, authorization.without(shown.withheld), form)
    if not chosen:
        return ask(parts, authorization, notice=Notice.NOTHING_CHOSEN)
    approved = dataclasses.replace(authorization, scopes=chosen)
    if shown.approved_by is None:
        record(
            Event.CONSENT_GIVEN, scope=" ".join(chosen), redirect=redirect_uris.without_port(authorization.redirect_uri)
        )
    return _send(parts, shown, approved, other_account=other_account)


def _send(parts: Parts, shown: Shown, approved: AuthorizationRequest, *, other_account: bool = False) -> Response:
    """Send the browser to the identity provider, and keep what was shown and which scopes were allowed."""
    try:
        return provider_login.send(
            parts, provider_login.Attempt(shown=shown, scopes=approved.scopes), other_account=other_account
        )
    except ServiceUnavailable as error:
        return no_login(parts, shown, approved, error)


def _chosen_scopes(parts: Parts, offered: AuthorizationRequest, form: Mapping[str, str]) -> tuple[str, ...]:
    """Return the offered scopes that are required, and those that the user left ticked."""
    scopes = parts.settings.resources[offered.resource_name].scopes
    return tuple(scope for scope in offered.scopes if scopes[scope].required or f"{SCOPE_FIELD}{scope}" in form)
