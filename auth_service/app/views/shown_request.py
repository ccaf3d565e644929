"""What a page showed of an authorization request: what the user decides on, and what a code is issued for.

Its digest goes into the form token, and from there into the login at the identity provider. The request is read again
when the form comes back, and again when the browser does: the client may have replaced its registration or its
document, and the operator may have changed the server. If the digest differs, the user sees the page again and decides
again.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from flask import g

from auth_service.app.composition import Parts
from auth_service.oauth.authorization_requests import AuthorizationRequest
from auth_service.protocol.consent import Consent


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An authorization request as the page showed it, or as it was when a remembered consent replaced the page."""

    parameters: dict[str, str]
    """The parameters of the request that have a meaning here, with a redirect URI and resource where it named none."""
    digest: str
    """The digest of the consent that the page asked for."""
    user: str | None = None
    """The subject that the page named; None if it named no user."""
    approved_by: str | None = None
    """The subject whose remembered consent this is; None if the user decides on the page."""
    withheld: Sequence[str] = ()
    """The scopes of the request that the page did not offer."""

    def is_what(self, parts: Parts, authorization: AuthorizationRequest) -> bool:
        """Whether the request, as read now, is the one that the page showed."""
        offered = authorization.without(self.withheld)
        return hmac.compare_digest(self.digest, consent_of(parts, offered).digest)

    def is_for(self, subject: str) -> bool:
        """Whether this user may go on: only the named one, or any user if none was named."""
        return {self.user, self.approved_by} <= {None, subject}


def show(
    parts: Parts,
    authorization: AuthorizationRequest,
    *,
    user: str | None = None,
    approved_by: str | None = None,
    withheld: Sequence[str] = (),
) -> Shown:
    """Return what a page shows of a request that has just been read, without the withheld scopes."""
    read = {
        "response_type": "code",
        "client_id": authorization.client_id,
        "redirect_uri": authorization.redirect_uri,
        "code_challenge": authorization.code_challenge,
        "code_challenge_method": "S256",
        "resource": parts.settings.resources[authorization.resource_name].url,
    }
    if authorization.names_scopes:
        read["scope"] = " ".join(authorization.scopes)
    if authorization.state is not None:
        read["state"] = authorization.state
    return Shown(
        parameters=read,
        digest=consent_of(parts, authorization.without(withheld)).digest,
        user=user,
        approved_by=approved_by,
        withheld=withheld,
    )


def consent_of(parts: Parts, authorization: AuthorizationRequest) -> Consent:
    """Return the consent that a user gives by allowing the request."""
    resource = parts.settings.resources[authorization.resource_name]
    return Consent(
        client=authorization.client,
        redirect_uri=authorization.redirect_uri,
        resource_url=resource.url,
        server=resource.title or authorization.resource_name,
        scopes={scope: resource.scopes[scope] for scope in authorization.scopes},
    )


def note_decision() -> None:
    """Note that the user has decided in this browser, so that the client may get an answer to this request."""
    g.has_decided = True


def has_decided() -> bool:
    """Whether `note_decision` was called."""
    return bool(g.get("has_decided"))
