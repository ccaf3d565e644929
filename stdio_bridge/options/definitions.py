"""Every option, defined once: as `--NAME`, as the member NAME of the configuration file, and in that file's schema."""

from __future__ import annotations

import enum
import functools
import os
import resource
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from stdio_bridge.protocol.mcp import ALL_VERSIONS, Versions
from stdio_bridge.protocol.policy import ResourceRules, Rules
from stdio_bridge.protocol.tool_lock import ToolLock

from . import kinds
from .kinds import DescriptorName, Kind
from .lock_file import LOCK_FILE
from .rules import PROMPT_RULES, RESOURCE_RULES, TOOL_RULES

SERVING = "serving"
ACCESS = "access (--require-identity or --no-identity is required)"
PROCESSES = "the server's processes"
TRACES = "traces"
LIMITS = "time-outs and limits"

# What a program needs to run at all, and nothing that is meant for the bridge.
DEFAULT_ENVIRONMENT = (
    "HOME", "LANG", "LANGUAGE", "LC_*", "LOGNAME", "NIX_SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "PATH", "SHELL",
    "SSL_CERT_DIR", "SSL_CERT_FILE", "TERM", "TMPDIR", "TZ", "TZDIR", "USER", "XDG_*",
)  # fmt: skip


class Isolation(enum.Enum):
    """Who shares a server process."""

    PER_SESSION = "per-session"
    PER_USER = "per-user"
    SHARED = "shared"


class RecordedArguments(enum.Enum):
    """How much of a call's arguments is in the record of the call."""

    NONE = "none"
    DIGEST = "digest"
    FULL = "full"


@dataclass(frozen=True)
class Definition:
    """One option: its name, how its value is written, its heading in --help (None: there is no `--NAME`), its help."""

    name: str
    kind: Kind[Any]
    group: str | None
    text: str


