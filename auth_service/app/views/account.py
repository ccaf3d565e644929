"""The account page: it shows which applications have access to which servers, and ends it.

It shows as well which credentials of the user the gateway keeps, replaces and removes them, and asks for those that
are missing at servers that the user may use.
"""

from __future__ import annotations

from collections.abc import Mapping

from flask import Response, request

from auth_service.app.composition import Parts
from auth_service.ops.audit import Event
from auth_service.protocol.display import display_text
from auth_service.protocol.errors import LoginError, PageError, ProviderRefusal, ServiceUnavailable
from auth_service.storage.sessions import Session

from . import Endpoints, connections, credential_fields, form_parameters, provider_login, record
from .accesses import find_accesses, find_logins
from .browser import (
    FORM_TOKEN_FIELD,
    end_session,
    find_session,
    keep_browser,
    make_form_token,
    parse_form_token,
    sends_cookies,
    start_session,
)
from .consent_pages import page_of_refusal
from .pages import capitalized, provider_targets, redirect_to, render_page

blueprint = Endpoints("account", __name__)

_FORM_PURPOSE = "account"
HOME_FIELD = "home"
"""The field of a form of the home page: the sign-in leads back there."""
_NOTICES = frozenset(
    {
        *("ended", "all-ended", "signed-out"),
        *("credential-removed", "credential-replaced", "credential-set", "credential-connected"),
    }
)
_FAULTS = frozenset({"stale", "no-cookies", "credential-problem"})
"""The notices that say why a form has changed nothing."""


@blueprint.get("/account")
def show(parts: Parts) -> Response:
    """Show what the signed-in user has granted, or how to sign in."""
    notice = request.args.get("notice", "")
    return _render(parts, notice if notice in _NOTICES else "")


@blueprint.post("/account")
def act(parts: Parts) -> Response:
    """Sign in or out, or end access, if the form token is of this browser and this user."""
    form = form_parameters()
    token = parse_form_token(parts, _FORM_PURPOSE, form.get(FORM_TOKEN_FIELD, ""))
    session = find_session(parts)
    subject = session.sub if session is not None else None
    if not token.is_good or token.content["sub"] != subject:
        record(
            Event.CONSENT_REFUSED,
            user=subject,
            reason="the account page was too old, or made for another browser or user",
        )
        return _render(parts, "stale" if sends_cookies(parts) else "no-cookies")
    if session is None or form.get("action") == "sign-in":
        try:
            attempt = provider_login.Attempt(home=HOME_FIELD in form and parts.settings.home_page.enabled)
            return provider_login.send(parts, attempt, other_account=form.get("account") == "other")
        except ServiceUnavailable as error:
            raise _provider_down(parts, error) from error
    if "credential" in token.content:
        return _change_credential(parts, session, token.content, form)
    if "missing" in token.content:
        return _set_credential(parts, session, token.content, form)
    return _change(parts, session, form)


def form_token(parts: Parts, session: Session | None) -> str:
    """Return the hidden field of a form that is sent to the account page."""
    return make_form_token(parts, _FORM_PURPOSE, {"sub": session.sub if session is not None else None})


def finish_sign_in(parts: Parts, parameters: dict[str, str], *, home: bool) -> Response:
    """Sign in the browser that has come back from the identity provider. Raises PageError."""
    provider = capitalized(parts.provider.title)
    try:
        if "code" not in parameters:
            raise parts.provider.explain_refusal(parameters)
        login = provider_login.finish(parts, parameters)
    except LoginError as error:
        if "code" not in parameters:
            raise PageError(
                "You did not sign in", f"You cancelled at {parts.provider.title}.", links=_again(parts)
            ) from error
        raise PageError(f"{provider} did not sign you in", "Please try again.", links=_again(parts)) from error
    except ServiceUnavailable as error:
        raise _provider_down(parts, error) from error
    profile = login.profile
    record(Event.SESSION_STARTED, user=profile.subject, name=profile.login)
    if parts.user_access.find_usable(profile):  # nothing is kept about people who may use no server
        parts.user_access.remember(login)
    response = redirect_to(f"{parts.settings.issuer}/") if home else _back(parts)
    start_session(parts, response, profile)
    return response


def _provider_down(parts: Parts, error: ServiceUnavailable) -> PageError | ServiceUnavailable:
    """Return what to raise after an error that may be the identity provider's."""
    provider = parts.provider.title
    if error.dependency != provider:
        return error
    if isinstance(error, ProviderRefusal):
        page = page_of_refusal(error)
        page.links = _again(parts)
        return page
    return PageError(
        f"{capitalized(provider)} does not answer",
        "It could not say who you are. Please try again in a moment.",
        status=503,
        links=_again(parts),
    )


def _again(parts: Parts) -> tuple[tuple[str, str], ...]:
    return (("Back to the account page", f"{parts.settings.issuer}/account"),)


def _change(parts: Parts, session: Session, form: dict[str, str]) -> Response:
    revocation = parts.revocation
    match form.get("action"):
        case "end" if "access" in form:
            for client_id, resource_url, redirect_uri in find_logins(parts, session.sub, form["access"]):
                revocation.revoke_access(
                    session.sub, by="user", client_id=client_id, resource_url=resource_url, redirect=redirect_uri
                )
            return _back(parts, "ended")
        case "end-all":
            revocation.revoke_access(session.sub, by="user")
            return _back(parts, "all-ended")
        case "sign-out":
            record(Event.SESSION_ENDED, user=session.sub, name=session.name)
            response = _back(parts, "signed-out")
            end_session(parts, response)
            return response
        case _:
            return _render(parts, "stale")


