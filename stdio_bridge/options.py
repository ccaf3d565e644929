"""The command line."""

from __future__ import annotations

import fnmatch
import os
import resource
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .protocol.errors import UsageError
from .protocol.mcp import ALL_VERSIONS, MODERN_VERSIONS, Versions
from .usage import DEFAULT_ENVIRONMENT, DescriptorName, Isolation, make_parser

# Never passed on, whatever is allowed: they speak of the bridge's own process.
_NEVER_PASSED = (
    "CREDENTIALS_DIRECTORY", "INVOCATION_ID", "JOURNAL_STREAM", "LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID",
    "MAINPID", "MANAGERPID", "NOTIFY_SOCKET", "SYSTEMD_EXEC_PID", "WATCHDOG_PID", "WATCHDOG_USEC",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line, validated. Seconds and bytes.

    `listen` is a host and a port, a path, or None where systemd hands over a socket. `replica` is empty or a name.
    A server is started by its `command`, in `directory` and with the soft limit `open_files`, whatever the bridge
    raises its own to; or by a connection to `server_socket`, and then `environment` comes on top of its unit's.
    """

    command: tuple[str, ...]
    server_socket: Path | None
    listen: tuple[str, int] | Path | None
    replica: str
    isolation: Isolation
    warm_spares: int
    starts_at_once: int
    identity_key: Path | DescriptorName | None
    allowed_origins: tuple[str, ...]
    allowed_hosts: tuple[str, ...]
    environment: Mapping[str, str]
    directory: str | None
    open_files: int
    server_era: str
    versions: Versions
    input_timeout: float
    call_timeout: float
    call_timeout_total: float
    idle_timeout: float
    stop_timeout: float
    drain_timeout: float
    keep_alive: float
    max_message_bytes: int
    max_sessions: int
    max_sessions_per_user: int
    max_shared_sessions: int
    max_shared_sessions_per_user: int
    max_calls: int
    max_connections: int
    log_level: str


def parse_options(arguments: Sequence[str], environment: Mapping[str, str]) -> Options:
    """Read the command line. Raises UsageError; prints help and exits on --help."""
    own, command = _split(arguments)
    try:
        parsed = make_parser().parse_args(own)
    except UsageError as error:
        if command or "unrecognized arguments" not in str(error):
            raise
        raise UsageError(f"{error} (the server's command goes after --)") from error
    if parsed.server_socket is None:
        if not command:
            raise UsageError("no server command: give it after --")
        command[0] = _find_program(command[0], environment, parsed.cwd)
        environment = _child_environment(environment, parsed.pass_env, parsed.env)
    else:
        if command or parsed.cwd is not None or parsed.pass_env:
            raise UsageError("--server-socket: command, --cwd and --pass-env are for the server's unit to say")
        environment = dict(parsed.env)
    return Options(
        command=tuple(command),
        server_socket=parsed.server_socket,
        listen=parsed.listen,
        replica=parsed.replica or "",
        isolation=Isolation(parsed.isolation),
        warm_spares=parsed.warm_spares,
        starts_at_once=parsed.starts_at_once or len(os.sched_getaffinity(0)),
        identity_key=parsed.require_identity,
        allowed_origins=tuple(parsed.allow_origin),
        allowed_hosts=tuple(parsed.allow_host),
        environment=environment,
        directory=parsed.cwd,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        server_era=parsed.server_era,
        versions=_versions(parsed.protocol_version, parsed.server_protocol_version, parsed.server_era),
        input_timeout=parsed.input_timeout,
        call_timeout=parsed.call_timeout,
        call_timeout_total=parsed.call_timeout_total,
        idle_timeout=parsed.idle_timeout,
        stop_timeout=parsed.stop_timeout,
        drain_timeout=parsed.drain_timeout,
        keep_alive=parsed.keep_alive,
        max_message_bytes=parsed.max_message_bytes,
        max_sessions=parsed.max_sessions,
        # Without identities everyone is one user, who must not be held to one user's share.
        max_sessions_per_user=parsed.max_sessions if parsed.no_identity else parsed.max_sessions_per_user,
        max_shared_sessions=parsed.max_shared_sessions,
        max_shared_sessions_per_user=(
            parsed.max_shared_sessions if parsed.no_identity else parsed.max_shared_sessions_per_user
        ),
        max_calls=parsed.max_calls,
        max_connections=parsed.max_connections,
        log_level=parsed.log_level.upper(),
    )


def _versions(offered: Sequence[str], server: str | None, era: str) -> Versions:
    if server in MODERN_VERSIONS:
        raise UsageError(f"--server-protocol-version {server}: it has no initialize: use --server-era modern")
    if server is not None and era == "modern":
        raise UsageError(f"--server-protocol-version {server}: a server of --server-era modern is not initialized")
    return Versions(offered=tuple(v for v in ALL_VERSIONS if v in offered) if offered else ALL_VERSIONS, server=server)


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    arguments = list(arguments)
    if "--" not in arguments:
        return arguments, []
    position = arguments.index("--")
    return arguments[:position], arguments[position + 1 :]


def _find_program(name: str, environment: Mapping[str, str], directory: str | None) -> str:
    if directory is not None and not Path(directory).is_dir():
        raise UsageError(f"--cwd {directory}: is not a directory")
    if "/" in name and directory is not None:
        name = str(Path(directory) / name)
    found = shutil.which(name, path=environment.get("PATH", os.defpath))
    if found is None:
        raise UsageError(f"{name}: no such program, or not executable: install it, or give its full path after --")
    return str(Path(found).absolute())


def _child_environment(
    own: Mapping[str, str], passed: Sequence[str], assigned: Sequence[tuple[str, str]]
) -> dict[str, str]:
    patterns = (*DEFAULT_ENVIRONMENT, *passed)
    kept = {
        name: value
        for name, value in own.items()
        if name not in _NEVER_PASSED and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }
    return {**kept, **dict(assigned)}
