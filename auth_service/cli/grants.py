"""`mcp-gatewayctl grants`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from auth_service.oauth.revocation import Revocation
from auth_service.storage.grants import Grant, StoredGrant

from .operator import BY, IdCommand, Operator, as_json, end_grants, is_user_id, with_operator
from .output import oldest_first, print_record, print_records, timestamp


@click.group(short_help="What users allow clients.")
def grants() -> None:
    """Grants: what one user allows one client at one server."""


@grants.command("list")
@click.option("--user", help="Only of this user, by id (github:583231) or login name.")
@click.option("--client", help="Only of this client.")
@click.option("--server", help="Only on this server, by name or URL.")
@with_operator
@as_json
def list_(operator: Operator, *, user: str | None, client: str | None, server: str | None, as_json: bool) -> None:
    """List all grants, or some."""
    url = operator.resource_url(server) if server is not None else None
    found = (
        each
        for each in _candidates(operator, user=user, client=client)
        if user in {None, each.grant.sub, each.grant.name}
        and client in {None, each.grant.client_id}
        and url in {None, each.grant.resource}
    )
    records = (describe(operator, each) for each in oldest_first(found, lambda each: each.grant.created_at))
    columns = {
        "grant": "GRANT",
        "name": "USER",
        "client_name": "CLIENT",
        "server": "SERVER",
        "scope": "SCOPE",
        "last_used": "LAST USED",
        "expires_at": "EXPIRES",
    }
    print_records(records, columns, as_json=as_json)


@grants.command(cls=IdCommand)
@click.argument("grant")
@with_operator
@as_json
def show(operator: Operator, *, grant: str, as_json: bool) -> None:
    """Show all members of GRANT."""
    print_record(_find(operator, grant), as_json=as_json)


@grants.command(cls=IdCommand)
@click.argument("grant")
@with_operator
@as_json
def revoke(operator: Operator, *, grant: str, as_json: bool) -> None:
    """End GRANT at once, with all its tokens and open streams. The user can allow the client again."""

    def end(revocation: Revocation) -> list[Grant]:
        ended = revocation.revoke_grant(grant, by=BY, reason="revoked")
        if ended is None:
            raise _unknown(grant)
        return [ended]

    end_grants(operator, {"grant": grant}, end, as_json=as_json)


def describe(operator: Operator, each: StoredGrant) -> dict[str, Any]:
    """Return the members of a grant that are printed."""
    return {
        "grant": each.grant.sid,
        "user": each.grant.sub,
        "name": each.grant.name,
        "client": each.grant.client_id,
        "client_name": each.grant.client_name,
        "server": operator.resource_name(each.grant.resource),
        "resource": each.grant.resource,
        "scope": each.grant.scope,
        "created_at": timestamp(each.grant.created_at),
        "last_used": timestamp(each.last_used),
        "expires_at": timestamp(each.expires_at),
    }


def _candidates(operator: Operator, *, user: str | None, client: str | None) -> Iterator[StoredGrant]:
    """Yield the grants of a user or client, from an index if there is one, and maybe others."""
    if user is not None and is_user_id(user):
        return operator.store.queries.grants_of_user(user)
    if client is not None:
        return operator.store.queries.grants_of_client(client)
    return operator.store.queries.grants()


def _find(operator: Operator, sid: str) -> dict[str, Any]:
    found = operator.store.queries.find_grant(sid)
    if found is None:
        raise _unknown(sid)
    return describe(operator, found)


def _unknown(sid: str) -> click.ClickException:
    return click.ClickException(f"{sid}: no such grant; `mcp-gatewayctl grants list` shows all")
