"""What all commands use: the parts of the gateway, common options, and what ends grants."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import click

from auth_service.app.composition import SIGNING_KEYS_DIRECTORY, Parts
from auth_service.keys.signing_key_rotation import KeyRotation
from auth_service.keys.signing_keys import SigningKeys
from auth_service.oauth.credential_changes import CredentialChanges
from auth_service.oauth.revocation import Revocation
from auth_service.ops import audit
from auth_service.ops.logs import AuditHandler, LineFormatter
from auth_service.protocol.clients import USER_ID_PREFIXES
from auth_service.protocol.errors import PartlyRefused
from auth_service.settings import (
    Credentials,
    Settings,
    SettingsError,
    load_credentials,
    load_master_key,
    load_redis_password,
    load_settings,
)
from auth_service.storage.grants import Grant
from auth_service.storage.store import Store

from .output import print_record

DEFAULT_SETTINGS: Final = Path("/etc/mcp-oauth-gateway/settings.json")
DEFAULT_CREDENTIALS: Final = Path("/run/credentials/mcp-auth-service.service")
"""The directory where systemd keeps them for the running service."""
SYSLOG: Final = Path("/dev/log")
BY: Final = "operator"
FOR_NO_USER: Final = (
    "For a program without a user, offer the server once more without userCredentials, with the program's own "
    "credential."
)
"""What to do if a program without a user is to use a server that needs something of each user."""
_HYPHENATED_ID: Final = re.compile(r"-[A-Za-z0-9_-]{21,}")
"""An id of a grant or key that begins with a hyphen; longer than any option."""

_DURATION: Final = re.compile(r"([0-9]{1,6})([smhd])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}

P = ParamSpec("P")
T = TypeVar("T")


class Operator:
    """The gateway's parts, each made when a command first needs it.

    They raise SettingsError and SigningKeyError for files that cannot be read.
    """

    def __init__(self, settings_file: Path, credentials_directory: Path) -> None:
        self._settings_file = settings_file
        self._credentials_directory = credentials_directory

    @functools.cached_property
    def settings(self) -> Settings:
        """The settings."""
        try:
            return load_settings(self._settings_file)
        except SettingsError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise SettingsError(
                    f"{error}: name the gateway's settings.json with --settings FILE, and the directory of its "
                    "credentials with --credentials DIR"
                ) from error
            raise

    @functools.cached_property
    def parts(self) -> Parts:
        """The parts of the service."""
        directory = self._credentials_directory
        return Parts(self.settings, self._load_credentials, redis_password=load_redis_password(directory))

    def _load_credentials(self) -> Credentials:
        directory = self._credentials_directory
        try:
            return load_credentials(directory)
        except SettingsError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise SettingsError(f"{error}: name the directory of the credentials with --credentials DIR") from error
            raise

    @property
    def store(self) -> Store:
        """Redis."""
        return self.parts.store

    @functools.cached_property
    def revocation(self) -> Revocation:
        """The part that ends access, with audit events and revocation notices."""
        self.open_audit_log()
        click.get_current_context().call_on_close(self.parts.notices.close)
        return self.parts.revocation

    @functools.cached_property
    def credential_changes(self) -> CredentialChanges:
        """The part that removes users' own credentials, with audit events and revocation notices."""
        _ = self.revocation
        click.get_current_context().call_on_close(self.parts.connections.close)
        return self.parts.credential_changes

    @functools.cached_property
    def signing_keys(self) -> SigningKeys:
        """This host's keys."""
        directory = Path(self.settings.state_directory) / SIGNING_KEYS_DIRECTORY
        try:
            directory.stat()
        except OSError as error:  # made by this command, it would belong to the wrong user
            raise SettingsError(
                f"{directory}: {error.strerror}: see that the service has run here, or try as root."
            ) from error
        return self.parts.signing_keys

    @property
    def rotation(self) -> KeyRotation:
        """All hosts' keys."""
        self.open_audit_log()
        _ = self.signing_keys  # which are there
        return self.parts.rotation

    def open_audit_log(self) -> None:
        """Write the events of this command to the audit log."""
        open_audit_log(self.settings.audit_socket)

    def resource_url(self, name_or_url: str) -> str:
        """Return the URL of the server with that name or URL. Raises click.UsageError."""
        if name_or_url in self.settings.resources:
            return self.settings.resources[name_or_url].url
        if any(name_or_url == resource.url for resource in self.settings.resources.values()):
            return name_or_url
        known = ", ".join(self.settings.resources)
        raise click.UsageError(f"{name_or_url}: no server has that name or URL; known servers: {known}")

    def resource_name(self, url: str) -> str:
        """Return the name of the server with that URL, or the URL if no server has it any more."""
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
# For commands that need no other credential, so that they also run on hosts without the service.
master_key_option = click.option(
    "--master-key",
    type=click.Path(path_type=Path),
    default=lambda: Path(os.environ.get("CREDENTIALS_DIRECTORY", DEFAULT_CREDENTIALS)) / "master-key",
    metavar="FILE",
    help="The key from which all others are derived; by default the one of the running service.",
)


