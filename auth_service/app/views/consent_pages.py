"""The consent page, and the pages on which a login stops until the user decides how to go on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from enum import Enum
from typing import Final

from flask import Response

from auth_service.app.composition import Parts
from auth_service.idp import SignOn
from auth_service.oauth.authorization_requests import AuthorizationRequest
from auth_service.ops.audit import Event
from auth_service.protocol import redirect_uris
from auth_service.protocol.access import Profile
from auth_service.protocol.display import display_name, display_text
from auth_service.protocol.errors import PageError, ProviderRefusal, ServiceUnavailable

from . import note, record
from .browser import FORM_TOKEN_FIELD, find_session, keep_browser, make_form_token
from .pages import capitalized, provider_targets, render_page
from .shown_request import Shown, consent_of, show

FORM_PURPOSE: Final = "decision"
SCOPE_FIELD: Final = "scope:"


class Notice(Enum):
    """Why the consent page is shown again."""

    STALE = "stale"
    NO_COOKIES = "no-cookies"
    NOTHING_CHOSEN = "nothing-chosen"
    CHANGED = "changed"
    OTHER_USER = "other-user"


def note_request(parts: Parts, authorization: AuthorizationRequest) -> None:
    """Note the client and the resource of this request for the audit log."""
    note(client=authorization.client_id, resource=parts.settings.resources[authorization.resource_name].url)


def find_known_user(parts: Parts, authorization: AuthorizationRequest) -> Profile | None:
    """Return the signed-in user as of the last login, if that matters to the scopes of the request and is known."""
    resource = parts.settings.resources[authorization.resource_name]
    session = find_session(parts)
    if session is None or all(resource.scopes[scope].allowed is None for scope in authorization.scopes):
        return None
    return parts.user_access.find_last_profile(session.sub, session.name)


def find_withheld(parts: Parts, authorization: AuthorizationRequest, user: Profile | None) -> tuple[str, ...]:
    """Return the scopes that are not offered to a user, who may not have them by what is known.

    There are none if nothing is known of the user, or if it would be all of them. A scope that every request needs is
    not among them. The login decides in these cases, which knows more.
    """
    if user is None:
        return ()
    resource = parts.settings.resources[authorization.resource_name]
    expected = parts.user_access.expect_scopes(user, authorization.resource_name)
    withheld = tuple(
        scope for scope in authorization.scopes if scope not in expected and not resource.scopes[scope].required
    )
    return withheld if len(withheld) < len(authorization.scopes) else ()


def ask(
    parts: Parts,
    authorization: AuthorizationRequest,
    *,
    notice: Notice | None = None,
    logged_in: Profile | None = None,
) -> Response:
    """Render the consent page. `logged_in` is the user of the notice OTHER_USER."""
    resource = parts.settings.resources[authorization.resource_name]
    session = find_session(parts)
    known_user = logged_in or find_known_user(parts, authorization)
    withheld = find_withheld(parts, authorization, known_user)
    offered = authorization.without(withheld)
    consent = consent_of(parts, offered)
    known = parts.store.consents.find_scopes(session.sub, consent) if session is not None else frozenset[str]()
    named = logged_in.subject if logged_in is not None else session.sub if session is not None else None
    response = render_page(
        parts,
        "consent.html",
        status=400 if notice in {Notice.STALE, Notice.NO_COOKIES, Notice.NOTHING_CHOSEN} else 200,
        form_targets=_form_targets(parts, authorization),
        action=f"{parts.settings.issuer}/consent",
        form_token=_make_form_token(parts, show(parts, authorization, user=named, withheld=withheld)),
        client=display_name(authorization.client_name),
        client_host=authorization.client_host,
        target=redirect_uris.describe_target(authorization.redirect_uri, parts.settings.clients.redirect_schemes),
        server=display_name(consent.server),
        resource_url=resource.url,
        scopes=[(scope, resource.scopes[scope], bool(known) and scope not in known) for scope in offered.scopes],
        withheld=[(scope, resource.scopes[scope]) for scope in withheld],
        withheld_from=display_text(known_user.login) if known_user is not None else "",
        is_known=known_user is not None,
        scope_field=SCOPE_FIELD,
        signed_in=display_text(session.name) if session is not None else None,
        is_repeated=known.issuperset(offered.scopes),
        provider=parts.provider.title,
        notice=notice.value if notice is not None else None,
        user=display_text(logged_in.login) if logged_in is not None else "",
    )
    keep_browser(parts, response)
    return response


def no_login(parts: Parts, shown: Shown, approved: AuthorizationRequest, error: ServiceUnavailable) -> Response:
    """Offer another try after an error of the identity provider. Raises the error if another part caused it."""
    provider = parts.provider.title
    if error.dependency != provider:
        raise error
    if isinstance(error, ProviderRefusal):
        record(Event.LOGIN_REFUSED, reason=f"{provider} refused: {error.code}")
        return _render_with_choice(parts, "retry.html", page_of_refusal(error), shown, approved)
    record(Event.LOGIN_REFUSED, reason=f"{provider} does not answer")
    page = PageError(
        f"{capitalized(provider)} does not answer",
        f"You allowed {display_text(approved.client_name)}, but {provider} could not say who you are. "
        "Nobody has access yet. Please try again in a moment.",
        status=503,
    )
    response = _render_with_choice(parts, "retry.html", page, shown, approved)
    response.headers["Retry-After"] = str(error.retry_after)
    return response


def page_of_refusal(error: ProviderRefusal) -> PageError:
    """Return the page of an identity provider's refusal that has nothing to do with the user's rights."""
    return PageError(
        error.title,
        f"{error.explanation} Nothing was allowed.",
        status=403 if error.operator is None else 503,
        operator=error.operator,
    )


def sign_on_required(
    parts: Parts, shown: Shown, approved: AuthorizationRequest, sign_ons: Sequence[SignOn]
) -> Response:
    """Link to the single sign-on of the user's organization at the provider, and offer another try."""
    provider = capitalized(parts.provider.title)
    names = ", ".join(each.organization for each in sign_ons)
    record(Event.LOGIN_REFUSED, reason=f"{provider} requires single sign-on for {names}")
    error = PageError(
        f"{names} wants you to sign in",
        f"{provider} says whether you are a member only after you have signed in with the single sign-on of your "
        "organization, and have given this gateway's application access there. Do so, then come back here and try "
        "again. Nothing was allowed.",
        status=403,
        links=tuple((f"Sign in to {each.organization} at {provider}", each.url) for each in sign_ons),
    )
    return _render_with_choice(parts, "retry.html", error, shown, approved)


