"""What commands share: the gateway's parts as its settings describe them, and how results are printed."""

from __future__ import annotations

import functools
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import click

from auth_service.app.composition import SIGNING_KEYS_DIRECTORY, Parts
from auth_service.keys.rotation import KeyRotation
from auth_service.keys.signing_keys import SigningKeys
from auth_service.oauth.revocation import Revocation
from auth_service.ops import audit
from auth_service.ops.logs import AuditHandler, LineFormatter, escape
from auth_service.protocol.errors import PartlyRefused
from auth_service.settings import (
    Settings,
    SettingsError,
    load_credentials,
    load_redis_password,
    load_settings,
)
from auth_service.storage.grants import Grant
from auth_service.storage.store import Store

DEFAULT_SETTINGS: Final = Path("/etc/mcp-oauth-gateway/settings.json")
DEFAULT_CREDENTIALS: Final = Path("/run/credentials/mcp-auth-service.service")
"""Where systemd keeps them for the running service."""
SYSLOG: Final = Path("/dev/log")
BY: Final = "operator"
MAX_SORTED: Final = 10_000
"""How many records are sorted; what is more is printed in the order in which Redis finds it."""
_PAGE: Final = 1000
_ID_PREFIXES: Final = ("github:", "oidc:", "headless:", "gateway:")

P = ParamSpec("P")
T = TypeVar("T")


class Operator:
    """The gateway's parts, each made when a command first asks for it.

    They raise SettingsError and SigningKeyError for what cannot be read.
    """

    def __init__(self, settings_file: Path, credentials_directory: Path) -> None:
        self._settings_file = settings_file
        self._credentials_directory = credentials_directory

    @functools.cached_property
    def settings(self) -> Settings:
        """The settings."""
        return load_settings(self._settings_file)

    @functools.cached_property
    def parts(self) -> Parts:
        """What the service is made of."""
        directory = self._credentials_directory
        return Parts(self.settings, lambda: load_credentials(directory), redis_password=load_redis_password(directory))

    @property
    def store(self) -> Store:
        """Redis."""
        return self.parts.store

    @functools.cached_property
    def revocation(self) -> Revocation:
        """What ends access: written to the audit log, and bridges are told."""
        self.open_audit_log()
        click.get_current_context().call_on_close(self.parts.notices.close)
        return self.parts.revocation

    @functools.cached_property
    def signing_keys(self) -> SigningKeys:
        """This host's keys."""
        directory = Path(self.settings.state_directory) / SIGNING_KEYS_DIRECTORY
        try:
            directory.stat()
        except OSError as error:  # made here, it would belong to the wrong user
            raise SettingsError(f"{directory}: {error.strerror}: has the service run here? Try as root.") from error
        return self.parts.signing_keys

    @property
    def rotation(self) -> KeyRotation:
        """All hosts' keys."""
        self.open_audit_log()
        _ = self.signing_keys  # which are there
        return self.parts.rotation

    def open_audit_log(self) -> None:
        """Write what the operator does to the audit log."""
        open_audit_log(self.settings.audit_socket)

    def resource_url(self, name_or_url: str) -> str:
        """Return the URL of the server of that name or URL. Raises click.UsageError."""
        if name_or_url in self.settings.resources:
            return self.settings.resources[name_or_url].url
        if any(name_or_url == resource.url for resource in self.settings.resources.values()):
            return name_or_url
        known = ", ".join(self.settings.resources)
        raise click.UsageError(f"{name_or_url}: no server of that name or URL; there are: {known}")

    def resource_name(self, url: str) -> str:
        """Return the name of the server of that URL, the URL if it is none any more."""
        return self._resource_names.get(url, url)

    @functools.cached_property
    def _resource_names(self) -> dict[str, str]:
        return {each.url: name for name, each in self.settings.resources.items()}


settings_option = click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=Path),
    envvar="MCP_GATEWAY_SETTINGS",
    default=DEFAULT_SETTINGS,
    show_default=True,
    metavar="FILE",
    help="The gateway's settings.json.",
)
# For commands that need no other credential, and so can run where the service does not.
master_key_option = click.option(
    "--master-key",
    type=click.Path(path_type=Path),
    default=lambda: Path(os.environ.get("CREDENTIALS_DIRECTORY", DEFAULT_CREDENTIALS)) / "master-key",
    metavar="FILE",
    help="The key that every other is derived from; the running service's where absent.",
)


