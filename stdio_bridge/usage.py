"""What can stand on the command line, and the page that `--help` prints."""

from __future__ import annotations

import argparse
import enum
import ipaddress
import re
from pathlib import Path
from typing import NewType, NoReturn

from .protocol.errors import UsageError
from .protocol.mcp import ALL_VERSIONS

DescriptorName = NewType("DescriptorName", str)
"""What a unit calls a file that it hands over: `OpenFile=PATH:NAME`, see systemd.service(5)."""

_USAGE = """\
mcp-stdio-bridge [--listen ADDRESS] (--require-identity KEYFILE | --no-identity) [OPTION...]
       (-- COMMAND [ARGUMENT...] | --server-socket PATH)"""

_DESCRIPTION = """\
Serve one unmodified stdio MCP server over Streamable HTTP, at /mcp.

Everything after -- is the server's command and reaches it unchanged, without a shell. With --server-socket the server
runs in systemd units instead, one for each of its processes.
"""

_EPILOG = """\
isolation:
  per-session  Each session of a client has a process of its own. The default, and right for any server.
  per-user     One process for all sessions of a verified user. Saves memory; nothing is shared between users.
  shared       One process for everyone. For servers that keep nothing of their users: whatever the server tells
               without saying to whom (background log lines, say) may be about anyone's call.

bounds of sessions:
  At a user's bound the user's least recently used session without a running call or an open stream is ended; at the
  bound of all, one of the user who holds most. Its client is told 404, and opens a new one. Only where all are in use
  a new session is refused: 503 with Retry-After. A process that is being ended takes no place.

endpoints:
  /mcp          the MCP endpoint (POST, GET, DELETE)
  /healthz      200 while the bridge runs
  /readyz       200 while the server answers; a process is started to ask only if no running one can be asked
  /statusz      how many seconds ago a server answered, was needed, and ended before it answered; starts nothing
  /metrics      counters and gauges, Prometheus text format, described in the output itself
  /revocations  where the gateway tells of revoked grants (POST, signed)

examples:
  Try a server on this machine:
    mcp-stdio-bridge --listen 127.0.0.1:9001 --no-identity -- mcp-server-time --local-timezone UTC
  Behind the gateway, on a socket that only Traefik may open:
    mcp-stdio-bridge --listen unix:/run/bridges/time --require-identity /run/keys/time -- mcp-server-time
  A server that is slow to start, with two processes always ready:
    mcp-stdio-bridge --listen 127.0.0.1:9001 --no-identity --warm-spares 2 -- npx -y some-server

signals: on SIGTERM, SIGINT, SIGHUP or SIGQUIT running calls finish within --drain-timeout, new ones get 503, and every
process ends.
exit status: 0 after a signal; 2 when the command line, or what it names, is unusable.
"""


# What a program needs to run at all, and nothing that is meant for the bridge.
DEFAULT_ENVIRONMENT = (
    "HOME", "LANG", "LANGUAGE", "LC_*", "LOGNAME", "NIX_SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "PATH", "SHELL",
    "SSL_CERT_DIR", "SSL_CERT_FILE", "TERM", "TMPDIR", "TZ", "TZDIR", "USER", "XDG_*",
)  # fmt: skip
_DEFAULT_PORTS = {"http": "80", "https": "443"}


class Isolation(enum.Enum):
    """Who shares a server process."""

    PER_SESSION = "per-session"
    PER_USER = "per-user"
    SHARED = "shared"


