"""`mcp-gatewayctl clients`."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from auth_service.inventory import RegisteredClient, StoredGrant

from .operator import BY, Operator, as_json, print_record, print_records, timestamp, with_operator


@click.group()
def clients() -> None:
    """Applications that may ask users for access."""


@clients.command("list")
@with_operator
@as_json
def list_(operator: Operator, *, as_json: bool) -> None:
    """List all clients.

    Those known by a metadata document are listed as long as they have a grant.
    """
    columns = {"client": "CLIENT", "name": "NAME", "kind": "KIND", "grants": "GRANTS", "expires_at": "EXPIRES"}
    print_records(_describe_all(operator), columns, as_json=as_json)


@clients.command()
@click.argument("client")
@with_operator
@as_json
def show(operator: Operator, *, client: str, as_json: bool) -> None:
    """Show what CLIENT said of itself, and how many grants it has."""
    print_record(_find(operator, client), as_json=as_json)


@clients.command()
@click.argument("client")
@with_operator
@as_json
def delete(operator: Operator, *, client: str, as_json: bool) -> None:
    """Remove CLIENT, and end every grant of it at once. It has to register anew."""
    found = _find(operator, client)
    operator.store.remove_client(client, by=BY)
    print_record({"client": client, "ended_grants": found["grants"]}, as_json=as_json)


def _find(operator: Operator, client_id: str) -> dict[str, Any]:
    found = next((each for each in _describe_all(operator) if each["client"] == client_id), None)
    if found is None:
        raise click.ClickException(f"{client_id}: no such client; `mcp-gatewayctl clients list` shows all")
    return found


def _describe_all(operator: Operator) -> list[dict[str, Any]]:
    grants = operator.inventory.grants()
    count = Counter(each.grant.client_id for each in grants)
    registered = operator.inventory.clients()
    known = {each.client.client_id for each in registered}
    others = {each.grant.client_id: each for each in grants if each.grant.client_id not in known}
    return [
        *(_describe_registered(each, count[each.client.client_id]) for each in registered),
        *(_describe_other(each, count[client_id]) for client_id, each in others.items()),
    ]


def _describe_registered(each: RegisteredClient, grants: int) -> dict[str, Any]:
    client = each.client
    return {
        "client": client.client_id,
        "name": client.name,
        "kind": "registered",
        "authentication": client.auth_method,
        "redirect_uris": list(client.metadata.redirect_uris),
        "grants": grants,
        "registered_at": timestamp(client.issued_at),
        "expires_at": timestamp(each.expires_at),
    }


def _describe_other(each: StoredGrant, grants: int) -> dict[str, Any]:
    """Describe a client that only its grants tell of: its metadata is elsewhere, or it was made by `token issue`."""
    return {
        "client": each.grant.client_id,
        "name": each.grant.client_name,
        "kind": "document" if each.grant.client_id.startswith("https://") else "headless",
        "authentication": None,
        "redirect_uris": [],
        "grants": grants,
        "registered_at": None,
        "expires_at": None,
    }
