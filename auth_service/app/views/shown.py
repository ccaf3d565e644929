"""What a person was shown of an authorization request: what they decide on, and what a code is issued for.

It goes into the form's token, and from there into the login at the identity provider, as a digest. Everything is read
again when the form comes back, and once more when the browser does: the client may have replaced its registration, its
metadata document may say something else, the operator may have changed the server. Where the digest differs, the
person is shown what there is now, and decides again.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from flask import g

from auth_service.oauth.server import AuthorizationRequest
from auth_service.protocol.consent import Approval

from . import gateway


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An authorization request as a person saw it, or as it was when a remembered approval stood in for the page."""

    parameters: dict[str, str]
    """The request, with what it left to this service to choose, and without what means nothing here."""
    digest: str
    """Of the approval that the request asks for."""
    user: str | None = None
    """The subject that the page named; None if it named nobody."""
    approved_by: str | None = None
    """The subject whose remembered approval this is; None if the person in front of the browser decides."""

    def is_what(self, authorization: AuthorizationRequest) -> bool:
        """Whether the request, as read now, is the one that was shown."""
        return hmac.compare_digest(self.digest, approval_of(authorization).digest)

    def is_for(self, subject: str) -> bool:
        """Whether this user may go on: the one that was named, or anyone where nobody was."""
        return {self.user, self.approved_by} <= {None, subject}


def show(
    authorization: AuthorizationRequest,
    *,
    user: str | None = None,
    approved_by: str | None = None,
) -> Shown:
    """Return what is shown of a request that has just been read."""
    read = {
        "response_type": "code",
        "client_id": authorization.client_id,
        "redirect_uri": authorization.redirect_uri,
        "code_challenge": authorization.code_challenge,
        "code_challenge_method": "S256",
        "resource": gateway().settings.resources[authorization.resource].url,
    }
    if authorization.names_scopes:
        read["scope"] = " ".join(authorization.scopes)
    if authorization.state is not None:
        read["state"] = authorization.state
    return Shown(
        parameters=read,
        digest=approval_of(authorization).digest,
        user=user,
        approved_by=approved_by,
    )


def approval_of(authorization: AuthorizationRequest) -> Approval:
    """Return what someone who approves the request approves."""
    resource = gateway().settings.resources[authorization.resource]
    return Approval(
        client=authorization.client,
        redirect_uri=authorization.redirect_uri,
        resource_url=resource.url,
        server=resource.title or authorization.resource,
        scopes={scope: resource.scopes[scope] for scope in authorization.scopes},
    )


def note_decision() -> None:
    """Remember that a person has decided on the request at hand, in this browser: its client may get an answer."""
    g.has_decided = True


def has_decided() -> bool:
    """Whether `note_decision` was called."""
    return bool(g.get("has_decided"))