class _Parser(argparse.ArgumentParser):
    """Raises instead of printing a usage page in front of the one line that matters."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


class _Version(argparse.Action):
    """Prints the version, which is looked up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib import metadata  # noqa: PLC0415 - a megabyte that a running bridge has no use for

        try:
            version = metadata.version("mcp-oauth-gateway")
        except metadata.PackageNotFoundError:
            version = "of a checkout that is not installed"
        print(f"mcp-stdio-bridge {version}")  # noqa: T201 - as --help prints
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of what stands before `--`. It raises UsageError."""
    parser = _Parser(
        prog="mcp-stdio-bridge",
        usage=_USAGE,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=34, width=118),
        allow_abbrev=False,
        add_help=False,
    )
    _add_serving(parser.add_argument_group("serving"))
    _add_access(parser.add_argument_group("access (one of the first two is required)"))
    _add_process(parser.add_argument_group("the server's processes"))
    _add_limits(parser.add_argument_group("time-outs and limits"))
    return parser


def _add_serving(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--listen",
        type=_address,
        metavar="ADDRESS",
        help="HOST:PORT, [HOST]:PORT or unix:/PATH; leave it out where systemd hands over a socket",
    )
    add(
        "--protocol-version",
        action="append",
        default=[],
        choices=ALL_VERSIONS,
        metavar="VERSION",
        help=f"offer this revision of MCP to clients, and no other that is not named; repeatable, of "
        f"{', '.join(ALL_VERSIONS)} (default: all)",
    )
    add(
        "--replica",
        type=_replica,
        metavar="NAME",
        help="put NAME. before session ids, so that a router finds this replica again (a-z, 0-9 and -)",
    )
    add(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        metavar="LEVEL",
        help="debug, info, warning or error, on stderr; the server's own stderr is logged at info (default: info)",
    )
    add("-h", "--help", action="help", help="print this page")
    add("--version", action=_Version, nargs=0, help="print the version")


def _add_access(group: argparse._ArgumentGroup) -> None:
    who = group.add_mutually_exclusive_group(required=True)
    who.add_argument(
        "--require-identity",
        type=_key_file,
        metavar="KEYFILE",
        help="take only requests with the gateway's identity assertion, signed with this key; fd:NAME is a file that "
        "systemd hands over (OpenFile=PATH:NAME), which the server's user need not be able to read",
    )
    who.add_argument("--no-identity", action="store_true", help="take every request, as one user's")
    group.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        type=_origin,
        metavar="ORIGIN",
        help="let browsers at this origin in, such as https://app.example.com; repeatable, * matches any characters "
        "(default: loopback origins; with --require-identity any)",
    )
    group.add_argument(
        "--allow-host",
        action="append",
        default=[],
        type=_host,
        metavar="HOST",
        help="take requests for this Host, whatever the port; repeatable, * matches any characters "
        "(loopback names are taken always; with --require-identity any, unless some are named)",
    )


def _add_process(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--isolation",
        choices=tuple(mode.value for mode in Isolation),
        default=Isolation.PER_SESSION.value,
        metavar="MODE",
        help="per-session, per-user or shared: see below (default: per-session)",
    )
    add(
        "--warm-spares",
        type=_count_or_none,
        default=0,
        metavar="N",
        help="keep so many processes started ahead of need; they count to no limit (default: 0)",
    )
    add(
        "--starts-at-once",
        type=_count,
        metavar="N",
        help="start so many processes side by side, others wait their turn (default: one per core)",
    )
    add(
        "--server-socket",
        type=_path,
        metavar="PATH",
        help="start no process, but connect to this socket for each: systemd starts a unit for every connection "
        "(Accept=yes, ListenSequentialPacket=), whose ExecStart= is python3 -I -S .../stdio_bridge/io/server_init.py "
        "COMMAND",
    )
    add("--env", action="append", default=[], type=_assignment, metavar="NAME=VALUE", help="set a variable; repeatable")
    add(
        "--pass-env",
        action="append",
        default=[],
        metavar="NAME",
        help="pass a variable of the bridge's on; repeatable, * matches any characters "
        f"(always passed: {', '.join(DEFAULT_ENVIRONMENT)})",
    )
    add("--cwd", metavar="DIRECTORY", help="run the server there")
    add(
        "--server-era",
        choices=("auto", "legacy", "modern", "dual"),
        default="auto",
        help="which MCP it speaks: legacy (initialize, up to 2025-11-25), modern (2026-07-28), or dual, which is both; "
        "auto asks it once (default: auto)",
    )
    add(
        "--server-protocol-version",
        choices=ALL_VERSIONS,
        metavar="VERSION",
        help="the revision that the server is initialized with (default: the one its client asks for)",
    )
    add(
        "--stop-timeout",
        type=_seconds,
        default=6.0,
        metavar="SECONDS",
        help="from closing its stdin until SIGKILL, with SIGTERM in between (default: 6)",
    )


def _add_limits(group: argparse._ArgumentGroup) -> None:
    def seconds(name: str, default: float, text: str) -> None:
        text = f"{text} (default: {default:g})"
        group.add_argument(name, type=_seconds, default=default, metavar="SECONDS", help=text)

    def count(name: str, default: int, text: str) -> None:
        text = f"{text} (default: {default})"
        group.add_argument(name, type=_count, default=default, metavar="N", help=text)

    seconds("--call-timeout", 300.0, "fail a call that neither ends nor makes progress for so long")
    seconds("--call-timeout-total", 3600.0, "fail a call after so long even with progress")
    seconds(
        "--input-timeout",
        600.0,
        "how long a call waits for what the server asked its client for, between two requests of a 2026-07-28 client",
    )
    seconds("--idle-timeout", 1800.0, "end a session without call or open stream, and a process without users")
    seconds("--keep-alive", 15.0, "write a comment on open streams, and make a stream of an answer that takes so long")
    seconds("--drain-timeout", 10.0, "on SIGTERM, let running calls finish for so long")
    count("--max-message-bytes", 16 * 1024 * 1024, "largest message in either direction")
    count("--max-sessions", 100, "processes in all, and so sessions that have one of their own: see below")
    count("--max-sessions-per-user", 20, "of one verified user")
    count("--max-shared-sessions", 1000, "sessions that share a process (per-user and shared), in all")
    count("--max-shared-sessions-per-user", 100, "of one verified user")
    count("--max-calls", 10_000, "unanswered calls of one process; beyond it 503 with Retry-After")
    count("--max-connections", 4096, "open connections; beyond it new ones wait")


def _address(text: str) -> tuple[str, int] | Path:
    if text.startswith("unix:/"):
        return Path(text.removeprefix("unix:"))
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is neither HOST:PORT nor unix:/PATH")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _path(text: str) -> Path:
    if not text.startswith("/"):
        raise argparse.ArgumentTypeError(f"{text!r} is no absolute path")
    return Path(text)


def _origin(text: str) -> str:
    """An origin as browsers write it: without a path, and without the port that its scheme has anyway."""
    if text in ("*", "null"):
        return text
    found = re.fullmatch(r"([a-z*][a-z0-9+.*-]*)://(\[[0-9a-f:.*]+\]|[^/?#@,:\[\]\s]+)(?::([0-9*]+))?/?", text.lower())
    if found is None or (found[3] and found[3].isdecimal() and int(found[3]) > 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is no origin: SCHEME://HOST or SCHEME://HOST:PORT, without a path")
    if not text.isascii():
        raise argparse.ArgumentTypeError(f"{text!r} is not as browsers send it: write the name with xn--")
    scheme, host, port = found.groups()
    if host.startswith("["):
        host = f"[{_shortest(host[1:-1], text)}]"
    return f"{scheme}://{host}" + (f":{port}" if port and port != _DEFAULT_PORTS.get(scheme) else "")


def _host(text: str) -> str:
    """The name or address in a Host header, where a port and the brackets of an IPv6 address do not count."""
    lower = text.lower()
    if found := re.fullmatch(r"\[([0-9a-f:.*]+)\](?::[0-9*]+)?|([0-9a-f.]*:[0-9a-f:.*]*:[0-9a-f:.*]*)", lower):
        return _shortest(found[1] or found[2], text)
    if found := re.fullmatch(r"([a-z0-9_.*-]+)(?::[0-9*]+)?", lower):
        return found[1]
    raise argparse.ArgumentTypeError(
        f"{text!r} is no host: give a name or an address, such as mcp.example.com or [::1]"
    )


def _shortest(address: str, text: str) -> str:
    """An IPv6 address as clients write it in headers. A pattern is left as it is."""
    if "*" in address:
        return address
    try:
        return str(ipaddress.IPv6Address(address))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} holds no IPv6 address: {error}") from error


def _key_file(text: str) -> Path | DescriptorName:
    if not text.startswith("fd:"):
        return Path(text)
    if not (name := text.removeprefix("fd:")):
        raise argparse.ArgumentTypeError("fd: must be followed by the name that the unit gives the file")
    return DescriptorName(name)


def _replica(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9-]{1,63}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name of up to 63 of a-z, 0-9 and -")
    return text


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return value


def _count(text: str) -> int:
    if not _is_whole(text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _count_or_none(text: str) -> int:
    if not _is_whole(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 12


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value
