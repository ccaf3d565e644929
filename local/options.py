"""The options of the launcher, checked before any part starts."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from auth_service.settings import ClientDocuments, Tracing, VariableName
from local.launcher import current_launcher

PROJECT = Path(__file__).parent.parent
STATE_DIRECTORY = Path(".local-stack")
SERVER_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

# This interpreter's own scripts, then PATH, then those that `make` installs from npm.
SEARCH_PATH = os.pathsep.join(
    [
        str(Path(sys.executable).parent),
        os.environ.get("PATH", os.defpath),
        str(PROJECT / ".cache/npm-local/node_modules/.bin"),
    ]
)


class UsageError(Exception):
    """The stack cannot be started as asked; the text is one line that says what to do."""


@dataclass(frozen=True)
class StdioServer:
    """A server that the bridge runs. `user_credentials` are labels by environment variable."""

    name: str
    command: tuple[str, ...]
    user_credentials: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HttpServer:
    """A server that runs already and speaks HTTP."""

    name: str
    url: str


Server = StdioServer | HttpServer


@dataclass(frozen=True)
class GitHubApplication:
    """An OAuth application at the real GitHub, and the users who may log in with it."""

    client_id: str
    client_secret_file: Path
    allowed_users: tuple[str, ...]


@dataclass(frozen=True)
class Options:
    """The command line, validated. `github` is None for the stand-in."""

    port: int
    state_directory: Path
    traefik: str
    servers: tuple[Server, ...]
    github: GitHubApplication | None
    client_documents: ClientDocuments
    tracing: Tracing | None
    notices: tuple[str, ...]


def parse_options(arguments: Sequence[str] | None) -> Options:
    """Parse the command line and look up the programs it names. Raises UsageError; exits on --help."""
    given = _argument_parser().parse_args(arguments)
    state_directory: Path = given.state_directory.absolute()
    added = [parse_server(text) for text in given.server]
    names = [server.name for server in added]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"--server {repeated}=…: this name is given twice: choose another for one of them")
    built_in, notices = _built_in_servers(state_directory, without=names)
    github = _github_application(given)
    if github is not None:
        notices += (f"the application at GitHub must have the callback URL http://localhost:{given.port}/callback",)
    return Options(
        port=given.port,
        state_directory=state_directory,
        traefik=given.traefik,
        servers=with_user_credentials((*built_in, *added), given.user_credential),
        github=github,
        client_documents=_client_documents(given),
        tracing=_tracing(given),
        notices=notices,
    )


def parse_server(text: str) -> Server:
    """Parse `NAME=COMMAND ARG…` or `NAME=http://…`. Raises UsageError."""
    name, equals, value = text.partition("=")
    if not equals or not value.strip():
        raise UsageError(f'--server {text}: write it as NAME="COMMAND ARG…" or NAME=http://…')
    if not SERVER_NAME.fullmatch(name):
        raise UsageError(f"--server {text}: a name has lower-case letters, digits and inner hyphens only")
    if value.startswith(("http://", "https://")):
        return HttpServer(name, value)
    try:
        program, *rest = shlex.split(value)
    except ValueError as error:
        raise UsageError(f"--server {text}: {error}") from error
    return StdioServer(name, (require_program(program, needed_by=f"--server {name}"), *rest))


def with_user_credentials(servers: Sequence[Server], texts: Sequence[str]) -> tuple[Server, ...]:
    """Add what `NAME:VARIABLE` and `NAME:VARIABLE=LABEL` ask of each user to the servers. Raises UsageError."""
    found = {server.name: server for server in servers}
    for text in texts:
        names, _, label = text.partition("=")
        name, colon, variable = names.partition(":")
        if not colon or not variable:
            raise UsageError(f"--user-credential {text}: write it as NAME:VARIABLE or NAME:VARIABLE=LABEL")
        server = found.get(name)
        if server is None:
            raise UsageError(f"--user-credential {text}: there is no server {name}: add it with --server")
        if isinstance(server, HttpServer):
            raise UsageError(f"--user-credential {text}: {name} is a URL: only the process of a command has variables")
        if variable in server.user_credentials:
            raise UsageError(f"--user-credential {text}: {variable} is given twice: leave one out")
        _check_variable(variable, given_as=f"--user-credential {text}")
        found[name] = replace(server, user_credentials={**server.user_credentials, variable: label or variable})
    return tuple(found.values())


def _check_variable(name: str, *, given_as: str) -> None:
    """Raise UsageError if the settings of the auth service do not allow a variable."""
    try:
        TypeAdapter(VariableName).validate_python(name)
    except ValidationError as error:
        (first, *_) = error.errors()
        if first["type"] == "value_error":
            raise UsageError(f"{given_as}: {name} {first['msg'].removeprefix('Value error, ')}") from error
        raise UsageError(
            f"{given_as}: {name} is no name of a variable: use letters, digits and underscores, with no digit at the "
            "beginning, at most 100"
        ) from error


def require_program(program: str, *, needed_by: str) -> str:
    """Return the path of a program. Raises UsageError if it is not installed."""
    path = shutil.which(program, path=SEARCH_PATH)
    if path is None:
        raise UsageError(
            f"{program}: there is no such program, and {needed_by} needs it: install it or correct the name"
        )
    return path


def _built_in_servers(state_directory: Path, *, without: Sequence[str]) -> tuple[tuple[Server, ...], tuple[str, ...]]:
    """Return the servers that come with the stack, and a notice for the one that needs Node.js."""
    servers: list[Server] = [
        StdioServer(name, (require_program(f"mcp-server-{name}", needed_by="the local stack"),))
        for name in ("time", "fetch")
        if name not in without
    ]
    if "memory" in without:
        return tuple(servers), ()
    if (memory := shutil.which("mcp-server-memory", path=SEARCH_PATH)) is None or shutil.which("node") is None:
        return tuple(servers), (f"server memory is left out: {current_launcher().memory}",)
    environment = f"MEMORY_FILE_PATH={state_directory / 'memory.jsonl'}"
    servers.append(StdioServer("memory", ("env", environment, memory)))
    return tuple(servers), ()


def _client_documents(given: argparse.Namespace) -> ClientDocuments:
    if given.no_client_documents and given.client_documents_proxy is not None:
        raise UsageError("--client-documents-proxy and --no-client-documents exclude each other: leave one out")
    try:
        return ClientDocuments(enabled=not given.no_client_documents, proxy=given.client_documents_proxy)
    except ValidationError as error:
        raise UsageError(f"--client-documents-proxy {given.client_documents_proxy}: write http://HOST:PORT") from error


def _tracing(given: argparse.Namespace) -> Tracing | None:
    if given.tracing_endpoint is None:
        if given.tracing_sample_ratio is not None:
            raise UsageError("--tracing-sample-ratio goes with --tracing-endpoint: add it")
        return None
    ratio = 1.0 if given.tracing_sample_ratio is None else given.tracing_sample_ratio
    try:
        return Tracing(endpoint=given.tracing_endpoint, sample_ratio=ratio)
    except ValidationError as error:
        (first, *_) = error.errors()
        name = str(first["loc"][0]).replace("_", "-")
        raise UsageError(f"--tracing-{name}: {first['msg'].removeprefix('Value error, ')}") from error


def _github_application(given: argparse.Namespace) -> GitHubApplication | None:
    if given.github_client_id is None:
        if given.github_client_secret_file is not None or given.allow_user:
            raise UsageError("--github-client-secret-file and --allow-user go with --github-client-id: add it")
        return None
    if given.github_client_secret_file is None:
        raise UsageError("--github-client-id needs the application's secret too: add --github-client-secret-file")
    if not given.allow_user:
        raise UsageError("--github-client-id alone admits no user: add --allow-user YOUR-LOGIN")
    return GitHubApplication(given.github_client_id, given.github_client_secret_file, tuple(given.allow_user))


class _ArgumentParser(argparse.ArgumentParser):
    """argparse, with its errors in one line like all others."""

    def error(self, message: str) -> None:  # type: ignore[override]  # argparse declares NoReturn; so it is
        raise UsageError(f"{message}: see --help")


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port: choose one from 1 to 65535")
    return int(text)


def _argument_parser() -> argparse.ArgumentParser:
    parser = _ArgumentParser(
        prog=current_launcher().command,
        description="Run the whole gateway on this machine, in front of real MCP servers.",
    )
    parser.add_argument("--port", type=_port, default=8080, help="of the gateway on localhost (default: 8080)")
    parser.add_argument(
        "--server",
        action="append",
        default=[],
        metavar='NAME="COMMAND ARG…"|NAME=URL',
        help="a server to put behind the gateway: a stdio command, or a URL that speaks HTTP; repeatable",
    )
    parser.add_argument(
        "--user-credential",
        action="append",
        default=[],
        metavar="NAME:VARIABLE[=LABEL]",
        help="ask each user for a value, such as a token, that their processes of this server get as an environment "
        "variable; repeatable",
    )
    parser.add_argument(
        "--state-directory",
        type=Path,
        default=STATE_DIRECTORY,
        help=f"where clients, grants and keys are kept (default: {STATE_DIRECTORY})",
    )
    parser.add_argument(
        "--traefik", default="traefik", metavar="PROGRAM", help="the Traefik to run (default: the one on the PATH)"
    )
    documents = parser.add_argument_group("clients that are known by an https URL, such as Claude Code and Codex")
    documents.add_argument(
        "--client-documents-proxy", metavar="URL", help="http://HOST:PORT of the proxy that leads to their documents"
    )
    documents.add_argument("--no-client-documents", action="store_true", help="have every client register instead")
    tracing = parser.add_argument_group("traces")
    tracing.add_argument(
        "--tracing-endpoint", metavar="URL", help="of a collector, such as http://127.0.0.1:4318/v1/traces"
    )
    tracing.add_argument(
        "--tracing-sample-ratio", metavar="RATIO", type=float, help="which part of the requests to trace (default: 1)"
    )
    github = parser.add_argument_group("log in with the real GitHub instead of the stand-in")
    github.add_argument(
        "--github-client-id", metavar="ID", help="of an OAuth app with the callback URL http://localhost:PORT/callback"
    )
    github.add_argument("--github-client-secret-file", metavar="FILE", type=Path)
    github.add_argument("--allow-user", action="append", default=[], metavar="LOGIN", help="who may log in; repeatable")
    return parser
