"""The authorization endpoint: consent page, then the identity provider, then the code.

The order is the defence against the confused deputy: one application at the identity provider stands behind
every
client, so the provider's own consent proves nothing. The user approves the client here first; the browser
that
approved is bound to the upstream login by a cookie, and only that browser gets a code when it returns.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import secrets
from typing import Any

from flask import Blueprint, Response, make_response, redirect, request, send_from_directory
from itsdangerous import BadData, URLSafeTimedSerializer

from auth_service.audit import Event
from auth_service.errors import AuthorizationRedirectError, ConsentDeclined, LoginError, OAuthError, PageError
from auth_service.grants import AuthorizationRequest
from auth_service.protocol import redirect_uris

from . import form_parameters, gateway, note, query_parameters, record
from .pages import protect, render_page

blueprint = Blueprint("authorize", __name__)


@blueprint.get("/style.css")
def style() -> Response:
    """Serve the pages' one stylesheet."""
    return send_from_directory("static", "style.css", max_age=3600)


@blueprint.get("/authorize")
def authorize() -> Response:
    """Validate the request and ask the user. Clients probe this URL: nothing changes here."""
    parameters = query_parameters()
    note(client=parameters.get("client_id"), resource=parameters.get("resource"))
    authorization = gateway().server.parse_authorization_request(parameters)
    browser = request.cookies.get(_cookie_name()) or secrets.token_urlsafe(32)
    resource = gateway().settings.resources[authorization.resource]
    response = render_page(
        "consent.html",
        form_targets=(
            redirect_uris.form_action_source(gateway().provider.authorization_url(state="", code_challenge="")),
            redirect_uris.form_action_source(authorization.redirect_uri),
        ),
        action=f"{gateway().settings.issuer}/consent",
        ticket=_make_ticket(parameters, browser),
        client_name=authorization.client_name,
        client_id=authorization.client_id,
        client_host=authorization.client_host,
        target=redirect_uris.display_target(authorization.redirect_uri),
        is_loopback=redirect_uris.is_loopback(authorization.redirect_uri),
        resource_title=resource.title or authorization.resource,
        resource_url=resource.url,
        scopes=[(scope, resource.scopes[scope].description) for scope in authorization.scopes],
        provider=gateway().provider.title,
    )
    _set_browser_cookie(response, browser)
    return response


@blueprint.post("/consent")
def consent() -> Response:
    """Take the user's decision; after approval, send this browser to the identity provider."""
    form = form_parameters()
    browser = request.cookies.get(_cookie_name(), "")
    parameters = _parse_ticket(form.get("ticket", ""), browser)
    note(client=parameters.get("client_id"), resource=parameters.get("resource"))
    authorization = gateway().server.parse_authorization_request(parameters)
    _note(authorization)
    if form.get("decision") != "approve":
        raise ConsentDeclined(redirect_uri=authorization.redirect_uri, state=authorization.state)
    record(
        Event.CONSENT_GIVEN,
        scope=" ".join(authorization.scopes),
        redirect=redirect_uris.without_port(authorization.redirect_uri),
    )
    state = secrets.token_urlsafe(32)
    gateway().store.add_login(
        state,
        {"browser": _fingerprint(browser), "request": dataclasses.asdict(authorization)},
        lifetime=gateway().settings.lifetimes.login,
    )
    url = gateway().provider.authorization_url(state=state, code_challenge=_challenge(_upstream_verifier(state)))
    return _redirect(url)


@blueprint.get("/callback")
def callback() -> Response:
    """Receive the browser back from the identity provider and send it to the client with a code."""
    parameters = query_parameters()
    authorization = _consume_login(parameters.get("state", ""), request.cookies.get(_cookie_name(), ""))
    _note(authorization)
    try:
        code = _finish_login(parameters, authorization)
    except OAuthError as error:
        raise AuthorizationRedirectError(
            error, redirect_uri=authorization.redirect_uri, state=authorization.state
        ) from error
    location = redirect_uris.with_parameters(
        authorization.redirect_uri,
        {"code": code, "state": authorization.state, "iss": gateway().settings.issuer},
    )
    return _redirect(location)


