"""`mcp-gatewayctl`: what an operator asks of the gateway."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from auth_service.identity import derive_identity_key
from auth_service.introspection import derive_introspection_key
from auth_service.settings import Credentials, SettingsError, load_master_key, load_settings

_RESOURCE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status, 2 for unusable input."""
    options = _parser().parse_args(arguments)
    try:
        output: str = options.run(options)
    except SettingsError as error:
        sys.stderr.write(f"mcp-gatewayctl: {error}\n")
        return 2
    sys.stdout.write(output)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mcp-gatewayctl", description="Ask the gateway, or check its settings.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    keys = commands.add_parser("keys", help="keys of the gateway").add_subparsers(required=True, metavar="COMMAND")
    identity = keys.add_parser("identity", help="print the key that one server's bridge checks identities with")
    identity.add_argument("name", metavar="NAME", help="the server's name in the settings")
    identity.add_argument("--master-key", required=True, type=Path, metavar="FILE")
    identity.set_defaults(run=_identity_key)
    introspection = keys.add_parser("introspection", help="print the key that one server asks about tokens with")
    introspection.add_argument("name", metavar="NAME", help="the server's name in the settings")
    introspection.add_argument("--master-key", required=True, type=Path, metavar="FILE")
    introspection.set_defaults(run=_introspection_key)
    check = commands.add_parser("check-settings", help="say whether a settings.json is valid")
    check.add_argument("file", type=Path, metavar="FILE")
    check.set_defaults(run=_check_settings)
    return parser


def _identity_key(options: argparse.Namespace) -> str:
    return _derived_key(options, derive_identity_key)


def _introspection_key(options: argparse.Namespace) -> str:
    return _derived_key(options, derive_introspection_key)


def _derived_key(options: argparse.Namespace, derive: Callable[[Credentials, str], bytes]) -> str:
    if not _RESOURCE_NAME.fullmatch(options.name):
        raise SettingsError(f"{options.name}: is no server name: lower-case letters, digits and inner hyphens")
    credentials = Credentials(client_secret="", master_key=load_master_key(options.master_key))
    return derive(credentials, options.name).decode() + "\n"


def _check_settings(options: argparse.Namespace) -> str:
    settings = load_settings(options.file)
    return f"{options.file}: valid, {len(settings.resources)} servers behind {settings.issuer}\n"


if __name__ == "__main__":
    sys.exit(main())