@dataclass(frozen=True, kw_only=True)
class Options:
    """All options, validated. Times are in seconds, sizes in bytes.

    With `print_tools_lock` the bridge prints a lock file and serves nothing. `listen` is a host and a port, a path, or
    None where systemd hands over a socket. `replica` is empty or a name.

    The bridge starts a server by its `command`, in `directory` and with the soft limit `open_files`, which is the limit
    that the bridge itself began with. Or it connects to `server_socket`; then `environment` is added to the unit's.
    """

    command: Annotated[
        tuple[str, ...],
        Definition(
            "command",
            kinds.COMMAND,
            None,
            "the server's program and its arguments; on the command line they stand after --",
        ),
    ] = ()
    environment: Mapping[str, str]
    print_tools_lock: bool = False
    open_files: int = field(default_factory=lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[0])

    listen: Annotated[
        tuple[str, int] | Path | None,
        Definition(
            "listen",
            kinds.ADDRESS,
            SERVING,
            "listen here: HOST:PORT, [HOST]:PORT or unix:/PATH; leave it out where systemd hands over a socket",
        ),
    ] = None
    offered_versions: Annotated[
        tuple[str, ...],
        Definition(
            "protocol-version",
            kinds.several(kinds.choice("VERSION", *ALL_VERSIONS)),
            SERVING,
            f"offer clients this revision of MCP, and only the revisions that are named so; repeatable, of "
            f"{', '.join(ALL_VERSIONS)} (default: all)",
        ),
    ] = ()
    replica: Annotated[
        str,
        Definition(
            "replica",
            kinds.NAME,
            SERVING,
            "put NAME. before session ids, so that a router finds this replica again (a-z, 0-9 and -)",
        ),
    ] = ""
    log_level: Annotated[
        str,
        Definition(
            "log-level",
            kinds.choice("LEVEL", "debug", "info", "warning", "error"),
            SERVING,
            "what to log on stderr: debug, info, warning or error; the server's own stderr is logged at info",
        ),
    ] = "info"

    call_records: Annotated[
        kinds.RecordsTarget | None,
        Definition(
            "call-records",
            kinds.RECORDS,
            SERVING,
            "write one JSON line per call to this file, or as an entry to this socket of a journal: /PATH or "
            "unix:/PATH",
        ),
    ] = None
    record_arguments: Annotated[
        RecordedArguments,
        Definition(
            "record-arguments",
            kinds.member("WHAT", RecordedArguments),
            SERVING,
            "what --call-records has of a call's arguments: none, a keyed digest, or their full text, which may hold "
            "passwords and private data",
        ),
    ] = RecordedArguments.NONE
    server_name: Annotated[
        str,
        Definition("server-name", kinds.NAME, SERVING, "the server's name in --call-records"),
    ] = ""

    identity_key: Annotated[
        Path | DescriptorName | None,
        Definition(
            "require-identity",
            kinds.KEY_FILE,
            ACCESS,
            "accept only requests with the gateway's identity assertion, signed with this key; fd:NAME is a file that "
            "systemd hands over (OpenFile=PATH:NAME), so that the server's user needs no permission to read it",
        ),
    ] = None
    credentials_urls: Annotated[
        tuple[str, ...],
        Definition(
            "credentials-url",
            kinds.several(kinds.CREDENTIALS),
            ACCESS,
            "before a process is started for a user, ask the gateway's auth service here for the user's own "
            "credentials, which become variables of the process' environment, such as "
            "http://127.0.0.1:9000/credentials/NAME; repeatable: if one cannot be reached, the next one is asked. "
            "Needs --user-credential and --require-identity; not with --isolation shared or --warm-spares",
        ),
    ] = ()
    user_credentials: Annotated[
        tuple[str, ...],
        Definition(
            "user-credential",
            kinds.several(kinds.VARIABLE),
            ACCESS,
            "a variable that --credentials-url must deliver before a process starts; repeatable, and nothing else may "
            "be delivered",
        ),
    ] = ()
    no_identity: Annotated[
        bool, Definition("no-identity", kinds.FLAG, ACCESS, "accept every request; all are of one user")
    ] = False
    allowed_origins: Annotated[
        tuple[str, ...],
        Definition(
            "allow-origin",
            kinds.several(kinds.ORIGIN),
            ACCESS,
            "accept requests of web pages at this origin, such as https://app.example.com; repeatable, * matches any "
            "characters (default: loopback origins; with --require-identity any)",
        ),
    ] = ()
    allowed_hosts: Annotated[
        tuple[str, ...],
        Definition(
            "allow-host",
            kinds.several(kinds.HOST),
            ACCESS,
            "accept requests with this Host, whatever the port; repeatable, * matches any characters (loopback names "
            "are always accepted; with --require-identity every name is, unless this option is given)",
        ),
    ] = ()

    tools: Annotated[
        Rules | None,
        Definition(
            "tools",
            TOOL_RULES,
            None,
            "who may use which tool: a default for all, and rules by exact name or by a pattern, in which * matches "
            "any characters; a rule lists the scopes that a user needs, or denies, and may have a quota and a JSON "
            "Schema for arguments",
        ),
    ] = None
    prompts: Annotated[
        Rules | None,
        Definition("prompts", PROMPT_RULES, None, "who may use which prompt, as tools says it"),
    ] = None
    resources: Annotated[
        ResourceRules | None,
        Definition("resources", RESOURCE_RULES, None, "who may use which resource, by URI, as tools says it"),
    ] = None

    tools_lock: Annotated[
        ToolLock | None,
        Definition(
            "tools-lock",
            LOCK_FILE,
            ACCESS,
            "hide each tool that differs from this file, which --print-tools-lock and mcp-gatewayctl tools lock write",
        ),
    ] = None

    isolation: Annotated[
        Isolation,
        Definition(
            "isolation",
            kinds.member("MODE", Isolation),
            PROCESSES,
            "which sessions share a process: none (per-session), those of one user (per-user) or all (shared)",
        ),
    ] = Isolation.PER_SESSION
    warm_spares: Annotated[
        int,
        Definition(
            "warm-spares",
            kinds.COUNT_OR_NONE,
            PROCESSES,
            "keep this many processes started ahead of need; no limit counts them",
        ),
    ] = 0
    starts_at_once: Annotated[
        int,
        Definition(
            "starts-at-once",
            kinds.COUNT,
            PROCESSES,
            "start at most this many processes at the same time; the others wait (default: one per core)",
        ),
    ] = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    server_socket: Annotated[
        Path | None,
        Definition(
            "server-socket",
            kinds.PATH,
            PROCESSES,
            "instead of starting a process, connect to this socket: systemd starts a unit for each connection "
            "(Accept=yes, ListenSequentialPacket=), whose ExecStart= is python3 -I -S "
            ".../stdio_bridge/io/server_init.py COMMAND",
        ),
    ] = None
    assigned_variables: Annotated[
        Mapping[str, str],
        Definition("env", kinds.VARIABLES, PROCESSES, "set a variable of the server's environment; repeatable"),
    ] = field(default_factory=dict)
    passed_variables: Annotated[
        tuple[str, ...],
        Definition(
            "pass-env",
            kinds.several(kinds.ANY_TEXT),
            PROCESSES,
            "pass this variable of the bridge's environment to the server; repeatable, * matches any characters "
            f"(always passed: {', '.join(DEFAULT_ENVIRONMENT)})",
        ),
    ] = ()
    directory: Annotated[
        str | None, Definition("cwd", kinds.DIRECTORY, PROCESSES, "run the server in this directory")
    ] = None
    server_era: Annotated[
        str,
        Definition(
            "server-era",
            kinds.choice("ERA", "auto", "legacy", "modern", "dual"),
            PROCESSES,
            "which era of MCP the server speaks: legacy (initialize, up to 2025-11-25), modern (2026-07-28) or dual "
            "(both); auto asks the server once",
        ),
    ] = "auto"
    server_version: Annotated[
        str | None,
        Definition(
            "server-protocol-version",
            kinds.choice("VERSION", *ALL_VERSIONS),
            PROCESSES,
            "initialize the server with this revision (default: the one that its client asks for)",
        ),
    ] = None
    stop_timeout: Annotated[
        float,
        Definition(
            "stop-timeout",
            kinds.SECONDS,
            PROCESSES,
            "how to end a process: close its stdin, send SIGTERM after a third of this time, SIGKILL after two thirds",
        ),
    ] = 6.0

    call_timeout: Annotated[
        float,
        Definition(
            "call-timeout", kinds.SECONDS, LIMITS, "fail a call that neither ends nor makes progress within this time"
        ),
    ] = 300.0
    call_timeout_total: Annotated[
        float,
        Definition(
            "call-timeout-total", kinds.SECONDS, LIMITS, "fail a call after this time even if it makes progress"
        ),
    ] = 3600.0
    input_timeout: Annotated[
        float,
        Definition(
            "input-timeout",
            kinds.SECONDS,
            LIMITS,
            "how long a call waits for the client's answer to what the server asked, where one of the two speaks "
            "2026-07-28",
        ),
    ] = 600.0
    idle_timeout: Annotated[
        float,
        Definition(
            "idle-timeout",
            kinds.SECONDS,
            LIMITS,
            "end a session that has had no call and no open stream, and a process without sessions, after this time",
        ),
    ] = 1800.0
    idle_exit: Annotated[
        float,
        Definition(
            "idle-exit",
            kinds.SECONDS_OR_NONE,
            LIMITS,
            "exit with status 0 after this time without a request, session and process, where systemd hands over a "
            "socket and so starts the bridge for the next request; never if it is 0, or with --warm-spares",
        ),
    ] = 0.0
    keep_alive: Annotated[
        float,
        Definition(
            "keep-alive",
            kinds.SECONDS,
            LIMITS,
            "write a comment to open streams this often, and turn an answer that takes longer into a stream",
        ),
    ] = 15.0
    drain_timeout: Annotated[
        float,
        Definition("drain-timeout", kinds.SECONDS, LIMITS, "on SIGTERM, let running calls finish within this time"),
    ] = 10.0
    max_message_bytes: Annotated[
        int, Definition("max-message-bytes", kinds.COUNT, LIMITS, "the largest message in either direction")
    ] = 16 * 1024 * 1024
    max_sessions: Annotated[
        int,
        Definition(
            "max-sessions", kinds.COUNT, LIMITS, "server processes, which with per-session isolation are sessions"
        ),
    ] = 100
    max_sessions_per_user: Annotated[
        int, Definition("max-sessions-per-user", kinds.COUNT, LIMITS, "server processes of one verified user")
    ] = 20
    max_shared_sessions: Annotated[
        int,
        Definition(
            "max-shared-sessions",
            kinds.COUNT,
            LIMITS,
            "sessions in all that share processes (isolation per-user and shared)",
        ),
    ] = 1000
    max_shared_sessions_per_user: Annotated[
        int,
        Definition(
            "max-shared-sessions-per-user",
            kinds.COUNT,
            LIMITS,
            "sessions of one verified user where a process is shared",
        ),
    ] = 100
    max_calls: Annotated[
        int,
        Definition("max-calls", kinds.COUNT, LIMITS, "unanswered calls of one process; more get 503 with Retry-After"),
    ] = 10_000
    max_calls_per_user: Annotated[
        int | None,
        Definition(
            "max-calls-per-user",
            kinds.COUNT,
            LIMITS,
            "unanswered calls of tools, prompts and resources of one verified user; more get 429 with Retry-After "
            "(default: no limit)",
        ),
    ] = None
    calls_per_minute: Annotated[
        int | None,
        Definition(
            "calls-per-minute",
            kinds.COUNT,
            LIMITS,
            "how many calls of tools, prompts and resources each verified user may make within any minute; more get "
            "429 with Retry-After (default: no limit)",
        ),
    ] = None
    max_connections: Annotated[
        int, Definition("max-connections", kinds.COUNT, LIMITS, "open connections; more have to wait")
    ] = 4096

    tracing_endpoint: Annotated[
        str | None,
        Definition(
            "tracing-endpoint",
            kinds.COLLECTOR,
            TRACES,
            "send a span for each request of a client to this collector (OTLP over HTTP), such as "
            "http://127.0.0.1:4318/v1/traces",
        ),
    ] = None
    tracing_sample_ratio: Annotated[
        float,
        Definition(
            "tracing-sample-ratio",
            kinds.RATIO,
            TRACES,
            "which part of the requests to trace, from 0 to 1; requests that their sender traces are traced up to this "
            "part of all",
        ),
    ] = 1.0
    tracing_service_name: Annotated[
        str,
        Definition("tracing-service-name", kinds.ANY_TEXT, TRACES, "what spans call this bridge (service.name)"),
    ] = "mcp-stdio-bridge"

    @property
    def versions(self) -> Versions:
        """The revisions of MCP that are spoken to clients and to the server."""
        offered = tuple(version for version in ALL_VERSIONS if version in self.offered_versions)
        return Versions(offered=offered or ALL_VERSIONS, server=self.server_version)


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option with its field of Options. `default` is None if there is none, or if it is only known at run time."""

    attribute: str
    definition: Definition
    default: object


@functools.cache
def options_by_name() -> Mapping[str, Option]:
    """Return every option, in the order of the fields of Options."""
    hints = get_type_hints(Options, include_extras=True)
    found: dict[str, Option] = {}
    for each in fields(Options):
        for definition in getattr(hints[each.name], "__metadata__", ()):
            found[definition.name] = Option(attribute=each.name, definition=definition, default=_shown(each.default))
    return found


def _shown(default: object) -> object:
    """Return a default as --help and the schema show it; None for an empty one."""
    if isinstance(default, enum.Enum):
        return default.value
    return None if default is MISSING or default is False or default in ("", ()) else default
