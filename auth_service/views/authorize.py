"""The authorization endpoint and the consent page.

The order is the defence against the confused deputy: one application at the identity provider stands behind every
client, so the provider's own consent proves nothing. The user approves the client here first; the browser that approved
is bound to the upstream login by a cookie, and only that browser gets a code when it returns (callback.py). When an
approval may be remembered instead of asked for: protocol/consent.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum

from flask import Blueprint, Response, request, send_from_directory

from auth_service.audit import Event
from auth_service.errors import ConsentDeclined
from auth_service.grants import AuthorizationRequest
from auth_service.protocol import consent, redirect_uris
from auth_service.protocol.consent import Approval
from auth_service.protocol.display import display_name

from . import form_parameters, gateway, note, query_parameters, record, upstream
from .browser import find_session, keep_browser, make_ticket, parse_ticket
from .pages import provider_targets, render_page

blueprint = Blueprint("authorize", __name__)

_TICKET_PURPOSE = "consent"
_SCOPE_FIELD = "scope:"


class Notice(Enum):
    """Why the consent page is shown once more."""

    STALE = "stale"
    NOTHING_CHOSEN = "nothing-chosen"
    CHANGED = "changed"
    OTHER_USER = "other-user"


@blueprint.get("/style.css")
def style() -> Response:
    """Serve the pages' one stylesheet."""
    return send_from_directory("static", "style.css", max_age=3600)


@blueprint.get("/authorize")
def authorize() -> Response:
    """Validate the request and ask the user, or find their approval. Clients probe this URL: they change nothing."""
    parameters = query_parameters()
    note(client=parameters.get("client_id"), resource=parameters.get("resource"))
    authorization = gateway().server.parse_authorization_request(parameters)
    approval = approval_of(authorization)
    if consent.may_be_remembered(approval, parameters, dict(request.headers)):
        session = find_session()
        if session is not None and gateway().store.approvals.is_remembered(session.sub, approval):
            note_request(authorization)
            record(Event.CONSENT_REMEMBERED, user=session.sub, name=session.name, scope=" ".join(authorization.scopes))
            return upstream.send(_attempt(parameters, authorization, approved_by=session.sub))
    return ask(parameters, authorization)


@blueprint.post("/consent")
def decide() -> Response:
    """Take the user's decision; after approval, send this browser to the identity provider."""
    form = form_parameters()
    ticket = parse_ticket(_TICKET_PURPOSE, form.get("ticket", ""))
    parameters: dict[str, str] = ticket.content
    note(client=parameters.get("client_id"), resource=parameters.get("resource"))
    authorization = gateway().server.parse_authorization_request(parameters)
    note_request(authorization)
    if not ticket.is_good:
        record(Event.CONSENT_REFUSED, reason="the page was too old, or made for another browser")
        return ask(parameters, authorization, notice=Notice.STALE)
    if form.get("decision") != "approve":
        raise ConsentDeclined(redirect_uri=authorization.redirect_uri, state=authorization.state)
    chosen = _chosen_scopes(authorization, form)
    if not chosen:
        return ask(parameters, authorization, notice=Notice.NOTHING_CHOSEN)
    approved = dataclasses.replace(authorization, scopes=chosen)
    record(Event.CONSENT_GIVEN, scope=" ".join(chosen), redirect=redirect_uris.without_port(authorization.redirect_uri))
    return upstream.send(_attempt(parameters, approved), other_account=form.get("account") == "other")


def note_request(authorization: AuthorizationRequest) -> None:
    """Note what this request is about, for the audit log."""
    note(client=authorization.client_id, resource=gateway().settings.resources[authorization.resource].url)


def approval_of(authorization: AuthorizationRequest) -> Approval:
    """Return what is approved by whoever approves the request."""
    return Approval(
        client=authorization.client,
        redirect_uri=authorization.redirect_uri,
        resource_url=gateway().settings.resources[authorization.resource].url,
        scopes=authorization.scopes,
    )


def ask(
    parameters: dict[str, str], authorization: AuthorizationRequest, *, notice: Notice | None = None, user: str = ""
) -> Response:
    """Render the consent page. `user` is who has logged in, where that is the notice."""
    resource = gateway().settings.resources[authorization.resource]
    session = find_session()
    approvals = gateway().store.approvals
    known = (
        approvals.find_scopes(session.sub, client_id=authorization.client_id, resource_url=resource.url)
        if session is not None
        else frozenset()
    )
    response = render_page(
        "consent.html",
        status=400 if notice in {Notice.STALE, Notice.NOTHING_CHOSEN} else 200,
        form_targets=form_targets(authorization),
        action=f"{gateway().settings.issuer}/consent",
        ticket=make_ticket(_TICKET_PURPOSE, parameters),
        client=display_name(authorization.client_name),
        client_host=authorization.client_host,
        target=redirect_uris.describe_target(authorization.redirect_uri),
        server=display_name(resource.title or authorization.resource),
        resource_url=resource.url,
        scopes=[(scope, resource.scopes[scope], bool(known) and scope not in known) for scope in authorization.scopes],
        scope_field=_SCOPE_FIELD,
        session=session,
        is_repeated=known.issuperset(authorization.scopes),
        provider=gateway().provider.title,
        notice=notice.value if notice is not None else None,
        user=user,
    )
    keep_browser(response)
    return response


def retry_fields(parameters: dict[str, str], authorization: AuthorizationRequest) -> dict[str, str]:
    """Return the hidden fields by which a page repeats the decision that the user has just made in this browser."""
    chosen = {f"{_SCOPE_FIELD}{scope}": "on" for scope in authorization.scopes}
    return {"ticket": make_ticket(_TICKET_PURPOSE, parameters), **chosen}


def form_targets(authorization: AuthorizationRequest) -> tuple[str, ...]:
    """Return the CSP sources that the answer to a decision may redirect to, in the end."""
    return (*provider_targets(), redirect_uris.form_action_source(authorization.redirect_uri))


def _attempt(
    parameters: dict[str, str], approved: AuthorizationRequest, *, approved_by: str | None = None
) -> upstream.Attempt:
    return upstream.Attempt(
        parameters=parameters,
        scopes=approved.scopes,
        approval=approval_of(approved).digest,
        approved_by=approved_by,
    )


def _chosen_scopes(authorization: AuthorizationRequest, form: Mapping[str, str]) -> tuple[str, ...]:
    """Return the requested scopes that the server cannot do without, and the others that were left ticked."""
    scopes = gateway().settings.resources[authorization.resource].scopes
    return tuple(scope for scope in authorization.scopes if scopes[scope].required or f"{_SCOPE_FIELD}{scope}" in form)