def _consume_login(state: str, browser: str) -> AuthorizationRequest:
    """Return the request that this browser approved; raises PageError if it did not, or long ago."""
    login = gateway().store.consume_login(state) if state else None
    if login is None or not hmac.compare_digest(login["browser"], _fingerprint(browser)):
        raise PageError(
            "This login does not belong to this browser, or took too long",
            "Start again from the application that you want to connect.",
            help_clients=True,
        )
    return AuthorizationRequest(**{**login["request"], "scopes": tuple(login["request"]["scopes"])})


def _finish_login(parameters: dict[str, str], authorization: AuthorizationRequest) -> str:
    """Log the user in and return a code for the client; raises OAuthError `access_denied` if they may not."""
    if "code" not in parameters:
        raise OAuthError("access_denied", f"{gateway().provider.title} did not log the user in")
    try:
        login = gateway().provider.finish_login(
            code=parameters["code"], code_verifier=_upstream_verifier(parameters["state"])
        )
    except LoginError as error:
        raise OAuthError("access_denied", f"the login at {gateway().provider.title} failed") from error
    identity = login.identity
    note(user=identity.subject, name=identity.login)
    if not gateway().users.may_use(identity, authorization.resource):
        raise PageError(
            f"{identity.login} may not use this server",
            "You are logged in, but not on its list. Ask the operator to add you, or log in as someone else.",
            status=403,
        )
    record(Event.LOGIN_ACCEPTED)
    return gateway().server.issue_code(
        authorization, sub=identity.subject, name=identity.login, upstream=gateway().users.seal(login.token)
    )


def _note(authorization: AuthorizationRequest) -> None:
    note(client=authorization.client_id, resource=gateway().settings.resources[authorization.resource].url)


def _redirect(location: str) -> Response:
    response = make_response(redirect(location, code=303))
    protect(response)
    return response


# The browser's cookie, and the ticket that binds a rendered page to it


def _cookie_name() -> str:
    # The prefix needs Secure, which plain http rules out; settings allow that for a loopback issuer only.
    is_plain = gateway().settings.issuer.startswith("http:")
    return "mcp-gateway-browser" if is_plain else "__Host-mcp-gateway-browser"


def _set_browser_cookie(response: Response, browser: str) -> None:
    response.set_cookie(
        _cookie_name(),
        browser,
        secure=gateway().settings.issuer.startswith("https:"),
        httponly=True,
        samesite="Lax",
        path="/",
    )


def _fingerprint(browser: str) -> str:
    return hashlib.sha256(browser.encode()).hexdigest()


def _tickets() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(
        gateway().ticket_key,
        salt="mcp-oauth-gateway.ticket",
        signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
    )


def _make_ticket(parameters: dict[str, str], browser: str) -> str:
    """Return the form's one hidden field: CSRF token and authorization request in one, so that they cannot
    part.
    """
    return str(
        _tickets().dumps(
            {"browser": _fingerprint(browser), "nonce": secrets.token_urlsafe(8), "parameters": parameters}
        )
    )


def _parse_ticket(unverified_ticket: str, browser: str) -> dict[str, str]:
    """Return the authorization request that a page was rendered for in this browser; raises PageError."""
    stale = PageError(
        "This page is too old, or was not made for this browser",
        "Nothing was approved. Start again from the application that you want to connect.",
        help_clients=True,
    )
    # A cross-site form that carried the cookie would be refused for its ticket; this says so without one.
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin" or not browser:
        raise stale
    try:
        ticket: dict[str, Any] = _tickets().loads(unverified_ticket, max_age=gateway().settings.lifetimes.login)
    except BadData as error:
        raise stale from error
    if not hmac.compare_digest(ticket["browser"], _fingerprint(browser)):
        raise stale
    return dict(ticket["parameters"])


# Proof Key for Code Exchange towards the identity provider


def _upstream_verifier(state: str) -> str:
    """Return the verifier that belongs to an upstream state: derived, so that it is stored nowhere."""
    return hmac.new(gateway().upstream_key, state.encode(), "sha256").hexdigest()


def _challenge(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
