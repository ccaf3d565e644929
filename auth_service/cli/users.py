"""`mcp-gatewayctl users`."""

from __future__ import annotations

from typing import Any

import click

from auth_service.idp import provider_name
from auth_service.oauth.revocation import Revocation
from auth_service.ops import audit
from auth_service.ops.audit import Event
from auth_service.protocol.access import fold
from auth_service.storage.grants import Grant, StoredGrant

from .operator import BY, Operator, as_json, end_grants, is_user_id, with_operator
from .output import oldest_first, print_record, print_records, timestamp


@click.group()
def users() -> None:
    """Users who have grants."""


@users.command("list")
@with_operator
@as_json
def list_(operator: Operator, *, as_json: bool) -> None:
    """List all users who have a grant."""
    columns = {"user": "USER", "name": "NAME", "grants": "GRANTS", "servers": "SERVERS", "last_used": "LAST USED"}
    found = oldest_first(operator.store.queries.users(), lambda own: own[0].grant.created_at)
    print_records((_describe(operator, own) for own in found), columns, as_json=as_json)


@users.command()
@click.argument("user")
@with_operator
@as_json
def revoke(operator: Operator, *, user: str, as_json: bool) -> None:
    """End all grants, remembered consents and browser sessions of USER at once, and remove the user's credentials.

    USER is an id (github:583231) or a login name. A user who is still on an allow-list can log in again: remove the
    user from the lists first, and reload the service.
    """
    subject = find_subject(operator, user)

    def end(access: Revocation) -> list[Grant]:
        ended = access.end_user(subject, by=BY)
        operator.credential_changes.remove_all(subject, by=BY)
        return ended

    end_grants(operator, {"user": subject}, end, as_json=as_json)


@users.command()
@with_operator
@as_json
def pins(operator: Operator, *, as_json: bool) -> None:
    """List the names on allow-lists, and the user that each is pinned to.

    A name is pinned to the user who first logged in by it.
    """
    pinned = operator.store.pins.find(provider_name(operator.settings.identity_provider))
    records = [{"name": name, "user": subject} for name, subject in sorted(pinned.items())]
    print_records(records, {"name": "NAME", "user": "USER"}, as_json=as_json)


@users.command()
@click.argument("name")
@with_operator
@as_json
def unpin(operator: Operator, *, name: str, as_json: bool) -> None:
    """Remove the pin of NAME, so that it is pinned to the next user who logs in by it.

    Use it if the identity provider has given the name to another user, or the user has a new account. Grants of the
    former user stay.
    """
    provider = provider_name(operator.settings.identity_provider)
    operator.open_audit_log()
    subject = operator.store.pins.unpin(provider, fold(name))
    if subject is None:
        raise click.ClickException(f"{name}: no user has logged in by that name")
    audit.record(Event.NAME_UNPINNED, user=subject, name=fold(name), by=BY)
    print_record({"name": fold(name), "user": subject}, as_json=as_json)


def find_subject(operator: Operator, user: str) -> str:
    """Return the id of a user who is named by id or login name. Raises click.ClickException."""
    return user if is_user_id(user) else _find_by_name(operator, user)


def _find_by_name(operator: Operator, name: str) -> str:
    """Return the id of the user with that login name, or the text itself if it has a colon, as ids have.

    It is the user of grants, or one who has none and has set a credential.
    """
    ids = {own[-1].grant.sub for own in operator.store.queries.users() if own[-1].grant.name == name}
    ids = ids or {each.sub for each in operator.parts.user_credentials.find_all_states() if each.name == name}
    if len(ids) > 1:
        raise click.UsageError(f"{name}: several users have that login name: {', '.join(sorted(ids))}")
    if not ids and ":" not in name:
        raise click.ClickException(
            f"{name}: no user with that login name has a grant or a credential: name the user by id, such as "
            f"{_example_id(operator)}"
        )
    return next(iter(ids), name)


def _example_id(operator: Operator) -> str:
    provider = operator.settings.identity_provider
    return f"{provider_name(provider)}:583231" if provider.type == "github" else f"{provider_name(provider)}#SUBJECT"


def _describe(operator: Operator, own: list[StoredGrant]) -> dict[str, Any]:
    """Return the members of a user that are printed; `own` are the user's grants, the oldest first."""
    return {
        "user": own[-1].grant.sub,
        "name": own[-1].grant.name,
        "grants": len(own),
        "clients": len({each.grant.client_id for each in own}),
        "servers": sorted({operator.resource_name(each.grant.resource) for each in own}),
        "last_used": timestamp(max((each.last_used or each.grant.created_at) for each in own)),
    }
