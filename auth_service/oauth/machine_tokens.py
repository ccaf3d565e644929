"""Issue tokens without a refresh token (RFC 6749 §4.4.3), whose holder can ask for a new one at any time."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from auth_service.ops import audit
from auth_service.ops.audit import Event
from auth_service.protocol import resources, scopes
from auth_service.protocol.errors import OAuthError
from auth_service.storage.grants import Grant, new_sid

from .server import ON_THE_WAY_SECONDS, AuthorizationServer
from .settings_trust import Rights, note_client, scopes_for


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The holder of a token: a machine, a workload, or a user at a client."""

    user: str
    name: str
    client_id: str
    client_name: str
    needs_authentication: bool
    basis: str
    """That of the grant (`settings_trust`)."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a token is for."""

    resource_url: str
    scope: str


def choose_target(server: AuthorizationServer, rights: Rights, form: Mapping[str, str]) -> Target:
    """Return what a request asks for, of what the operator has declared. Raises OAuthError."""
    # A client that was created by command may name a server that the settings do not have any more.
    urls = {name: each.url for name, each in server.settings.resources.items() if name in rights.servers}
    default = next(iter(urls)) if len(urls) == 1 else None
    resource = server.settings.resources[resources.parse_resource(form.get("resource"), urls, default=default)]
    if resource.user_credentials:
        # Without them no process starts, and the program would get tokens that are refused, again and again.
        raise OAuthError("invalid_target", "this server needs credentials that only a user can provide, in a browser")
    may_have = scopes_for(rights, resource)
    requested = scopes.grantable(scopes.parse(form.get("scope")), supported=may_have, default=may_have)
    granted = [scope for scope in may_have if scope in requested or scope in resource.required_scopes]
    return Target(resource_url=resource.url, scope=" ".join(granted))


def issue(
    server: AuthorizationServer, holder: Holder, target: Target, *, allowed: Collection[str], lifetime: int
) -> dict[str, Any]:
    """Return the response with a token of the holder's grant, which is kept as long as a token is valid.

    `allowed` are all scopes that the holder may have.
    """
    grant = _find_or_make_grant(server, holder, target, lifetime=lifetime + ON_THE_WAY_SECONDS)
    body = server.token_response(grant, scope=grant.scope, allowed=allowed, refresh_token=None, lifetime=lifetime)
    server.keep_credentials(grant)
    audit.record(Event.TOKEN_ISSUED, of=grant, scope=grant.scope)
    return body


def _find_or_make_grant(server: AuthorizationServer, holder: Holder, target: Target, *, lifetime: int) -> Grant:
    """Return the holder's grant for these scopes of a resource, so that its tokens do not fill lists of grants."""
    for live in server.store.grants.find_of_user(holder.user, client_id=holder.client_id):
        grant = live.grant
        # A grant with a redirect URI is of a login with a browser, and the user may end the one without the other.
        wanted = (target.resource_url, target.scope, holder.basis, "")
        is_same = (grant.resource, grant.scope, grant.basis, grant.redirect) == wanted
        if is_same and server.store.grants.prolong(grant, lifetime=lifetime):
            return grant
    grant = Grant(
        sid=new_sid(),
        sub=holder.user,
        name=holder.name,
        client_id=holder.client_id,
        client_name=holder.client_name,
        resource=target.resource_url,
        scope=target.scope,
        redirect="",
        created_at=int(time.time()),
        needs_authentication=holder.needs_authentication,
        basis=holder.basis,
    )
    note_client(server.store, grant)
    server.store.grants.add(grant, lifetime=lifetime)
    server.revocation.revoke_surplus(grant)
    return grant
