"""From the command line and the configuration file to Options."""

from __future__ import annotations

import fnmatch
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stdio_bridge.protocol.errors import UsageError
from stdio_bridge.protocol.mcp import MODERN_VERSIONS

from .command_line import read_command_line
from .config_file import read_config
from .definitions import DEFAULT_ENVIRONMENT, Isolation, Options, options_by_name

# Never passed on, even if --pass-env names them: they describe the bridge's own process.
_NEVER_PASSED = (
    "CREDENTIALS_DIRECTORY", "INVOCATION_ID", "JOURNAL_STREAM", "LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID",
    "MAINPID", "MANAGERPID", "NOTIFY_SOCKET", "SYSTEMD_EXEC_PID", "WATCHDOG_PID", "WATCHDOG_USEC",
)  # fmt: skip
_IDENTITY = frozenset({"require-identity", "no-identity"})


def parse_options(arguments: Sequence[str], environment: Mapping[str, str]) -> Options:
    """Read the command line and the file that it names. The command line takes precedence.

    Raises UsageError. Exits after --check, and after --help and other options that only print something.
    """
    given = read_command_line(arguments)
    in_file = {} if given.config is None else read_config(given.config)
    if _IDENTITY & given.values.keys():
        # The two exclude each other, so that one on the command line replaces the other in the file.
        in_file = {name: value for name, value in in_file.items() if name not in _IDENTITY}
    values = {**in_file, **given.values}
    if given.print_tools_lock:
        # It serves no client, and starts one process only.
        ignored = {*_IDENTITY, "credentials-url", "tools-lock", "user-credential", "warm-spares"}
        values = {**{name: value for name, value in values.items() if name not in ignored}, "no-identity": True}
    attributes: dict[str, Any] = {options_by_name()[name].attribute: value for name, value in values.items()}
    options = Options(environment={}, print_tools_lock=given.print_tools_lock, **attributes)
    _check(options)
    if given.check:
        sys.exit(0)
    if options.no_identity:
        # Without identities all clients are one user, whom the limits for one user must not restrict.
        options = replace(
            options,
            max_sessions_per_user=options.max_sessions,
            max_shared_sessions_per_user=options.max_shared_sessions,
        )
    if options.server_socket is not None:
        return replace(options, environment=options.assigned_variables)
    program = _find_program(options.command[0], environment, options.directory)
    return replace(
        options,
        command=(program, *options.command[1:]),
        environment=_child_environment(environment, options.passed_variables, options.assigned_variables),
    )


def _check(options: Options) -> None:
    if options.server_socket is not None:
        if options.command or options.directory is not None or options.passed_variables:
            raise UsageError(
                "--server-socket: the server's unit sets its command, --cwd and --pass-env: leave them out"
            )
    elif not options.command:
        raise UsageError("no server command: give it after --, or as the member command of the configuration file")
    if (options.identity_key is None) == (not options.no_identity):
        raise UsageError("give either --require-identity KEYFILE or --no-identity")
    if options.credentials_urls or options.user_credentials:
        _check_credentials(options)
    if options.server_version in MODERN_VERSIONS:
        raise UsageError(
            f"--server-protocol-version {options.server_version} has no initialize: use --server-era modern"
        )
    if options.server_version is not None and options.server_era == "modern":
        raise UsageError(
            f"--server-protocol-version {options.server_version}: a server of --server-era modern is not initialized"
        )


def _check_credentials(options: Options) -> None:
    if not options.user_credentials:
        raise UsageError("--credentials-url: needs --user-credential NAME for each variable that is asked for there")
    if not options.credentials_urls:
        raise UsageError("--user-credential: needs --credentials-url, where it is asked for")
    for name in options.user_credentials:
        if name in options.assigned_variables:
            raise UsageError(f"--user-credential {name}: --env sets the same variable")
    if options.identity_key is None:
        raise UsageError("--credentials-url: needs --require-identity, as credentials are asked for in a user's name")
    if options.isolation is Isolation.SHARED:
        raise UsageError("--credentials-url: not with --isolation shared, where all users share one process")
    if options.warm_spares:
        raise UsageError("--credentials-url: not with --warm-spares, which start before their user is known")


def _find_program(name: str, environment: Mapping[str, str], directory: str | None) -> str:
    if directory is not None and not Path(directory).is_dir():
        raise UsageError(f"--cwd {directory}: is not a directory")
    if "/" in name and directory is not None:
        name = str(Path(directory) / name)
    found = shutil.which(name, path=environment.get("PATH", os.defpath))
    if found is None:
        raise UsageError(
            f"{name}: there is no such program, or it is not executable: install it, or give its full path"
        )
    return str(Path(found).absolute())


def _child_environment(own: Mapping[str, str], passed: Sequence[str], assigned: Mapping[str, str]) -> dict[str, str]:
    patterns = (*DEFAULT_ENVIRONMENT, *passed)
    kept = {
        name: value
        for name, value in own.items()
        if name not in _NEVER_PASSED and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }
    return {**kept, **assigned}
