"""What answers ForwardAuth requests: ours, another, and the least that the same worker can do. One worker each.

And Traefik, which asks one of them before each request, and then answers by itself.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import jwt
import psutil
import redis
import requests
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from auth_service.app.traefik import dynamic_configuration
from auth_service.keys.access_tokens import issue_access_token
from auth_service.keys.signing_keys import SigningKeys
from auth_service.settings import load_credentials, load_settings
from local.options import require_program
from local.ports import free_port
from local.stack import find_redis

from . import report

ISSUER = "https://mcp.example.com"
RESOURCE = "https://time.example.com/mcp"
RIVAL = "mcp-oauth-dynamicclient"
_START_SECONDS = 20


@dataclass
class Verifier:
    """A running one, and the worker that does its work."""

    name: str
    port: int
    path: str
    process: subprocess.Popen[bytes]
    host: str = "127.0.0.1"
    """The request's."""

    @property
    def worker(self) -> psutil.Process:
        """The process that answers."""
        process = psutil.Process(self.process.pid)
        children: list[psutil.Process] = process.children()
        return children[0] if children else process


@contextmanager
def running_redis(folder: Path) -> Iterator[redis.Redis]:
    """Start a Redis on a unix socket in the folder, which is made."""
    folder.mkdir()
    path = folder / "redis.sock"
    process = subprocess.Popen(
        [
            find_redis(),
            *("--port", "0", "--unixsocket", path, "--save", "", "--dir", folder, "--logfile", folder / "log"),
        ]
    )
    try:
        client = redis.Redis(unix_socket_path=str(path))
        _wait_for(path.exists)
        yield client
    finally:
        process.kill()
        process.wait()


@contextmanager
def ceiling(folder: Path) -> Iterator[Verifier]:
    """Run the bare ASGI reply on Gunicorn's worker, with our settings of it."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--worker-class", "asgi", "--bind", f"127.0.0.1:{port}"]
    command += ["--keep-alive", "120", "--no-control-socket", "--asgi-disconnect-grace-period", "0"]
    command += ["bench.bare_asgi:application"]
    with _running("bare ASGI reply", port, "/", command, folder) as verifier:
        yield verifier


@contextmanager
def ours(folder: Path, *, port: int | None = None, **settings: object) -> Iterator[Verifier]:
    """Run the auth service, with the Redis and the credentials in this folder."""
    port = port or free_port()
    document = {
        "issuer": ISSUER,
        "identity_provider": {"type": "github", "client_id": "x"},
        "redis_url": f"unix://{folder / 'redis.sock'}",
        "state_directory": str(folder),
        "listen": f"127.0.0.1:{port}",
        "router": {"entry_points": ["web"]},
        "resources": {"time": {"url": RESOURCE, "backends": ["http://127.0.0.1:1/mcp"]}},
        **settings,
    }
    (folder / "settings.json").write_text(json.dumps(document))
    command = [sys.executable, "-m", "auth_service", "--settings", str(folder / "settings.json")]
    with _running("ours", port, "/verify/time", [*command, "--credentials", str(folder)], folder) as verifier:
        yield verifier


def write_credentials(folder: Path) -> None:
    """Write what `ours` takes for secrets."""
    (folder / "client-secret").write_text("x")
    (folder / "master-key").write_text("m" * 40)


class OurTokens:
    """Makes tokens that our service takes or refuses."""

    def __init__(self, folder: Path, store: redis.Redis) -> None:
        write_credentials(folder)
        self._keys = SigningKeys(folder / "signing-keys", load_credentials(folder))
        self._store = store

    def live(self, count: int) -> list[str]:
        """Return tokens, each of a grant of its own."""
        sids = self.add_grants(count)
        return [self.token(sid) for sid in sids]

    def add_grants(self, count: int) -> list[str]:
        """Put grants into Redis."""
        sids = [secrets.token_urlsafe(24) for _ in range(count)]
        with self._store.pipeline(transaction=False) as pipeline:
            for sid in sids:
                pipeline.set(f"grant:{sid}", "{}")
            pipeline.execute()
        return sids

    def token(self, sid: str = "gone", *, age: int = 0) -> str:
        """Return the token of a grant."""
        return issue_access_token(
            self._keys,
            issuer=ISSUER,
            sub="github:583231",
            name="octocat",
            client_id=f"mcp_{secrets.token_urlsafe(16)}",
            scope="mcp",
            resource=RESOURCE,
            sid=sid,
            lifetime=3600,
            now=int(time.time()) - age,
        )

    def forged(self, count: int) -> list[str]:
        """Return tokens whose signatures are wrong."""
        return [
            f"{head}.{signature[::-1]}" for head, _, signature in (self.token().rpartition(".") for _ in range(count))
        ]


@contextmanager
def rival(folder: Path) -> Iterator[Verifier]:
    """Run the seed project's auth service as it is meant to be, but without a log line for each request."""
    port = free_port()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "rival.pem").write_bytes(pem)
    environment = {
        "GITHUB_CLIENT_ID": "x",
        "GITHUB_CLIENT_SECRET": "x",
        "JWT_SECRET": "x",
        "JWT_ALGORITHM": "RS256",
        "JWT_PRIVATE_KEY_B64": base64.b64encode(pem).decode(),
        "BASE_DOMAIN": "example.com",
        "REDIS_URL": f"unix://{folder / 'redis.sock'}",
        "REDIS_PASSWORD": "",
        "ACCESS_TOKEN_LIFETIME": "3600",
        "REFRESH_TOKEN_LIFETIME": "3600",
        "SESSION_TIMEOUT": "300",
        "CLIENT_LIFETIME": "0",
        "ALLOWED_GITHUB_USERS": "*",
        "MCP_PROTOCOL_VERSION": "2025-06-18",
        "LOG_LEVEL": "WARNING",
    }
    python = report.ROOT / ".cache" / "bench" / RIVAL / "bin" / "python"
    command = [str(python), "-m", "uvicorn", "mcp_oauth_dynamicclient.server:app", "--port", str(port)]
    command += ["--no-access-log", "--log-level", "warning"]
    with _running(RIVAL, port, "/verify", command, folder, environment=environment) as verifier:
        yield verifier