def with_operator(
    command: Callable[Concatenate[Operator, P], T],
) -> Callable[..., T]:
    """Give a command the options that say where the gateway's settings and credentials are."""

    @settings_option
    @click.option(
        "--credentials",
        "credentials_directory",
        type=click.Path(path_type=Path),
        envvar="CREDENTIALS_DIRECTORY",
        default=DEFAULT_CREDENTIALS,
        show_default=True,
        metavar="DIR",
        help="Where client-secret and master-key are.",
    )
    @functools.wraps(command)
    def run(settings_file: Path, credentials_directory: Path, *args: P.args, **kwargs: P.kwargs) -> T:
        return command(Operator(settings_file, credentials_directory), *args, **kwargs)

    return run


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def open_audit_log(audit_socket: str | None) -> None:
    """Write what the operator does to the audit log's journal, else to the system's, else to standard error."""
    if audit.log.handlers:
        return
    found = next((path for path in (audit_socket, SYSLOG) if path is not None and Path(path).is_socket()), None)
    handler: logging.Handler = logging.StreamHandler()
    if found is not None:
        handler = AuditHandler(str(found), program="mcp-gatewayctl")
    handler.setFormatter(LineFormatter())
    audit.log.addHandler(handler)
    audit.log.setLevel(logging.INFO)


def print_json(document: Any) -> None:
    """Print a document for programs."""
    click.echo(json.dumps(document, indent=2))


def oldest_first(found: Iterator[T], age: Callable[[T], int]) -> Iterator[T]:
    """Sort what was found, unless it is too much to be held in memory: then return it as it comes."""
    held = list(itertools.islice(found, MAX_SORTED + 1))
    if len(held) <= MAX_SORTED:
        held.sort(key=age)
    return itertools.chain(held, found)


def print_records(records: Iterable[Mapping[str, Any]], columns: Mapping[str, str], *, as_json: bool) -> None:
    """Print what was found as it comes, as JSON or as a table of some columns: member → heading."""
    remaining = iter(records)
    pages = iter(lambda: list(itertools.islice(remaining, _PAGE)), [])
    if as_json:
        _print_list(pages)
    else:
        _print_table(pages, columns)


def _print_list(pages: Iterable[list[Mapping[str, Any]]]) -> None:
    separator = "["
    for page in pages:
        click.echo(separator + "\n  " + ",\n  ".join(map(json.dumps, page)), nl=False)
        separator = ","
    click.echo("[]" if separator == "[" else "\n]")


def _print_table(pages: Iterable[list[Mapping[str, Any]]], columns: Mapping[str, str]) -> None:
    """Print pages below each other: a column is as wide as the widest cell so far, for what is to come is unknown."""
    headings = [list(columns.values())]
    widths = [0] * len(columns)
    for page in pages:
        rows = [*headings, *([_cell(record[member]) for member in columns] for record in page)]
        headings = []
        widths = [max(width, *map(len, cells)) for width, cells in zip(widths, zip(*rows, strict=True), strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        click.echo("\n".join(lines))
    if headings:
        click.echo("none")


def print_record(record: Mapping[str, Any], *, as_json: bool) -> None:
    """Print one thing with all its members."""
    if as_json:
        print_json(record)
        return
    width = max(len(member) for member in record)
    for member, value in record.items():
        click.echo(f"{member.replace('_', ' '):{width}}  {_cell(value)}".rstrip())


def is_user_id(text: str) -> bool:
    """Whether a text is a user's id and no login name, which an OpenID Connect provider may give a colon, too."""
    return text.startswith(_ID_PREFIXES)


def end_grants(
    operator: Operator, named: Mapping[str, Any], end: Callable[[Revocation], list[Grant]], *, as_json: bool
) -> None:
    """End something that grants belong to, and print what came of it, also where Redis takes no writes."""
    refusal: PartlyRefused | None = None
    try:
        ended = len(end(operator.revocation))
    except PartlyRefused as error:
        refusal, ended = error, error.ended
    print_record({**named, "ended_grants": ended}, as_json=as_json)
    if deferred := operator.revocation.deferred:
        click.echo(
            f"Redis takes no writes now. No worker admits these {deferred} grants any more, also after a restart; they "
            "end in Redis once it writes again. `mcp-gatewayctl doctor` says what to do about Redis.",
            err=True,
        )
    if refusal is not None:
        raise click.ClickException(
            f"all else is still there (registration, approvals, signed-in browsers): Redis says {refusal.reason}. "
            "Run this again once Redis writes."
        )


def timestamp(seconds: float | None) -> str | None:
    """Return a time as documents hold it: UTC, ISO 8601, to the second."""
    return None if seconds is None else datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")


def _cell(value: Any) -> str:
    """Return a value for people; what clients and users chose cannot move a terminal's cursor."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(_cell(each) for each in value) or "-"
    return escape(str(value))
