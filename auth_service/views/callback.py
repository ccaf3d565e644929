"""Where the identity provider sends the browser back to: the end of every login."""

from __future__ import annotations

import dataclasses

from flask import Blueprint, Response, make_response, redirect

from auth_service.audit import Event
from auth_service.errors import AuthorizationRedirectError, LoginError, OAuthError, PageError, ServiceUnavailable
from auth_service.grants import AuthorizationRequest
from auth_service.idp import Login
from auth_service.protocol import redirect_uris
from auth_service.protocol.display import display_name

from . import account, gateway, note, query_parameters, record, upstream
from .authorize import Notice, approval_of, ask, form_targets, note_request, retry_fields
from .browser import end_session, keep_browser, start_session
from .pages import protect, render_page

blueprint = Blueprint("callback", __name__)


@blueprint.get("/callback")
def callback() -> Response:
    """Receive the browser back and send it to the client with a code, or to the account page."""
    parameters = query_parameters()
    attempt = upstream.consume(parameters.get("state", ""))
    if attempt.parameters is None:
        return account.finish_sign_in(parameters)
    requested = gateway().server.parse_authorization_request(attempt.parameters)
    note_request(requested)
    authorization = dataclasses.replace(requested, scopes=attempt.scopes)
    approval = approval_of(authorization)
    if approval.digest != attempt.approval:
        return ask(attempt.parameters, requested, notice=Notice.CHANGED)
    try:
        login = _finish(parameters, authorization)
    except ServiceUnavailable as error:
        return _render_provider_down(attempt.parameters, authorization, retry_after=error.retry_after)
    sub, name = login.identity.subject, login.identity.login
    note(user=sub, name=name)
    if attempt.approved_by not in {None, sub}:
        record(Event.LOGIN_REFUSED, reason="the remembered consent is another user's")
        # Someone else's approval was remembered in this browser: whoever is here now has approved nothing.
        response = ask(attempt.parameters, requested, notice=Notice.OTHER_USER, user=name)
        end_session(response)
        return response
    if not gateway().users.may_use(login.identity, authorization.resource):
        return _render_not_allowed(attempt.parameters, authorization, name)
    record(Event.LOGIN_ACCEPTED)
    code = gateway().server.issue_code(authorization, sub=sub, name=name, upstream=gateway().users.seal(login))
    if attempt.approved_by is None:
        gateway().store.approvals.remember(sub, approval)
    location = redirect_uris.with_parameters(
        authorization.redirect_uri,
        {"code": code, "state": authorization.state, "iss": gateway().settings.issuer},
    )
    response = make_response(redirect(location, code=303))
    protect(response)
    start_session(response, sub=sub, name=name)
    return response


def _finish(parameters: dict[str, str], authorization: AuthorizationRequest) -> Login:
    """Log the user in. Raises AuthorizationRedirectError if the provider does not, ServiceUnavailable."""
    provider = gateway().provider.title
    try:
        if "code" not in parameters:
            raise OAuthError("access_denied", f"{provider} did not log the user in")
        try:
            return upstream.finish(parameters)
        except LoginError as error:
            raise OAuthError("access_denied", f"the login at {provider} failed") from error
    except OAuthError as error:
        raise AuthorizationRedirectError(
            error, redirect_uri=authorization.redirect_uri, state=authorization.state
        ) from error


def _render_provider_down(
    parameters: dict[str, str], authorization: AuthorizationRequest, *, retry_after: int
) -> Response:
    provider = gateway().provider.title
    record(Event.LOGIN_REFUSED, reason=f"{provider} does not answer")
    error = PageError(
        f"{provider} does not answer",
        f"You allowed {display_name(authorization.client_name).text}, but {provider} could not say who you are. "
        "Nothing was granted. This is usually over in a moment.",
        status=503,
    )
    response = _render_with_choice("retry.html", error, parameters, authorization)
    response.headers["Retry-After"] = str(retry_after)
    return response


def _render_not_allowed(parameters: dict[str, str], authorization: AuthorizationRequest, name: str) -> Response:
    resource = gateway().settings.resources[authorization.resource]
    server = display_name(resource.title or authorization.resource).text
    error = PageError(
        f"{name} may not use this server",
        f"{gateway().provider.title} signed you in as {name}, but that account is not on the list of {server}. "
        f"Ask the operator of {gateway().host} to add it, or use another account. Nothing was granted.",
        status=403,
    )
    record(Event.LOGIN_REFUSED, reason=error.title)
    return _render_with_choice("not_allowed.html", error, parameters, authorization)


def _render_with_choice(
    template: str, error: PageError, parameters: dict[str, str], authorization: AuthorizationRequest
) -> Response:
    """Render an error after which the user may go on, or go back to the client."""
    response = render_page(
        template,
        status=error.status,
        form_targets=form_targets(authorization),
        error=error,
        action=f"{gateway().settings.issuer}/consent",
        fields=retry_fields(parameters, authorization),
        client=display_name(authorization.client_name),
        provider=gateway().provider.title,
    )
    keep_browser(response)
    return response