def not_allowed(parts: Parts, shown: Shown, approved: AuthorizationRequest, name: str) -> Response:
    """Tell a user who is not on the allow-list so, and offer another account."""
    resource = parts.settings.resources[approved.resource_name]
    record(Event.LOGIN_REFUSED, reason=f"{name} may not use this server")
    user, server = display_text(name), display_text(resource.title or approved.resource_name)
    error = PageError(
        f"{user} may not use this server",
        f"{capitalized(parts.provider.title)} signed you in as {user}, but that account is not on the list of "
        f"{server}. Ask the operator of {parts.host} to add it, or use another account. Nothing was allowed.",
        status=403,
    )
    return _render_with_choice(parts, "not_allowed.html", error, dataclasses.replace(shown, user=None), approved)


def scopes_not_allowed(
    parts: Parts, shown: Shown, approved: AuthorizationRequest, name: str, lacking: Sequence[str]
) -> Response:
    """Tell a user who may not have any of what was asked for, or not what is always needed; offer another account."""
    resource = parts.settings.resources[approved.resource_name]
    record(Event.LOGIN_REFUSED, scope=" ".join(lacking), reason=f"{name} may not have these scopes of this server")
    user, server = display_text(name), display_text(resource.title or approved.resource_name)
    named = "; ".join(f"{display_text(resource.scopes[scope].description)} ({scope})" for scope in lacking)
    is_always_needed = not resource.required_scopes.isdisjoint(lacking)
    what = f"what every use of {server} needs" if is_always_needed else "any of what was asked for"
    error = PageError(
        f"{user} may not use this server" if is_always_needed else f"{user} may not do this with {server}",
        f"{capitalized(parts.provider.title)} signed you in as {user}, but that account may not have {what}: {named}. "
        f"Ask the operator of {parts.host} for it, or use another account. Nothing was allowed.",
        status=403,
    )
    return _render_with_choice(parts, "not_allowed.html", error, dataclasses.replace(shown, user=None), approved)


def _render_with_choice(
    parts: Parts,
    template: str,
    error: PageError,
    shown: Shown,
    approved: AuthorizationRequest,
) -> Response:
    """Render an error after which the user may try again with the same consent, or go back to the client."""
    response = render_page(
        parts,
        template,
        status=error.status,
        form_targets=_form_targets(parts, approved),
        error=error,
        action=f"{parts.settings.issuer}/consent",
        fields={
            FORM_TOKEN_FIELD: _make_form_token(parts, shown),
            **{f"{SCOPE_FIELD}{scope}": "on" for scope in approved.scopes},
        },
        client=display_name(approved.client_name),
        provider=parts.provider.title,
    )
    keep_browser(parts, response)
    return response


def _make_form_token(parts: Parts, shown: Shown) -> str:
    return make_form_token(parts, FORM_PURPOSE, dataclasses.asdict(shown))


def _form_targets(parts: Parts, authorization: AuthorizationRequest) -> tuple[str, ...]:
    """Return the CSP sources that the answer to a decision may redirect to."""
    return tuple(dict.fromkeys((*provider_targets(parts), *answer_targets(parts, authorization))))


def answer_targets(parts: Parts, authorization: AuthorizationRequest) -> tuple[str, ...]:
    """Return the CSP sources of the client's redirect URI."""
    apps = parts.settings.clients.redirect_schemes
    return tuple(redirect_uris.form_action_sources(authorization.redirect_uri, apps))
