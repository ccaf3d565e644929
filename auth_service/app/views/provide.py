"""The page that asks for credentials at the end of a login: what the server needs from this user and does not have yet.

The user is known, may use the server and has allowed the client. What the login is about waits in Redis meanwhile,
under a secret in the page's URL. It goes on only in the browser in which it began, while the same user is signed in
there. The values go from the form into the storage, and never into a page, URL or log.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from flask import Response, request

from auth_service.app.composition import Parts
from auth_service.oauth.authorization_requests import AuthorizationRequest
from auth_service.ops.audit import Event
from auth_service.protocol.display import display_name, display_text
from auth_service.protocol.errors import ConsentDeclined, PageError

from . import Endpoints, connections, credential_fields, form_parameters, note, query_parameters, record
from .browser import (
    FORM_TOKEN_FIELD,
    browser_fingerprint,
    find_session,
    is_signed_in_still,
    keep_browser,
    make_form_token,
    parse_form_token,
)
from .code_answer import find_change, send_code
from .consent_pages import answer_targets, note_request
from .pages import answer_head, redirect_to, render_page
from .provider_login import cannot_be_continued
from .shown_request import Shown, consent_of, note_decision

blueprint = Endpoints("provide", __name__)

WAIT_SECONDS: Final = 30 * 60
"""How long a login waits: the user may have to make a token elsewhere first."""
_FORM_PURPOSE: Final = "provide"
_CONNECTED_PARAMETER: Final = "connected"
"""Of the page's URL: the variable for which the user has just connected an account."""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A complete login that waits for the user's credentials."""

    shown: Shown
    scopes: tuple[str, ...]
    """The scopes that the user allowed."""
    granted: tuple[str, ...]
    """Those among them that the user may have."""
    sub: str
    name: str
    sealed_login: str


def find_missing(parts: Parts, resource_name: str, sub: str) -> list[str]:
    """Return the variables of a server for which the user has set nothing."""
    wanted = parts.settings.resources[resource_name].user_credentials
    return parts.user_credentials.find_missing(resource_name, sub, list(wanted)) if wanted else []


def wait(parts: Parts, waiting: Waiting) -> Response:
    """Send this browser to the page, and keep the login until the user has provided what is missing."""
    login = secrets.token_urlsafe(32)
    parts.store.waiting_logins.add(
        login,
        {"browser": browser_fingerprint(parts), "waiting": dataclasses.asdict(waiting)},
        lifetime=WAIT_SECONDS,
    )
    return redirect_to(_url(parts, login))


@blueprint.get("/provide")
def show(parts: Parts) -> Response:
    """Ask for what is missing; if nothing is, finish the login."""
    if request.method == "HEAD":
        return answer_head()
    login = query_parameters().get("login", "")
    waiting = _find(parts, login)
    requested = _read_again(parts, waiting)
    if find_missing(parts, requested.resource_name, waiting.sub):
        return _ask(parts, login, waiting, requested, connected=query_parameters().get(_CONNECTED_PARAMETER))
    _consume(parts, login)
    if (page := find_change(parts, waiting.shown, requested, waiting.scopes)) is not None:
        return page
    granted = dataclasses.replace(requested, scopes=waiting.granted)
    newest = parts.user_access.choose_newer_login(waiting.sub, waiting.sealed_login)

    def check_user() -> None:
        # The user may have been revoked since the session was looked up. That ends sessions first, and then the grants
        # that there are: this one may have come too late.
        if not is_signed_in_still(parts, waiting.sub):
            raise _no_longer_signed_in(waiting)

    return send_code(
        parts,
        waiting.shown,
        granted,
        sub=waiting.sub,
        name=waiting.name,
        sealed_login=newest,
        check_user=check_user,
    )


@blueprint.post("/provide")
def act(parts: Parts) -> Response:
    """Keep what the user has entered, begin to connect an account, or cancel the login."""
    form = form_parameters()
    token = parse_form_token(parts, _FORM_PURPOSE, form.get(FORM_TOKEN_FIELD, ""), lifetime=WAIT_SECONDS)
    if not token.is_good:
        raise cannot_be_continued(parts)
    login: str = token.content["login"]
    waiting = _find(parts, login)
    requested = _read_again(parts, waiting)
    if form.get("decision") == "deny":
        _consume(parts, login)
        raise ConsentDeclined(redirect_uri=requested.redirect_uri, state=requested.state)
    asked: list[str] = token.content["variables"]
    if token.content["digest"] != _digest(parts, waiting, requested, asked):
        record(Event.LOGIN_REFUSED, reason="what the page showed has changed since")
        return _ask(parts, login, waiting, requested, is_changed=True)
    resource_name = requested.resource_name
    variable = form.get(connections.CONNECT_FIELD)
    if variable is not None and variable in asked and parts.connections.is_connection(resource_name, variable):
        return connections.send(
            parts,
            connections.Attempt(
                resource_name=resource_name,
                variable=variable,
                sub=waiting.sub,
                name=waiting.name,
                back=_url(parts, login),
                done=f"{_url(parts, login)}&{_CONNECTED_PARAMETER}={variable}",
            ),
        )
    entered = credential_fields.read(parts, resource_name, asked, form)
    if not credential_fields.keep(parts, resource_name, waiting.sub, waiting.name, entered.secrets):
        raise _no_longer_signed_in(waiting)
    missing = find_missing(parts, resource_name, waiting.sub)
    problems = {variable: text for variable, text in entered.problems.items() if variable in missing}
    if problems:
        return _ask(parts, login, waiting, requested, problems=problems, is_partly_kept=bool(entered.secrets))
    return redirect_to(_url(parts, login))


def _url(parts: Parts, login: str) -> str:
    return f"{parts.settings.issuer}/provide?login={login}"


def _find(parts: Parts, login: str) -> Waiting:
    """Return a login that waits in this browser for the user who is signed in. Raises PageError."""
    found = parts.store.waiting_logins.find(login, browser=browser_fingerprint(parts)) if login else None
    if found is None:
        raise cannot_be_continued(parts)
    waiting = _load(found["waiting"])
    session = find_session(parts)
    if session is None or session.sub != waiting.sub:
        raise _no_longer_signed_in(waiting)
    note_decision()
    note(user=waiting.sub, name=waiting.name)
    return waiting


def _no_longer_signed_in(waiting: Waiting) -> PageError:
    return PageError(
        f"You are no longer signed in as {display_text(waiting.name)}",
        "This login was for that user, who has signed out in this browser since. Nothing was allowed. Start again "
        "from the application that you want to connect.",
        help_clients=True,
    )


def _load(kept: Mapping[str, Any]) -> Waiting:
    return Waiting(
        **{
            **kept,
            "shown": Shown(**kept["shown"]),
            "scopes": tuple(kept["scopes"]),
            "granted": tuple(kept["granted"]),
        }
    )


def _consume(parts: Parts, login: str) -> None:
    """End a login: one of all attempts does. Raises PageError for the others."""
    if parts.store.waiting_logins.consume(login, browser=browser_fingerprint(parts)) is None:
        raise cannot_be_continued(parts)


def _read_again(parts: Parts, waiting: Waiting) -> AuthorizationRequest:
    requested = parts.authorization_requests.parse(waiting.shown.parameters)
    note_request(parts, requested)
    return requested


def _ask(
    parts: Parts,
    login: str,
    waiting: Waiting,
    requested: AuthorizationRequest,
    *,
    problems: Mapping[str, str] | None = None,
    is_changed: bool = False,
    is_partly_kept: bool = False,
    connected: str | None = None,
) -> Response:
    resource_name = requested.resource_name
    resource = parts.settings.resources[resource_name]
    missing = find_missing(parts, resource_name, waiting.sub)
    if not missing:  # another tab was faster
        return redirect_to(_url(parts, login))
    content = {"login": login, "variables": missing, "digest": _digest(parts, waiting, requested, missing)}
    fields = [
        credential_fields.describe(parts, resource_name, variable, problem=(problems or {}).get(variable))
        for variable in missing
    ]
    kept = [
        credential_fields.describe(parts, resource_name, variable)
        for variable in resource.user_credentials
        if variable not in missing
    ]
    response = render_page(
        parts,
        "provide.html",
        status=400 if problems else 200,
        form_targets=(*answer_targets(parts, requested), *connections.form_targets(parts, [resource_name])),
        action=f"{parts.settings.issuer}/provide",
        form_token=make_form_token(parts, _FORM_PURPOSE, content),
        fields=fields,
        kept=kept,
        connected=next((field for field in kept if field.is_connected and field.variable == connected), None),
        user=display_text(waiting.name),
        client=display_name(requested.client_name),
        server=display_name(resource.title or resource_name),
        resource_url=resource.url,
        is_changed=is_changed,
        has_problems=bool(problems),
        is_partly_kept=is_partly_kept,
    )
    keep_browser(parts, response)
    return response


def _digest(parts: Parts, waiting: Waiting, requested: AuthorizationRequest, variables: Sequence[str]) -> str:
    """Return what tells a page from every other one that asks for something else, or for someone else."""
    consent = consent_of(parts, requested.without(waiting.shown.withheld))
    fields = credential_fields.digest(parts, requested.resource_name, variables)
    return hashlib.sha256(json.dumps([consent.digest, waiting.sub, fields]).encode()).hexdigest()
