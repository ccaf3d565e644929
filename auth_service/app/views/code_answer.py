"""The end of a login: the client gets its code, if nothing has changed since the user allowed it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from flask import Response

from auth_service.app.composition import Parts
from auth_service.oauth.authorization_requests import AuthorizationRequest
from auth_service.ops.audit import Event
from auth_service.protocol import redirect_uris
from auth_service.protocol.errors import PageError

from . import record
from .consent_pages import Notice, ask
from .pages import redirect_to
from .shown_request import Shown, consent_of


def find_change(
    parts: Parts, shown: Shown, requested: AuthorizationRequest, scopes: tuple[str, ...]
) -> Response | None:
    """Return the consent page again if what it showed has changed since, or a remembered consent has ended.

    `requested` is the request as read now, `scopes` are those that the user allowed.
    """
    if not shown.is_what(parts, requested):
        record(Event.LOGIN_REFUSED, reason="what the page showed has changed since")
        return ask(parts, requested, notice=Notice.CHANGED)
    consent = consent_of(parts, dataclasses.replace(requested, scopes=scopes))
    if shown.approved_by is not None and not parts.store.consents.is_remembered(shown.approved_by, consent):
        return ask(parts, requested)
    return None


def send_code(
    parts: Parts,
    shown: Shown,
    granted: AuthorizationRequest,
    *,
    sub: str,
    name: str,
    sealed_login: str,
    check_user: Callable[[], None] = lambda: None,
) -> Response:
    """Send the browser to the client with a code, and remember the login and the consent.

    `check_user` is called once there is a grant, which ends if it raises PageError.
    Not checked here: anything that `find_change` checks, and that the user may use the server.
    """
    code, grant = parts.server.issue_code(granted, sub=sub, name=name)
    try:
        check_user()
    except PageError:
        parts.revocation.revoke_grant(grant.sid, by="gateway", reason="the user's session ended during the login")
        raise
    parts.user_access.remember_sealed(sub, sealed_login)
    if shown.approved_by is None:
        # Not what was withheld: the user is asked for it again when it can be had.
        parts.store.consents.remember(sub, consent_of(parts, granted))
    location = redirect_uris.with_parameters(
        granted.redirect_uri,
        {"code": code, "state": granted.state, "iss": parts.settings.issuer},
    )
    return redirect_to(location)
