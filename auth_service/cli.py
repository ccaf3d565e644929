"""`mcp-gatewayctl`: what an operator asks of the gateway."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from auth_service import health
from auth_service.identity import derive_identity_key
from auth_service.introspection import derive_introspection_key
from auth_service.settings import Credentials, SettingsError, load_master_key, load_settings

_RESOURCE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class _Unhealthy(Exception):
    """Something does not answer; the text is the whole output."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 1 where something is unhealthy, 2 for unusable input."""
    options = _parser().parse_args(arguments)
    try:
        output: str = options.run(options)
    except SettingsError as error:
        sys.stderr.write(f"mcp-gatewayctl: {error}\n")
        return 2
    except _Unhealthy as unhealthy:
        sys.stdout.write(str(unhealthy))
        return 1
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
    ask = commands.add_parser("health", help="open each server as a client would, and say whether it answers")
    ask.add_argument("names", nargs="*", metavar="NAME", help="the servers' names in the settings (default: all)")
    ask.add_argument("--settings", required=True, type=Path, metavar="FILE", help="settings.json")
    ask.add_argument("--master-key", required=True, type=Path, metavar="FILE")
    ask.add_argument("--metrics-file", type=Path, metavar="FILE", help="write the results for Prometheus, too")
    ask.add_argument("--json", action="store_true", help="print JSON")
    ask.set_defaults(run=_health)
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


def _health(options: argparse.Namespace) -> str:
    settings = load_settings(options.settings)
    for name in options.names:
        if name not in settings.resources:
            raise SettingsError(f"{name}: is not in {options.settings}")
    credentials = Credentials(client_secret="", master_key=load_master_key(options.master_key))
    results = health.check_all(settings, credentials, options.names)
    if options.metrics_file is not None:
        unfinished = options.metrics_file.with_suffix(".new")
        unfinished.write_text(health.render_metrics(results, now=time.time()))
        unfinished.replace(options.metrics_file)
    if options.json:
        output = json.dumps([asdict(each) for each in results], indent=2) + "\n"
    else:
        width = max(len(each.name) for each in results)
        output = "".join(
            f"{each.name:{width}}  {each.endpoint}  {each.problem or f'answers, {each.seconds:.2f} s'}\n"
            for each in results
        )
    if any(each.problem for each in results):
        raise _Unhealthy(output)
    return output


if __name__ == "__main__":
    sys.exit(main())
