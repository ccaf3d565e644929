"""`mcp-gatewayctl clients`."""

from __future__ import annotations

import itertools
from typing import Any

import click

from auth_service.oauth.declared_clients import auth_method_of
from auth_service.protocol.clients import WORKLOAD_PREFIX
from auth_service.storage.queries import OtherClient, RegisteredClient

from .operator import (
    BY,
    Operator,
    as_json,
    end_grants,
    oldest_first,
    print_record,
    print_records,
    timestamp,
    with_operator,
)


@click.group()
def clients() -> None:
    """Applications that may ask users for access."""


@clients.command("list")
@with_operator
@as_json
def list_(operator: Operator, *, as_json: bool) -> None:
    """List all clients.

    A client that is neither registered nor declared is listed as long as it has a grant.
    """
    columns = {"client": "CLIENT", "name": "NAME", "kind": "KIND", "grants": "GRANTS", "expires_at": "EXPIRES"}
    registered = oldest_first(operator.store.queries.clients(), lambda each: each.client.issued_at)
    declared = operator.settings.declared_clients
    others = (each for each in operator.store.queries.other_clients() if each.newest.grant.client_id not in declared)
    records = itertools.chain(
        map(_describe_registered, registered),
        (_describe_declared(operator, client_id) for client_id in declared),
        map(_describe_other, others),
    )
    print_records(records, columns, as_json=as_json)


@clients.command()
@click.argument("client")
@with_operator
@as_json
def show(operator: Operator, *, client: str, as_json: bool) -> None:
    """Show the metadata of CLIENT, and how many grants it has."""
    print_record(_find(operator, client), as_json=as_json)


@clients.command()
@click.argument("client")
@with_operator
@as_json
def delete(operator: Operator, *, client: str, as_json: bool) -> None:
    """Remove CLIENT, and end all its grants at once. It has to register again."""
    if client in operator.settings.declared_clients:
        raise click.ClickException(f"{client}: the settings declare this client: take it out of declaredClients")
    _find(operator, client)
    end_grants(operator, {"client": client}, lambda access: access.remove_client(client, by=BY), as_json=as_json)


def _find(operator: Operator, client_id: str) -> dict[str, Any]:
    if client_id in operator.settings.declared_clients:
        return _describe_declared(operator, client_id)
    found = operator.store.queries.find_client(client_id)
    if found is None:
        raise click.ClickException(f"{client_id}: no such client; `mcp-gatewayctl clients list` shows all")
    return _describe_other(found) if isinstance(found, OtherClient) else _describe_registered(found)


def _describe_registered(each: RegisteredClient) -> dict[str, Any]:
    client = each.client
    return {
        "client": client.client_id,
        "name": client.name,
        "kind": "registered",
        "authentication": client.auth_method,
        "redirect_uris": list(client.metadata.redirect_uris),
        "grants": each.grants,
        "registered_at": timestamp(client.issued_at),
        "expires_at": timestamp(each.expires_at),
    }


def _describe_declared(operator: Operator, client_id: str) -> dict[str, Any]:
    declared = operator.settings.declared_clients[client_id]
    known = operator.store.queries.find_client(client_id)
    return {
        "client": client_id,
        "name": declared.title or client_id,
        "kind": "declared",
        "authentication": auth_method_of(declared),
        "redirect_uris": list(declared.redirect_uris),
        "grants": 0 if known is None else known.grants,
        "registered_at": None,
        "expires_at": None,
    }


def _describe_other(each: OtherClient) -> dict[str, Any]:
    """Describe a client that has a client document, that stands for workloads, or that `token issue` has made."""
    grant = each.newest.grant
    kind = "document" if grant.client_id.startswith("https://") else "headless"
    return {
        "client": grant.client_id,
        "name": grant.client_name,
        "kind": "workload" if grant.client_id.startswith(WORKLOAD_PREFIX) else kind,
        "authentication": None,
        "redirect_uris": [],
        "grants": each.grants,
        "registered_at": None,
        "expires_at": None,
    }
