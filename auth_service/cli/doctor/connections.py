"""The services at which users connect their accounts (`userCredentials.NAME.oauth`), as far as no user is needed."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final

import requests

from auth_service.idp.connected_service import (
    ACCOUNT_REFUSED,
    CLIENT_REFUSED,
    REDIRECT_REFUSED,
    ConnectedService,
)
from auth_service.oauth.connections import make_services
from auth_service.protocol.errors import ServiceUnavailable
from auth_service.settings import Credentials, Settings, SettingsError

from .findings import TIMEOUT_SECONDS, CheckFailed, Status, explain

Services = Mapping[tuple[str, str], ConnectedService]

_LOGIN_IMPOSSIBLE: Final = "No user can connect an account."


def check_secrets(settings: Settings, credentials: Credentials) -> str:
    """Check that the client secrets are those that the settings need."""
    try:
        services = make_services(settings, credentials)
    except SettingsError as error:
        raise CheckFailed(str(error), "The auth service does not start again before this is corrected.") from error
    return f"{len(services)} configured, each with the client secret that it needs"


def find_services(settings: Settings, credentials: Credentials) -> Services:
    """Return the services by server and variable; none where `check_secrets` finds a problem."""
    try:
        return make_services(settings, credentials)
    except SettingsError:
        return {}


def check_authorization_endpoint(http: requests.Session, service: ConnectedService) -> str:
    """Check that the page answers to which a user is sent; what it says is for the user's browser."""
    callback = f"At the other service, {service.callback_url} must be registered as a redirect URI."
    url = service.authorization_url(state=secrets.token_urlsafe(), code_challenge=secrets.token_urlsafe(32))
    endpoint = url.partition("?")[0]
    try:
        with http.get(url, timeout=TIMEOUT_SECONDS, allow_redirects=False, stream=True) as answer:
            status = answer.status_code
    except (requests.RequestException, OSError) as error:
        raise CheckFailed(
            f"{endpoint}: {explain(error)}",
            "Users' browsers need it, and this host does not. If they cannot reach it either, compare "
            "oauth.authorization_endpoint (authorizationEndpoint) with what the service's documentation says.",
            status=Status.WARNING,
        ) from error
    if status >= 400:
        raise CheckFailed(
            f"{endpoint} answers {status} to what a user's browser would ask for",
            f"{callback} Compare also the client id, the scopes and authorization_endpoint (authorizationEndpoint). "
            "If the service refuses all programs that are no browsers, there is nothing to do.",
            status=Status.WARNING,
        )
    return f"{endpoint} answers. {callback}"


def check_token_endpoint(service: ConnectedService) -> str:
    """Check that the endpoint refuses a code that it has not issued, and not the client."""
    endpoint = service.token_endpoint
    try:
        status, error = service.try_code(secrets.token_urlsafe(32))
    except ServiceUnavailable as unavailable:
        raise CheckFailed(
            f"{endpoint}: {explain(unavailable.__cause__)}",
            f"{_LOGIN_IMPOSSIBLE} This host needs name resolution and outgoing https to it, and must trust its "
            "certificate.",
        ) from unavailable
    if error in CLIENT_REFUSED:
        raise CheckFailed(
            f"{endpoint} refuses the client: {error}",
            f"{_LOGIN_IMPOSSIBLE} Compare client_id (clientId) and the client secret (clientSecretFile, without "
            "which the gateway sends none) with the application's page at the other service, and "
            "token_endpoint_auth_method (tokenEndpointAuthMethod) with its documentation.",
        )
    if error in REDIRECT_REFUSED:
        raise CheckFailed(
            f"{endpoint} refuses the redirect URI: {error}",
            f"{_LOGIN_IMPOSSIBLE} Register {service.callback_url} at the other service.",
        )
    if error not in ACCOUNT_REFUSED:
        what = f"with the error {error}" if error is not None else "without an OAuth error"
        raise CheckFailed(
            f"{endpoint} answers {status} {what} to a code that it has not issued",
            "Expected is invalid_grant. Compare token_endpoint (tokenEndpoint) with the service's documentation. If "
            "users can connect their accounts, there is nothing to do.",
            status=Status.WARNING,
        )
    return f"{endpoint} refuses a code that it has not issued ({error}), and not the client"
