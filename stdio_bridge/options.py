"""The command line."""

from __future__ import annotations

import argparse
import fnmatch
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from .errors import UsageError

_DESCRIPTION = """\
Serve one unmodified stdio MCP server over Streamable HTTP at /mcp.

Everything after -- is the server's command and reaches it unchanged. Each client session gets a process of its own.
"""

_EPILOG = """\
examples:
  mcp-stdio-bridge --listen 127.0.0.1:9001 --no-identity -- mcp-server-time --local-timezone UTC
  mcp-stdio-bridge --listen 127.0.0.1:9001 --require-identity /run/keys/time -- mcp-server-time

endpoints:
  /mcp          the MCP endpoint (POST, GET, DELETE)
  /revocations  where the gateway tells of revoked grants (POST, signed)
  /healthz      200 while the bridge runs
  /readyz       200 while the server can be started and answers
  /metrics      Prometheus text format

exit status: 0 after SIGTERM or SIGINT, 2 when the command line or what it names is unusable.
"""

# What a program needs to run at all, and nothing that is meant for the bridge.
_DEFAULT_ENVIRONMENT = (
    "HOME", "LANG", "LANGUAGE", "LC_*", "LOGNAME", "NIX_SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "PATH", "SHELL",
    "SSL_CERT_DIR", "SSL_CERT_FILE", "TERM", "TMPDIR", "TZ", "TZDIR", "USER", "XDG_*",
)  # fmt: skip
# Never passed on, whatever is allowed: they speak of the bridge's own process.
_NEVER_PASSED = (
    "CREDENTIALS_DIRECTORY", "INVOCATION_ID", "JOURNAL_STREAM", "LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID",
    "MAINPID", "MANAGERPID", "NOTIFY_SOCKET", "SYSTEMD_EXEC_PID", "WATCHDOG_PID", "WATCHDOG_USEC",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line, validated. Seconds and bytes."""

    command: tuple[str, ...]
    listen: tuple[str, int] | None
    identity_key: Path | None
    allowed_origins: tuple[str, ...]
    allowed_hosts: tuple[str, ...]
    environment: Mapping[str, str]
    directory: str | None
    server_era: str
    input_timeout: float
    call_timeout: float
    call_timeout_total: float
    idle_timeout: float
    stop_timeout: float
    drain_timeout: float
    max_message_bytes: int
    max_sessions: int
    max_sessions_per_user: int
    max_connections: int
    log_level: str


class _Parser(argparse.ArgumentParser):
    """Raises instead of printing a usage page in front of the one line that matters."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def parse_options(arguments: Sequence[str], environment: Mapping[str, str]) -> Options:
    """Read the command line. Raises UsageError; prints help and exits on --help."""
    own, command = _split(arguments)
    parsed = _parser().parse_args(own)
    if not command:
        raise UsageError("no server command: give it after --")
    program = _find_program(command[0], environment, parsed.cwd)
    return Options(
        command=(program, *command[1:]),
        listen=parsed.listen,
        identity_key=parsed.require_identity,
        allowed_origins=tuple(parsed.allow_origin),
        allowed_hosts=tuple(parsed.allow_host),
        environment=_child_environment(environment, parsed.pass_env, parsed.env),
        directory=parsed.cwd,
        server_era=parsed.server_era,
        input_timeout=parsed.input_timeout,
        call_timeout=parsed.call_timeout,
        call_timeout_total=parsed.call_timeout_total,
        idle_timeout=parsed.idle_timeout,
        stop_timeout=parsed.stop_timeout,
        drain_timeout=parsed.drain_timeout,
        max_message_bytes=parsed.max_message_bytes,
        max_sessions=parsed.max_sessions,
        max_sessions_per_user=parsed.max_sessions_per_user,
        max_connections=parsed.max_connections,
        log_level=parsed.log_level.upper(),
    )


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    arguments = list(arguments)
    if "--" not in arguments:
        return arguments, []
    position = arguments.index("--")
    return arguments[:position], arguments[position + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mcp-stdio-bridge",
        usage="mcp-stdio-bridge [--listen HOST:PORT] (--require-identity KEYFILE | --no-identity) [options] "
        "-- COMMAND [ARGUMENT...]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--listen",
        type=_address,
        metavar="HOST:PORT",
        help="where to listen; absent, systemd's socket is taken",
    )
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument(
        "--require-identity",
        type=Path,
        metavar="KEYFILE",
        help="accept only requests with the gateway's identity assertion, signed with this key",
    )
    who.add_argument("--no-identity", action="store_true", help="accept every request, as one user's")

    access = parser.add_argument_group("access")
    access.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="accept browsers at this origin, such as https://app.example.com; repeatable, * for any "
        "(default: loopback origins; with --require-identity any)",
    )
    access.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="HOST",
        help="accept requests for this Host, without port; repeatable, * for any "
        "(default: loopback names; with --require-identity any)",
    )

    server = parser.add_argument_group("the server's process")
    server.add_argument(
        "--env",
        action="append",
        default=[],
        type=_assignment,
        metavar="NAME=VALUE",
        help="set a variable for it",
    )
    server.add_argument(
        "--pass-env",
        action="append",
        default=[],
        metavar="NAME",
        help="pass this variable on, * matches any characters; repeatable "
        "(always passed: PATH, HOME, USER, LANG, LC_*, TZ, TMPDIR, XDG_*, certificate paths)",
    )
    server.add_argument("--cwd", metavar="DIRECTORY", help="run it there")
    server.add_argument(
        "--server-era",
        choices=("auto", "legacy", "modern", "dual"),
        default="auto",
        help="which MCP it speaks: legacy (initialize, up to 2025-11-25), modern (2026-07-28), or dual, which is both; "
        "auto asks it once (default: auto)",
    )
    server.add_argument(
        "--stop-timeout",
        type=_seconds,
        default=6.0,
        metavar="SECONDS",
        help="time from closing its stdin until SIGKILL, with SIGTERM in between (default: 6)",
    )

    limits = parser.add_argument_group("time-outs and limits")
    limits.add_argument(
        "--call-timeout",
        type=_seconds,
        default=300.0,
        metavar="SECONDS",
        help="fail a call that neither ends nor makes progress for so long (default: 300)",
    )
    limits.add_argument(
        "--call-timeout-total",
        type=_seconds,
        default=3600.0,
        metavar="SECONDS",
        help="fail a call after so long even with progress (default: 3600)",
    )
    limits.add_argument(
        "--input-timeout",
        type=_seconds,
        default=600.0,
        metavar="SECONDS",
        help="how long a call waits for what the server asked its client for, between two requests of a 2026-07-28 "
        "client (default: 600)",
    )
    limits.add_argument(
        "--idle-timeout",
        type=_seconds,
        default=1800.0,
        metavar="SECONDS",
        help="end a session without call or open stream for so long (default: 1800)",
    )
    limits.add_argument(
        "--drain-timeout",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="on SIGTERM, let running calls finish for so long (default: 10)",
    )
    limits.add_argument(
        "--max-message-bytes",
        type=_count,
        default=16 * 1024 * 1024,
        metavar="N",
        help="largest message in either direction (default: 16777216)",
    )
    limits.add_argument("--max-sessions", type=_count, default=100, metavar="N", help="in all (default: 100)")
    limits.add_argument(
        "--max-sessions-per-user", type=_count, default=20, metavar="N", help="of one user (default: 20)"
    )
    limits.add_argument(
        "--max-connections", type=_count, default=4096, metavar="N", help="open sockets (default: 4096)"
    )
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="how much goes to stderr; the server's own stderr is logged at info (default: info)",
    )
    return parser


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


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
    patterns = (*_DEFAULT_ENVIRONMENT, *passed)
    kept = {
        name: value
        for name, value in own.items()
        if name not in _NEVER_PASSED and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }
    return {**kept, **dict(assigned)}
