"""The command line, and the page that `--help` prints."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from stdio_bridge.protocol.errors import UsageError

from .config_file import print_schema
from .definitions import SERVING, Option, options_by_name
from .kinds import InvalidValueError

_USAGE = """\
mcp-stdio-bridge [--listen ADDRESS] (--require-identity KEYFILE | --no-identity) [OPTION...]
       (-- COMMAND [ARGUMENT...] | --server-socket PATH)
       mcp-stdio-bridge --config FILE [OPTION...] [-- COMMAND [ARGUMENT...]]
       mcp-stdio-bridge --print-tools-lock [OPTION...] -- COMMAND [ARGUMENT...]"""

_DESCRIPTION = """\
Serve one unmodified stdio MCP server over Streamable HTTP, at /mcp.

Everything after -- is the server's command and reaches it unchanged, without a shell. With --server-socket the server
runs in systemd units instead, one for each of its processes.
"""

_EPILOG = """\
configuration file:
  A JSON object whose members are the options without the dashes: {"isolation": "shared", "max-calls": 100}. An option
  that can be repeated is a list there, "env" an object, "no-identity" true; "command" is the list of the program and
  its arguments. "tools", "prompts" and "resources" hold the rules that say who may use which, and exist in the file
  only. An option on the command line replaces the member of the same name (a list as a whole), and each of
  --require-identity and --no-identity replaces both members.

isolation:
  per-session  Each session of a client has a process of its own. The default, and right for any server.
  per-user     One process for all sessions of a verified user. Saves memory; nothing is shared between users.
  shared       One process for everyone. For servers that keep nothing about their users: a message that names no
               call (a log message, say) may be about the call of any user.

limits of sessions:
  A session is in use while it has a running call or an open stream. When a user has reached a limit, the bridge ends
  that user's least recently used session that is not in use; at the limit of all users, one of the user with the most
  sessions. The client of an ended session gets 404 and opens a new one. The bridge refuses a new session (503 with
  Retry-After) only if all are in use. Processes that are ending do not count.

endpoints:
  /mcp          the MCP endpoint (POST, GET, DELETE)
  /healthz      200 while the bridge runs
  /readyz       200 while the server answers; starts a process to ask only if there is no running one to ask
  /statusz      seconds since a server last answered, was needed, and ended without an answer; starts no process
  /metrics      counters and gauges, Prometheus text format, described in the output itself
  /survey       what the server offers, and how that differs from --tools-lock and the rules (POST, signed); starts a
                process to ask
  /revocations  where the gateway reports revoked grants (POST, signed)

examples:
  Try a server on this machine:
    mcp-stdio-bridge --listen 127.0.0.1:9001 --no-identity -- mcp-server-time --local-timezone UTC
  Behind the gateway, on a socket that only Traefik may open:
    mcp-stdio-bridge --listen unix:/run/bridges/time --require-identity /run/keys/time -- mcp-server-time
  A server that is slow to start, with two processes always ready:
    mcp-stdio-bridge --listen 127.0.0.1:9001 --no-identity --warm-spares 2 -- npx -y some-server

signals: on SIGTERM, SIGINT, SIGHUP or SIGQUIT running calls finish within --drain-timeout, new ones get 503, and every
process ends.
exit status: 0 after a signal, or if --check finds nothing wrong; 1 if --print-tools-lock gets no list of tools; 2 if
the options, or what they name, are unusable.
"""


@dataclass(frozen=True, kw_only=True)
class CommandLine:
    """The parsed command line. `values` has the options that it gives, by name."""

    values: Mapping[str, object]
    config: Path | None
    check: bool
    print_tools_lock: bool


class _Parser(argparse.ArgumentParser):
    """Raises an error, where argparse would print the usage in front of it."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


class _Version(argparse.Action):
    """Prints the version."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib import metadata  # noqa: PLC0415 - a megabyte that a running bridge has no use for

        try:
            version = metadata.version("mcp-oauth-gateway")
        except metadata.PackageNotFoundError:
            version = "of a checkout that is not installed"
        print(f"mcp-stdio-bridge {version}")  # noqa: T201 - as --help prints
        parser.exit()


class _Schema(argparse.Action):
    """Prints the schema of the configuration file."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print_schema()
        parser.exit()


def read_command_line(arguments: Sequence[str]) -> CommandLine:
    """Read the command line. Raises UsageError. Exits after --help and other options that only print something."""
    own, command = _split(arguments)
    try:
        parsed = vars(_make_parser().parse_args(own))
    except UsageError as error:
        if command or "unrecognized arguments" not in str(error):
            raise
        raise UsageError(f"{error} (the server's command goes after --)") from error
    values: dict[str, object] = {}
    for name, option in options_by_name().items():
        if name in parsed:
            collect = option.definition.kind.collect
            values[name] = collect(parsed[name]) if collect else parsed[name]
    if command:
        values["command"] = tuple(command)
    return CommandLine(
        values=values,
        config=parsed["config"],
        check=parsed["check"],
        print_tools_lock=parsed["print_tools_lock"],
    )


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    arguments = list(arguments)
    if "--" not in arguments:
        return arguments, []
    position = arguments.index("--")
    return arguments[:position], arguments[position + 1 :]


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mcp-stdio-bridge",
        usage=_USAGE,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=34, width=118),
        allow_abbrev=False,
        add_help=False,
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for option in options_by_name().values():
        heading = option.definition.group
        if heading is not None:
            if heading not in groups:
                groups[heading] = parser.add_argument_group(heading)
            _add(groups[heading], option)
    add = groups[SERVING].add_argument
    add("--config", type=Path, metavar="FILE", help="read options from this file: see below")
    add("--check", action="store_true", help="check the options and start nothing")
    add(
        "--print-tools-lock",
        action="store_true",
        help="start the server once, print a lock file of its tools (see --tools-lock), and serve nothing",
    )
    add("--config-schema", action=_Schema, nargs=0, help="print the JSON Schema of the configuration file")
    add("-h", "--help", action="help", help="print this page")
    add("--version", action=_Version, nargs=0, help="print the version")
    return parser


def _add(group: argparse._ArgumentGroup, option: Option) -> None:
    flag, kind = f"--{option.definition.name}", option.definition.kind
    # No default here: an option that the command line leaves out may be in the file.
    common: dict[str, Any] = {"dest": option.definition.name, "default": argparse.SUPPRESS, "help": _help(option)}
    if kind.from_text is None:
        group.add_argument(flag, action="store_true", **common)
    else:
        action = "append" if kind.collect else "store"
        group.add_argument(flag, action=action, type=_for_argparse(kind.from_text), metavar=kind.metavar, **common)


def _for_argparse(parse: Callable[[str], object]) -> Callable[[str], object]:
    def parse_argument(text: str) -> object:
        try:
            return parse(text)
        except InvalidValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse_argument


def _help(option: Option) -> str:
    default = f"{option.default:g}" if isinstance(option.default, float) else option.default
    return option.definition.text if default is None else f"{option.definition.text} (default: {default})"
