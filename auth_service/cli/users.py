"""`mcp-gatewayctl users`."""

from __future__ import annotations

from typing import Any

import click

from auth_service.idp import provider_name
from auth_service.ops import audit
from auth_service.ops.audit import Event
from auth_service.protocol.access import fold
from auth_service.storage.grants import StoredGrant

from .operator import (
    BY,
    Operator,
    as_json,
    end_grants,
    is_user_id,
    oldest_first,
    print_record,
    print_records,
    timestamp,
    with_operator,
)


@click.group()
def users() -> None:
    """People, by what they allow clients now."""


@users.command("list")
@with_operator
@as_json
def list_(operator: Operator, *, as_json: bool) -> None:
    """List everyone who has a grant."""
    columns = {"user": "USER", "name": "NAME", "grants": "GRANTS", "servers": "SERVERS", "last_used": "LAST USED"}
    found = oldest_first(operator.store.queries.users(), lambda own: own[0].grant.created_at)
    print_records((_describe(operator, own) for own in found), columns, as_json=as_json)


@users.command()
@click.argument("user")
@with_operator
@as_json
def revoke(operator: Operator, *, user: str, as_json: bool) -> None:
    """End at once what USER allows and is signed in to.

    USER is an id (github:583231) or a login name. Who is still on the allow-lists can come back: take them off first,
    and reload the service.
    """
    subject = user if is_user_id(user) else _find_by_name(operator, user)
    end_grants(operator, {"user": subject}, lambda access: access.end_user(subject, by=BY), as_json=as_json)


@users.command()
@with_operator
@as_json
def pins(operator: Operator, *, as_json: bool) -> None:
    """List names on allow-lists, and whose they are.

    A name belongs to the user who first came in by it.
    """
    pinned = operator.store.pins.find(provider_name(operator.settings.identity_provider))
    records = [{"name": name, "user": subject} for name, subject in sorted(pinned.items())]
    print_records(records, {"name": "NAME", "user": "USER"}, as_json=as_json)


@users.command()
@click.argument("name")
@with_operator
@as_json
def unpin(operator: Operator, *, name: str, as_json: bool) -> None:
    """Let NAME belong to whoever comes in by it next.

    For a name on an allow-list that the identity provider has given to someone else, or an account that was made
    anew. What was allowed under it stays.
    """
    provider = provider_name(operator.settings.identity_provider)
    operator.open_audit_log()
    subject = operator.store.pins.unpin(provider, fold(name))
    if subject is None:
        raise click.ClickException(f"{name}: nobody has come in by that name")
    audit.record(Event.NAME_UNPINNED, user=subject, name=fold(name), by=BY)
    print_record({"name": fold(name), "user": subject}, as_json=as_json)


def _find_by_name(operator: Operator, name: str) -> str:
    """Return the id of the user of that login name, or what can only be an id. Raises click errors."""
    ids = {own[-1].grant.sub for own in operator.store.queries.users() if own[-1].grant.name == name}
    if len(ids) > 1:
        raise click.UsageError(f"{name}: that is the login name of several: {', '.join(sorted(ids))}")
    if not ids and ":" not in name:
        raise click.ClickException(f"{name}: no grant of a user of that name; one without grants is named by id")
    return next(iter(ids), name)


def _describe(operator: Operator, own: list[StoredGrant]) -> dict[str, Any]:
    """Return a user as printed; `own` are the user's grants, the oldest first."""
    return {
        "user": own[-1].grant.sub,
        "name": own[-1].grant.name,
        "grants": len(own),
        "clients": len({each.grant.client_id for each in own}),
        "servers": sorted({operator.resource_name(each.grant.resource) for each in own}),
        "last_used": timestamp(max((each.last_used or each.grant.created_at) for each in own)),
    }
