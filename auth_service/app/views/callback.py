"""The redirect URI at the identity provider, where every login ends."""

from __future__ import annotations

import dataclasses

from flask import Response, make_response, redirect, request

from auth_service.app.composition import Parts
from auth_service.idp import Login
from auth_service.oauth.authorization_requests import AuthorizationRequest
from auth_service.ops.audit import Event
from auth_service.protocol import redirect_uris
from auth_service.protocol.consent import Consent
from auth_service.protocol.errors import AuthorizationRedirectError, LoginError, OAuthError, ServiceUnavailable

from . import Endpoints, account, note, provider_login, query_parameters, record
from .browser import forget_session, start_session
from .consent_pages import Notice, ask, no_login, not_allowed, note_request, scopes_not_allowed, sign_on_required
from .pages import protect
from .shown_request import Shown, consent_of, note_decision

blueprint = Endpoints("callback", __name__)


@blueprint.get("/callback")
def callback(parts: Parts) -> Response:
    """Finish the login at the identity provider, and send the browser to where it came from."""
    parameters = query_parameters()
    if request.method == "HEAD":  # the answer shows nothing, so it must end no login
        response = make_response("")
        protect(response)
        return response
    attempt = provider_login.consume(parts, parameters.get("state", ""))
    if (shown := attempt.shown) is None:
        return account.finish_sign_in(parts, parameters, home=attempt.home)
    note_decision()
    requested = parts.authorization_requests.parse(shown.parameters)
    note_request(parts, requested)
    try:
        login = _log_in(parts, parameters, requested)
    except ServiceUnavailable as error:
        return no_login(parts, shown, dataclasses.replace(requested, scopes=attempt.scopes), error)
    note(user=login.profile.subject, name=login.profile.login)
    return _finish_authorization(parts, shown, attempt.scopes, login)


def _finish_authorization(parts: Parts, shown: Shown, scopes: tuple[str, ...], login: Login) -> Response:
    """Send the client its code, if the request as read now is still what the page showed."""
    sub, name = login.profile.subject, login.profile.login
    requested = parts.authorization_requests.parse(shown.parameters)
    if not shown.is_what(parts, requested):
        record(Event.LOGIN_REFUSED, reason="what the page showed has changed since")
        return ask(parts, requested, notice=Notice.CHANGED)
    authorization = dataclasses.replace(requested, scopes=scopes)
    consent = consent_of(parts, authorization)
    if _is_withdrawn(parts, shown.approved_by, consent):
        return ask(parts, requested)
    if not shown.is_for(sub):
        record(Event.LOGIN_REFUSED, reason="another user was shown the page, or gave the remembered consent")
        # The user who has just logged in is another one, and has allowed nothing.
        forget_session(parts)
        return ask(parts, requested, notice=Notice.OTHER_USER, logged_in=login.profile)
    granted = _withhold(parts, shown, authorization, login)
    if isinstance(granted, Response):
        return granted
    record(Event.LOGIN_ACCEPTED)
    code = parts.server.issue_code(granted, sub=sub, name=name)
    parts.user_access.remember(login)
    if shown.approved_by is None:
        # Not what was withheld: the user is asked for it again when it can be had.
        parts.store.consents.remember(sub, consent_of(parts, granted))
    location = redirect_uris.with_parameters(
        authorization.redirect_uri,
        {"code": code, "state": authorization.state, "iss": parts.settings.issuer},
    )
    response = make_response(redirect(location, code=303))
    protect(response)
    start_session(parts, response, sub=sub, name=name)
    return response


def _withhold(
    parts: Parts, shown: Shown, authorization: AuthorizationRequest, login: Login
) -> AuthorizationRequest | Response:
    """Return the request without scopes that the user may not have, or a page for a user who cannot use the server."""
    name, resource_name = login.profile.login, authorization.resource_name
    access = parts.user_access
    if not access.may_use(login.profile, resource_name):
        if sign_ons := access.find_sign_ons(login, resource_name):
            return sign_on_required(parts, shown, authorization, sign_ons)
        return not_allowed(parts, shown, authorization, name)
    allowed = access.find_scopes(login.profile, resource_name)
    withheld = tuple(scope for scope in authorization.scopes if scope not in allowed)
    granted = authorization.without(withheld)
    # Also one that was not asked for: without it the token would be good for nothing.
    required = parts.settings.resources[resource_name].required_scopes
    lacking = tuple(sorted(required - allowed)) or (() if granted.scopes else withheld)
    if sign_ons := access.find_sign_ons(login, resource_name, scopes={*withheld, *lacking}):
        return sign_on_required(parts, shown, authorization, sign_ons)
    if lacking:
        return scopes_not_allowed(parts, shown, authorization, name, lacking)
    if withheld:
        record(Event.SCOPE_WITHHELD, scope=" ".join(withheld), reason=f"{name} may not have it")
    return granted


def _is_withdrawn(parts: Parts, approved_by: str | None, consent: Consent) -> bool:
    """Whether the remembered consent, without which there was no page, has ended during the login."""
    return approved_by is not None and not parts.store.consents.is_remembered(approved_by, consent)


def _log_in(parts: Parts, parameters: dict[str, str], authorization: AuthorizationRequest) -> Login:
    """Return the login. Raises AuthorizationRedirectError if the provider refuses it, ServiceUnavailable."""
    provider = parts.provider.title
    try:
        try:
            if "code" not in parameters:
                raise parts.provider.explain_refusal(parameters)
            return provider_login.finish(parts, parameters)
        except LoginError as error:
            was = f"the login at {provider} failed" if "code" in parameters else f"{provider} did not log the user in"
            raise OAuthError("access_denied", was) from error
    except OAuthError as error:
        raise AuthorizationRedirectError(
            error, redirect_uri=authorization.redirect_uri, state=authorization.state
        ) from error
