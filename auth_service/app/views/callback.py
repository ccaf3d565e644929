"""The redirect URI at the identity provider, where every login ends."""

from __future__ import annotations

import dataclasses

from flask import Response, request

from auth_service.app.composition import Parts
from auth_service.idp import Login
from auth_service.oauth.authorization_requests import AuthorizationRequest
from auth_service.ops.audit import Event
from auth_service.protocol.errors import AuthorizationRedirectError, LoginError, OAuthError, ServiceUnavailable

from . import Endpoints, account, note, provide, provider_login, query_parameters, record
from .browser import forget_session, start_session
from .code_answer import find_change, send_code
from .consent_pages import Notice, ask, no_login, not_allowed, note_request, scopes_not_allowed, sign_on_required
from .pages import answer_head
from .shown_request import Shown, note_decision

blueprint = Endpoints("callback", __name__)


@blueprint.get("/callback")
def callback(parts: Parts) -> Response:
    """Finish the login at the identity provider, and send the browser to where it came from."""
    parameters = query_parameters()
    if request.method == "HEAD":
        return answer_head()
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
    """Send the client its code, if the request as read now is still what the page showed.

    First the user is asked for credentials that the server needs.
    """
    sub, name = login.profile.subject, login.profile.login
    requested = parts.authorization_requests.parse(shown.parameters)
    if (page := find_change(parts, shown, requested, scopes)) is not None:
        return page
    if not shown.is_for(sub):
        record(Event.LOGIN_REFUSED, reason="another user was shown the page, or gave the remembered consent")
        # The user who has just logged in is another one, and has allowed nothing.
        forget_session(parts)
        return ask(parts, requested, notice=Notice.OTHER_USER, logged_in=login.profile)
    granted = _withhold(parts, shown, dataclasses.replace(requested, scopes=scopes), login)
    if isinstance(granted, Response):
        return granted
    record(Event.LOGIN_ACCEPTED)
    sealed = parts.user_access.seal(login)
    response = (
        provide.wait(
            parts,
            provide.Waiting(
                shown=shown, scopes=scopes, granted=granted.scopes, sub=sub, name=name, sealed_login=sealed
            ),
        )
        if provide.find_missing(parts, granted.resource_name, sub)
        else send_code(parts, shown, granted, sub=sub, name=name, sealed_login=sealed)
    )
    start_session(parts, response, login.profile)
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
