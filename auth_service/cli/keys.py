"""`mcp-gatewayctl keys`."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from auth_service.backends.assertions import derive_identity_key
from auth_service.keys.signing_key_rotation import PUBLICATION_SECONDS, KeyInUseError, KeyState
from auth_service.oauth.introspection import derive_introspection_key
from auth_service.settings import Credentials, SettingsError

from .operator import IdCommand, Operator, as_json, load_derivable, master_key_option, with_operator
from .output import print_record, print_records, timestamp

_RESOURCE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@click.group(short_help="Signing keys, and keys of servers.")
def keys() -> None:
    """Signing keys, and keys that servers share with the gateway."""


@keys.command("list")
@with_operator
@as_json
def list_(operator: Operator, *, as_json: bool) -> None:
    """List the keys that sign access tokens."""
    now = time.time()
    columns = {"key": "KEY", "state": "STATE", "signs_from": "SIGNS FROM", "needed_until": "NEEDED UNTIL"}
    print_records([_describe(each, now) for each in operator.rotation.states()], columns, as_json=as_json)


@keys.command()
@click.option(
    "--in",
    "delay",
    type=click.IntRange(min=0),
    default=PUBLICATION_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="When the key begins to sign. Programs that read the JWKS should have seen it by then.",
)
@with_operator
@as_json
def rotate(operator: Operator, *, delay: int, as_json: bool) -> None:
    """Publish a new key, which begins to sign after the delay. All tokens stay valid."""
    added = operator.rotation.rotate(delay=delay)
    now = time.time()
    state = next(each for each in operator.rotation.states() if each.key.kid == added.kid)
    print_record(_describe(state, now), as_json=as_json)


@keys.command(cls=IdCommand)
@click.argument("key")
@click.option(
    "--force", is_flag=True, help="Also while tokens that the key has signed are valid: they are refused at once."
)
@with_operator
@as_json
def retire(operator: Operator, *, key: str, force: bool, as_json: bool) -> None:
    """Remove KEY, if an attacker may have it. Old keys are removed without this command."""
    try:
        operator.rotation.retire(key, force=force)
    except KeyInUseError as error:
        raise click.ClickException(str(error)) from error
    except LookupError as error:
        raise click.ClickException(f"{key}: no such key; `mcp-gatewayctl keys list` shows all") from error
    print_record({"key": key, "retired": True}, as_json=as_json)


@keys.command()
@click.argument("name")
@master_key_option
def identity(*, name: str, master_key: Path) -> None:
    """Print the identity key of server NAME.

    The server's bridge verifies identity assertions with it.
    """
    _print_derived(name, master_key, derive_identity_key)


@keys.command()
@click.argument("name")
@master_key_option
def introspection(*, name: str, master_key: Path) -> None:
    """Print the introspection key of server NAME.

    The server authenticates with it when it asks the gateway about tokens.
    """
    _print_derived(name, master_key, derive_introspection_key)


def _print_derived(name: str, master_key: Path, derive: Callable[[Credentials, str], bytes]) -> None:
    if not _RESOURCE_NAME.fullmatch(name):
        raise SettingsError(f"{name}: is no server name: use lower-case letters, digits and inner hyphens")
    credentials = load_derivable(master_key)
    click.echo(derive(credentials, name).decode())


def _describe(state: KeyState, now: float) -> dict[str, Any]:
    waiting = "next" if state.key.activation > now else "retiring"
    return {
        "key": state.key.kid,
        "state": "signing" if state.is_signing(now) else waiting,
        "signs_from": timestamp(state.key.activation) if state.key.activation else None,
        "signs_until": timestamp(state.signs_until),
        "needed_until": timestamp(state.needed_until),
    }