def rival_tokens(folder: Path, store: redis.Redis, count: int) -> list[str]:
    """Return tokens that the rival takes."""
    pem = (folder / "rival.pem").read_text()
    tokens = []
    for _ in range(count):
        now, jti, issuer = int(time.time()), secrets.token_urlsafe(16), "https://auth.example.com"
        claims = {"sub": "583231", "username": "octocat", "jti": jti, "iat": now, "exp": now + 3600}
        tokens.append(jwt.encode({**claims, "iss": issuer, "aud": issuer}, pem, algorithm="RS256"))
        store.set(f"oauth:token:{jti}", json.dumps(claims))
    return tokens


@contextmanager
def routed(folder: Path, verifiers: Sequence[Verifier]) -> Iterator[list[Verifier]]:
    """Run one Traefik that asks them as our routes say, each for a host of its own; the last verifies nothing."""
    port = free_port()
    routes = dynamic_configuration(load_settings(folder / "settings.json"))
    forward_auth = routes["http"]["middlewares"]["mcp-time.auth"]["forwardAuth"]
    routers: dict[str, object] = {"nobody": {"rule": "Host(`nobody.test`)", "service": "ping@internal"}}
    middlewares = {}
    for number, each in enumerate(verifiers):
        name = f"verifier{number}"
        middlewares[name] = {"forwardAuth": {**forward_auth, "address": f"http://127.0.0.1:{each.port}{each.path}"}}
        routers[name] = {"rule": f"Host(`{name}.test`)", "service": "ping@internal", "middlewares": [name]}
    dynamic, static = folder / "dynamic.yaml", folder / "traefik.yaml"  # of which JSON is a part
    dynamic.write_text(json.dumps({"http": {"routers": routers, "middlewares": middlewares}}))
    static.write_text(
        json.dumps(
            {
                "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
                "entryPoints": {"web": {"address": f"127.0.0.1:{port}"}},
                "ping": {"manualRouting": True},
                "providers": {"file": {"filename": str(dynamic)}},
            }
        )
    )
    command = [require_program("traefik", needed_by="the measurements"), f"--configFile={static}"]
    with _running("Traefik", port, "/mcp", command, folder) as router:
        _wait_for(lambda: requests.get(f"http://127.0.0.1:{port}", headers={"Host": "nobody.test"}, timeout=5).ok)
        yield [
            *(
                replace(each, name=f"Traefik, {each.name}", port=port, path="/mcp", host=f"verifier{number}.test")
                for number, each in enumerate(verifiers)
            ),
            replace(router, name="Traefik, no verification", host="nobody.test"),
        ]


@contextmanager
def _running(
    name: str,
    port: int,
    path: str,
    command: Sequence[str],
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Verifier]:
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=report.ROOT, env={**os.environ, **(environment or {})}, stdout=log, stderr=log
        )
    try:
        _wait_for(lambda: _listens(port))
        yield Verifier(name, port, path, process)
    finally:
        process.terminate()
        process.wait()


def _wait_for(condition: object) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not (callable(condition) and condition()):
        if time.monotonic() > deadline:
            raise RuntimeError("it did not start in time")
        time.sleep(0.05)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