def load_derivable(master_key: Path) -> Credentials:
    """Return credentials that only derive keys. Raises SettingsError as `load_master_key`."""
    return Credentials(client_secret="", master_key=load_master_key(master_key))


def with_operator(
    command: Callable[Concatenate[Operator, P], T],
) -> Callable[..., T]:
    """Add the options for the settings and credentials of the gateway to a command."""

    @settings_option
    @click.option(
        "--credentials",
        "credentials_directory",
        type=click.Path(path_type=Path),
        envvar="CREDENTIALS_DIRECTORY",
        default=DEFAULT_CREDENTIALS,
        show_default=True,
        metavar="DIR",
        help="The directory with client-secret and master-key.",
    )
    @functools.wraps(command)
    def run(settings_file: Path, credentials_directory: Path, *args: P.args, **kwargs: P.kwargs) -> T:
        return command(Operator(settings_file, credentials_directory), *args, **kwargs)

    return run


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


class IdCommand(click.Command):
    """A command that takes the id of a grant or key, also one that begins with a hyphen."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Set ids apart from options, as `--` does."""
        ids = [each for each in args if _HYPHENATED_ID.fullmatch(each)]
        return super().parse_args(ctx, [*(each for each in args if each not in ids), "--", *ids] if ids else args)


def open_audit_log(audit_socket: str | None) -> None:
    """Write the audit events of commands to the audit journal, else to the system's, else to standard error."""
    if audit.log.handlers:
        return
    found = next((path for path in (audit_socket, SYSLOG) if path is not None and Path(path).is_socket()), None)
    handler: logging.Handler = logging.StreamHandler()
    if found is not None:
        handler = AuditHandler(str(found), program="mcp-gatewayctl")
    handler.setFormatter(LineFormatter())
    audit.log.addHandler(handler)
    audit.log.setLevel(logging.INFO)


def is_user_id(text: str) -> bool:
    """Whether a text is a user's id. A colon alone is not enough: OpenID Connect login names may have one too."""
    return text.startswith(USER_ID_PREFIXES)


def end_grants(
    operator: Operator, named: Mapping[str, Any], end: Callable[[Revocation], list[Grant]], *, as_json: bool
) -> None:
    """End the grants of a user or client, and print the result, also if Redis takes no writes."""
    refusal: PartlyRefused | None = None
    try:
        ended = len(end(operator.revocation))
    except PartlyRefused as error:
        refusal, ended = error, error.ended
    print_record({**named, "ended_grants": ended}, as_json=as_json)
    if deferred := operator.revocation.deferred:
        click.echo(
            f"Redis takes no writes now. No worker accepts these {deferred} grants any more, also after a restart. "
            "They are removed from Redis once it takes writes again. `mcp-gatewayctl doctor` says what to do.",
            err=True,
        )
    if refusal is not None:
        raise click.ClickException(
            "all else is still there (registration, consents, browser sessions, credentials): Redis says "
            f"{refusal.reason}. Run this again once Redis writes."
        )


def parse_duration(text: str) -> int | None:
    """Return the seconds of a duration such as 90m, 12h or 30d; None if the text is none."""
    match = _DURATION.fullmatch(text)
    return None if match is None else int(match[1]) * _UNITS[match[2]]


def parse_lifetime(_context: click.Context, _parameter: click.Parameter, value: str) -> int:
    """Return the seconds of an option. Raises click.BadParameter."""
    seconds = parse_duration(f"{value}s" if value.isdecimal() else value)
    if not seconds:
        raise click.BadParameter(f"{value}: is no duration; write it as 3600, 90m, 12h or 30d")
    return seconds