def _change_credential(parts: Parts, session: Session, shown: dict[str, str], form: dict[str, str]) -> Response:
    """Replace or remove the credential that the form was for, if it is still there and still what the page showed."""
    found = credential_fields.find_held(parts, session.sub, list(parts.settings.resources))
    held = next((each for each in found if each.id == shown["credential"]), None)
    if held is None or held.digest != shown["digest"]:
        return _render(parts, "stale")
    resource_name, variable = held.resource_name, held.variable
    match form.get("action"):
        case "remove-credential":
            parts.credential_changes.remove(resource_name, session.sub, [variable], by="user")
            return _back(parts, "credential-removed")
        case "replace-credential" if held.field is not None and not held.field.is_connected:
            return _enter(parts, session, resource_name, variable, form, notice="credential-replaced")
        case "connect-credential" if parts.connections.is_connection(resource_name, variable):
            return _connect(parts, session, resource_name, variable, notice="credential-replaced")
        case _:
            return _render(parts, "stale")


def _set_credential(parts: Parts, session: Session, shown: dict[str, str], form: dict[str, str]) -> Response:
    """Keep or connect what the form asked for, if the user may use its server and it is still missing."""
    found = credential_fields.find_missing(parts, session.sub, _find_usable(parts, session) or [])
    missing = next((each for each in found if each.id == shown["missing"]), None)
    if missing is None or missing.digest != shown["digest"]:
        return _render(parts, "stale")
    resource_name, variable = missing.resource_name, missing.field.variable
    match form.get("action"):
        case "set-credential" if not missing.field.is_connected:
            return _enter(parts, session, resource_name, variable, form, notice="credential-set")
        case "connect-credential" if parts.connections.is_connection(resource_name, variable):
            return _connect(parts, session, resource_name, variable, notice="credential-connected")
        case _:
            return _render(parts, "stale")


def _enter(
    parts: Parts, session: Session, resource_name: str, variable: str, form: dict[str, str], *, notice: str
) -> Response:
    entered = credential_fields.read(parts, resource_name, [variable], form)
    if entered.problems:
        problems = {credential_fields.credential_id(resource_name, variable): entered.problems[variable]}
        return _render(parts, "credential-problem", problems=problems)
    if not credential_fields.keep(parts, resource_name, session.sub, session.name, entered.secrets):
        return _render(parts, "stale")
    return _back(parts, notice)


def _connect(parts: Parts, session: Session, resource_name: str, variable: str, *, notice: str) -> Response:
    page = f"{parts.settings.issuer}/account"
    return connections.send(
        parts,
        connections.Attempt(
            resource_name=resource_name,
            variable=variable,
            sub=session.sub,
            name=session.name,
            back=page,
            done=f"{page}?notice={notice}",
        ),
    )


def _find_usable(parts: Parts, session: Session) -> list[str] | None:
    """Return the servers that ask for credentials and that the user may use; None if the gateway does not know."""
    asking = {name for name, resource in parts.settings.resources.items() if resource.user_credentials}
    if not asking:
        return []
    usable = parts.user_access.find_usable_when_signed_in(session.sub, session.name)
    return None if usable is None else [name for name in usable if name in asking]


def _token_of(
    parts: Parts, session: Session, shown: credential_fields.HeldCredential | credential_fields.MissingCredential
) -> str:
    kind = "credential" if isinstance(shown, credential_fields.HeldCredential) else "missing"
    content = {"sub": session.sub, kind: shown.id, "digest": shown.digest}
    return make_form_token(parts, _FORM_PURPOSE, content)


def _back(parts: Parts, notice: str = "") -> Response:
    query = f"?notice={notice}" if notice else ""
    return redirect_to(f"{parts.settings.issuer}/account{query}")


def _render(parts: Parts, notice: str, *, problems: Mapping[str, str] | None = None) -> Response:
    """Render the page, or the one to sign in. `problems` say why an entered value is not kept, by credential."""
    session = find_session(parts)
    if session is None:
        page = _render_sign_in(parts, notice)
    else:
        page = _render_account(parts, session, notice, problems=problems or {})
    keep_browser(parts, page)
    return page


def _render_sign_in(parts: Parts, notice: str) -> Response:
    return render_page(
        parts,
        "sign_in.html",
        status=_status(notice),
        form_targets=provider_targets(parts),
        action=f"{parts.settings.issuer}/account",
        form_token=form_token(parts, None),
        provider=parts.provider.title,
        notice=notice,
    )


def _render_account(parts: Parts, session: Session, notice: str, *, problems: Mapping[str, str]) -> Response:
    usable = _find_usable(parts, session)
    held = credential_fields.find_held(parts, session.sub, list(parts.settings.resources), problems=problems)
    missing = credential_fields.find_missing(parts, session.sub, usable or [], problems=problems)
    resource_names = sorted({each.resource_name for each in held} | {each.resource_name for each in missing})
    return render_page(
        parts,
        "account.html",
        status=_status(notice),
        form_targets=(
            *(provider_targets(parts) if usable is None else ()),
            *connections.form_targets(parts, resource_names),
        ),
        action=f"{parts.settings.issuer}/account",
        form_token=form_token(parts, session),
        user=display_text(session.name),
        accesses=find_accesses(parts, session.sub),
        credentials=[(each, _token_of(parts, session, each)) for each in held],
        missing=[(each, _token_of(parts, session, each)) for each in missing],
        is_known=usable is not None,
        provider=parts.provider.title,
        notice=notice,
    )


def _status(notice: str) -> int:
    return 400 if notice in _FAULTS else 200
