"""`mcp-gatewayctl clients`."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Sequence
from typing import Any, Final, TextIO

import click
from pydantic import ValidationError

from auth_service.oauth.declared_clients import auth_method_of, check_clients
from auth_service.ops import audit
from auth_service.ops.audit import Event
from auth_service.protocol.clients import WORKLOAD_PREFIX, hash_secret
from auth_service.settings import DeclaredClient, Settings, SettingsError
from auth_service.storage.created_clients import CreatedClient
from auth_service.storage.queries import OtherClient, RegisteredClient

from .operator import BY, FOR_NO_USER, Operator, as_json, end_grants, parse_lifetime, with_operator
from .output import oldest_first, print_record, print_records, timestamp

_OPTIONS: Final = {
    "servers": "--server",
    "scopes": "--scope",
    "lifetime": "--lifetime",
    "redirect_uris": "--redirect-uri",
    "public_key": "--public-key",
    "title": "--title",
}
"""The options of `create` by the members of a declared client."""


@click.group()
def clients() -> None:
    """Clients: applications and machines."""


@clients.command("list")
@with_operator
@as_json
def list_(operator: Operator, *, as_json: bool) -> None:
    """List all clients.

    A client that is neither registered nor declared is listed as long as it has a grant. One that was created by
    command is "shadowed" while the settings declare the same name: it counts again when they do not, unless it is
    deleted.
    """
    columns = {"client": "CLIENT", "name": "NAME", "kind": "KIND", "grants": "GRANTS", "expires_at": "EXPIRES"}
    registered = oldest_first(operator.store.queries.clients(), lambda each: each.client.issued_at)
    declared = operator.settings.declared_clients
    created = operator.store.created_clients.find_all()
    own = {*declared, *(each.name for each in created)}
    others = (each for each in operator.store.queries.other_clients() if each.newest.grant.client_id not in own)
    records = itertools.chain(
        map(_describe_registered, registered),
        (_describe_declared(operator, client_id, declared[client_id]) for client_id in declared),
        (_describe_declared(operator, each.name, each.declared, created_at=each.created_at) for each in created),
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
@click.option("--server", "servers", multiple=True, help="A server for which it gets tokens of its own; repeatable.")
@click.option("--scope", "scopes", multiple=True, help="A scope that it may have there, beside the required ones.")
@click.option("--lifetime", callback=parse_lifetime, default="1h", show_default=True, help="Of its own tokens.")
@click.option("--redirect-uri", "redirect_uris", multiple=True, help="Instead of --server: for a client with users.")
@click.option("--public-key", type=click.File(), help="Its public key in PEM, instead of a secret.")
@click.option("--title", help="Its name on pages and in lists; by default CLIENT.")
@with_operator
@as_json
def create(
    operator: Operator,
    *,
    client: str,
    servers: tuple[str, ...],
    scopes: tuple[str, ...],
    lifetime: int,
    redirect_uris: tuple[str, ...],
    public_key: TextIO | None,
    title: str | None,
    as_json: bool,
) -> None:
    """Create a client as declaredClients does, without a rebuild, and print its secret, which is shown only once.

    It lasts until `clients delete`. CLIENT is its client id: lower-case letters, digits and hyphens.
    """
    if bool(servers) == bool(redirect_uris):
        raise click.UsageError(
            "give either --server, for a client without a user, or --redirect-uri, for one with users"
        )
    if scopes and not servers:
        raise click.UsageError("--scope goes with --server: users decide which scopes a client with users gets")
    names = [operator.resource_name(operator.resource_url(server)) for server in servers]
    _refuse_where_users_give_credentials(operator, client, names)
    declared = {
        "servers": names,
        "scopes": scopes,
        "redirect_uris": redirect_uris,
        **({"lifetime": lifetime} if servers else {}),
        **({"title": title} if title is not None else {}),
        **({"secret": True} if public_key is None else {"public_key": public_key.read()}),
    }
    secret = secrets.token_urlsafe(32) if public_key is None else None
    checked = _check(operator, client, declared)
    created = CreatedClient(
        name=client,
        declared=checked,
        secret_hash=None if secret is None else hash_secret(secret),
        created_at=int(time.time()),
        server_urls={name: operator.settings.resources[name].url for name in checked.servers},
    )
    if client in operator.settings.declared_clients or not operator.store.created_clients.add(created):
        raise click.ClickException(
            f"{client}: this client exists already; `mcp-gatewayctl clients show {client}` shows it"
        )
    operator.open_audit_log()
    audit.record(Event.CLIENT_REGISTERED, client=client, name=title or client, by=BY)
    print_record({"client": client, "secret": secret}, as_json=as_json)


def _refuse_where_users_give_credentials(operator: Operator, client: str, servers: Sequence[str]) -> None:
    """Refuse a client with which no process would ever start. Raises click.UsageError."""
    for server in servers:
        if wanted := operator.settings.resources[server].user_credentials:
            raise click.UsageError(
                f"{client}: cannot use {server}, which needs {', '.join(wanted)} of each user: a client that is "
                f"created with --server has no user. {FOR_NO_USER}"
            )


def _check(operator: Operator, name: str, declared: dict[str, Any]) -> DeclaredClient:
    """Return the declaration, checked as one of the settings is. Raises click.UsageError."""
    document = operator.settings.model_dump(mode="json", exclude_unset=True)
    try:
        settings = Settings.model_validate({**document, "declared_clients": {name: declared}})
        check_clients(settings)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "string_pattern_mismatch" and first["loc"] == ("declared_clients", name, "[key]"):
            raise click.UsageError(
                f"{name}: is no client id: use lower-case letters, digits and inner hyphens, at most 63"
            ) from error
        where = ".".join(str(part) for part in first["loc"] if part != "[key]")
        message = f"{where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}"
        raise click.UsageError(_in_words_of_the_command(message, name)) from error
    except SettingsError as error:
        raise click.UsageError(_in_words_of_the_command(str(error), name)) from error
    return settings.declared_clients[name]


def _in_words_of_the_command(message: str, name: str) -> str:
    """Return a message about the declaration with the option of `create` in the place of the key in the settings."""
    path, _, rest = message.partition(": ")
    if path == f"declared_clients.{name}":
        return f"{name}: {rest}"
    key = path.removeprefix(f"declared_clients.{name}.").partition(".")[0]
    return f"{_OPTIONS[key]}: {rest}" if path != key and key in _OPTIONS else message


@clients.command()
@click.argument("client")
@with_operator
@as_json
def delete(operator: Operator, *, client: str, as_json: bool) -> None:
    """Remove CLIENT, and end all its grants at once. It has to register, or be created, again.

    Of a client that the settings declare too, what was created by command is removed, and the declaration stays.
    """
    if client in operator.settings.declared_clients:
        if operator.store.created_clients.find(client) is None:
            raise click.ClickException(f"{client}: the settings declare this client: take it out of declaredClients")
    else:
        _find(operator, client)
    end_grants(operator, {"client": client}, lambda access: access.remove_client(client, by=BY), as_json=as_json)


def _find(operator: Operator, client_id: str) -> dict[str, Any]:
    if client_id in operator.settings.declared_clients:
        return _describe_declared(operator, client_id, operator.settings.declared_clients[client_id])
    if (created := operator.store.created_clients.find(client_id)) is not None:
        return _describe_declared(operator, client_id, created.declared, created_at=created.created_at)
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


def _describe_declared(
    operator: Operator, client_id: str, declared: DeclaredClient, *, created_at: int | None = None
) -> dict[str, Any]:
    """Describe a client of the settings, or one that was created by command."""
    known = operator.store.queries.find_client(client_id)
    kind = "declared"
    if created_at is not None:
        kind = "shadowed" if client_id in operator.settings.declared_clients else "created"
    return {
        "client": client_id,
        "name": declared.title or client_id,
        "kind": kind,
        "authentication": auth_method_of(declared),
        "redirect_uris": list(declared.redirect_uris),
        "grants": 0 if known is None else known.grants,
        "registered_at": timestamp(created_at),
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
