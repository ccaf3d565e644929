"""What the account page shows of a user's grants: the access of one program to one server."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from auth_service.app.composition import Parts
from auth_service.protocol import client_documents, redirect_uris
from auth_service.protocol.display import DisplayName, display_name
from auth_service.protocol.redirect_uris import Target
from auth_service.storage.grants import Grant, StoredGrant

from .pages import moment


@dataclass(frozen=True, kw_only=True)
class Access:
    """The access of one program to one server, from all its logins together.

    A program that registers at each login is a new client each time. To a user it is one program: the same name,
    publisher and recipient of the answers.
    """

    id: str
    """Names this access in the page's form; the same at each look, as long as there is one login."""
    grants: tuple[StoredGrant, ...]
    client: DisplayName
    client_host: str | None
    target: Target | None
    """The recipient of the answers; None for a token that the operator has issued, and if `is_vouched`."""
    is_vouched: bool
    """Whether the identity provider has vouched for the user, so that there was no page here."""
    resource_url: str
    server: DisplayName
    scopes: tuple[str, ...]
    since: datetime
    last_used: datetime | None


def find_accesses(parts: Parts, sub: str) -> tuple[Access, ...]:
    """Return the accesses of a user, the newest first."""
    held: dict[str, list[StoredGrant]] = {}
    for live in parts.store.grants.find_of_user(sub):
        held.setdefault(_access_id(live.grant), []).append(live)
    accesses = [_merge(parts, access_id, grants) for access_id, grants in held.items()]
    return tuple(sorted(accesses, key=lambda access: access.since, reverse=True))


def _access_id(grant: Grant) -> str:
    published = grant.client_id if client_documents.is_document_url(grant.client_id) else None
    members = [published, grant.client_name, grant.redirect, grant.resource]
    return hashlib.sha256(json.dumps(members).encode()).hexdigest()


def find_logins(parts: Parts, sub: str, access_id: str) -> Iterator[tuple[str, str, str]]:
    """Yield the client, the resource and the redirect URI of each login of an access that the user has now."""
    for access in find_accesses(parts, sub):
        if access.id == access_id:
            grants = [live.grant for live in access.grants]
            yield from dict.fromkeys((grant.client_id, grant.resource, grant.redirect) for grant in grants)


def _merge(parts: Parts, access_id: str, held: list[StoredGrant]) -> Access:
    settings = parts.settings
    newest = max((live.grant for live in held), key=lambda grant: grant.created_at)
    name = settings.find_resource_name(newest.resource)
    title = newest.resource if name is None else settings.resources[name].title or name
    uses = [live.last_used for live in held if live.last_used is not None]
    return Access(
        id=access_id,
        grants=tuple(held),
        client=display_name(newest.client_name),
        client_host=client_documents.host_of(newest.client_id),
        target=redirect_uris.describe_target(newest.redirect, settings.clients.redirect_schemes)
        if newest.redirect
        else None,
        is_vouched=newest.needs_authentication and not newest.redirect,
        resource_url=newest.resource,
        server=display_name(title),
        scopes=tuple(dict.fromkeys(scope for live in held for scope in live.grant.scope.split())),
        since=moment(min(live.grant.created_at for live in held)),
        last_used=moment(max(uses)) if uses else None,
    )
