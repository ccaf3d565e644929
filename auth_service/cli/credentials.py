"""`mcp-gatewayctl credentials`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from auth_service.storage.user_credentials import CredentialState

from .operator import BY, Operator, as_json, with_operator
from .output import oldest_first, print_record, print_records, timestamp
from .users import find_subject


@click.group(short_help="What users have given to servers that act for them.")
def credentials() -> None:
    """Credentials that users have entered or connected, for servers that act for them elsewhere. No command shows one.

    SERVER is a server's name.
    """


@credentials.command("list")
@click.option("--user", help="Only of this user, by id (github:583231) or login name.")
@click.option("--server", help="Only for this server, by name.")
@with_operator
@as_json
def list_(operator: Operator, *, user: str | None, server: str | None, as_json: bool) -> None:
    """List which users have set which credentials."""
    subject = None if user is None else find_subject(operator, user)
    found: Iterator[CredentialState] = (
        each
        for each in operator.parts.user_credentials.find_all_states()
        if subject in {None, each.sub} and server in {None, each.resource_name}
    )
    columns = {
        "user": "USER",
        "name": "NAME",
        "server": "SERVER",
        "credential": "CREDENTIAL",
        "set_at": "SET",
        "last_used": "LAST USED",
    }
    names: dict[str, str | None] = {}
    records = (_describe(operator, each, names) for each in oldest_first(found, lambda each: each.set_at))
    print_records(records, columns, as_json=as_json)


@credentials.command()
@click.argument("user")
@click.argument("server")
@click.argument("credential", required=False)
@with_operator
@as_json
def remove(operator: Operator, *, user: str, server: str, credential: str | None, as_json: bool) -> None:
    """Remove what USER has set for SERVER: CREDENTIAL, or all.

    The user's grants and processes there end at once. USER is an id (github:583231) or a login name. The next login
    asks the user again.
    """
    subject = find_subject(operator, user)
    held = [state.variable for state in operator.parts.user_credentials.find_states(subject, [server])]
    wanted = held if credential is None else [each for each in held if each == credential]
    if not wanted:
        raise click.ClickException(
            f"{user} has set no such credential for {server}; `mcp-gatewayctl credentials list` shows all"
        )
    removal = operator.credential_changes.remove(server, subject, wanted, by=BY)
    record = {
        "user": subject,
        "server": server,
        "credentials": removal.variables,
        "ended_grants": len(removal.ended_grants),
    }
    print_record(record, as_json=as_json)


def _describe(operator: Operator, state: CredentialState, names: dict[str, str | None]) -> dict[str, Any]:
    """Return the members of a credential that are printed; `names` are those of users that are known already."""
    name = state.name
    if name is None:  # an earlier version has stored it
        if state.sub not in names:
            names[state.sub] = next(
                (each.grant.name for each in operator.store.queries.grants_of_user(state.sub)), None
            )
        name = names[state.sub]
    return {
        "user": state.sub,
        "name": name,
        "server": state.resource_name,
        "credential": state.variable,
        "set_at": timestamp(state.set_at),
        "last_used": timestamp(state.used_at),
    }
