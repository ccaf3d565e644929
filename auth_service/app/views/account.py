"""The account page: it shows which applications have access to which servers, and ends it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from flask import Response, make_response, redirect, request

from auth_service.app.composition import Parts
from auth_service.ops.audit import Event
from auth_service.protocol import client_documents
from auth_service.protocol.display import DisplayName, display_name, display_text
from auth_service.protocol.errors import LoginError, PageError, ProviderRefusal, ServiceUnavailable
from auth_service.storage.grants import StoredGrant
from auth_service.storage.sessions import Session

from . import Endpoints, form_parameters, record, upstream
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
from .pages import capitalized, protect, provider_targets, render_page

blueprint = Endpoints("account", __name__)

_FORM_PURPOSE = "account"
_NOTICES = frozenset({"ended", "all-ended", "signed-out"})


@dataclass(frozen=True, kw_only=True)
class Access:
    """The access of one application to one server, from all its logins together."""

    client_id: str
    client: DisplayName
    client_host: str | None
    resource_url: str
    server: DisplayName
    scopes: tuple[str, ...]
    since: datetime
    last_used: datetime | None


@blueprint.get("/account")
def show(parts: Parts) -> Response:
    """Show what the signed-in user has granted, or how to sign in."""
    notice = request.args.get("notice", "")
    return _render(parts, notice if notice in _NOTICES else "")


@blueprint.post("/account")
def act(parts: Parts) -> Response:
    """Sign in or out, or end access, if the form token is of this browser and this user."""
    form = form_parameters()
    form_token = parse_form_token(parts, _FORM_PURPOSE, form.get(FORM_TOKEN_FIELD, ""))
    session = find_session(parts)
    subject = session.sub if session is not None else None
    if not form_token.is_good or form_token.content["sub"] != subject:
        record(
            Event.CONSENT_REFUSED,
            user=subject,
            reason="the account page was too old, or made for another browser or user",
        )
        return _render(parts, "stale" if sends_cookies(parts) else "no-cookies")
    if session is None:
        try:
            return upstream.send(parts, upstream.Attempt(), other_account=form.get("account") == "other")
        except ServiceUnavailable as error:
            raise _provider_down(parts, error) from error
    return _change(parts, session, form)


def finish_sign_in(parts: Parts, parameters: dict[str, str]) -> Response:
    """Sign in the browser that has come back from the identity provider. Raises PageError."""
    provider = capitalized(parts.provider.title)
    try:
        if "code" not in parameters:
            raise parts.provider.explain_refusal(parameters)
        identity = upstream.finish(parts, parameters).identity
    except LoginError as error:
        if "code" not in parameters:
            raise PageError(
                "You did not sign in", f"You cancelled at {parts.provider.title}.", links=_again(parts)
            ) from error
        raise PageError(f"{provider} did not sign you in", "Please try again.", links=_again(parts)) from error
    except ServiceUnavailable as error:
        raise _provider_down(parts, error) from error
    record(Event.SESSION_STARTED, user=identity.subject, name=identity.login)
    response = _back(parts)
    start_session(parts, response, sub=identity.subject, name=identity.login)
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
        case "end" if "client_id" in form and "resource" in form:
            revocation.revoke_access(session.sub, by="user", client_id=form["client_id"], resource_url=form["resource"])
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


def _back(parts: Parts, notice: str = "") -> Response:
    query = f"?notice={notice}" if notice else ""
    response = make_response(redirect(f"{parts.settings.issuer}/account{query}", code=303))
    protect(response)
    return response


def _render(parts: Parts, notice: str) -> Response:
    session = find_session(parts)
    response = render_page(
        parts,
        "account.html" if session is not None else "sign_in.html",
        status=400 if notice in {"stale", "no-cookies"} else 200,
        form_targets=provider_targets(parts) if session is None else (),
        action=f"{parts.settings.issuer}/account",
        form_token=make_form_token(parts, _FORM_PURPOSE, {"sub": session.sub if session is not None else None}),
        session=session,
        user=display_text(session.name) if session is not None else "",
        accesses=_accesses(parts, session) if session is not None else (),
        provider=parts.provider.title,
        notice=notice,
    )
    keep_browser(parts, response)
    return response


def _accesses(parts: Parts, session: Session) -> tuple[Access, ...]:
    settings = parts.settings
    titles = {each.url: each.title or name for name, each in settings.resources.items()}
    held: dict[tuple[str, str], list[StoredGrant]] = {}
    for live in parts.store.grants.find_of_user(session.sub):
        held.setdefault((live.grant.client_id, live.grant.resource), []).append(live)
    accesses = [_merge(grants, title=titles.get(resource, resource)) for (_, resource), grants in held.items()]
    return tuple(sorted(accesses, key=lambda access: access.since, reverse=True))


def _merge(held: list[StoredGrant], *, title: str) -> Access:
    newest = max((live.grant for live in held), key=lambda grant: grant.created_at)
    uses = [live.last_used for live in held if live.last_used is not None]
    return Access(
        client_id=newest.client_id,
        client=display_name(newest.client_name),
        client_host=client_documents.host_of(newest.client_id),
        resource_url=newest.resource,
        server=display_name(title),
        scopes=tuple(dict.fromkeys(scope for live in held for scope in live.grant.scope.split())),
        since=_time(min(live.grant.created_at for live in held)),
        last_used=_time(max(uses)) if uses else None,
    )


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
