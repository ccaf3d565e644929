"""The auth service as it runs: Gunicorn with several workers, a Redis that can be disturbed, the stand-in GitHub."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import jwt
import psutil
import pytest
import redis
import requests
from werkzeug.serving import make_server

from local import github
from local.ports import free_port
from tests.conftest import RedisServer
from tests.e2e.flow import Tokens, log_in

from .proxy import RedisProxy

PROJECT = Path(__file__).parents[2]
WAIT_SECONDS = 60
WORKERS = 3


def forward_auth_headers(token: str) -> dict[str, str]:
    """Return what Traefik's ForwardAuth sends for a request with a token."""
    return {"Authorization": f"Bearer {token}", "X-Forwarded-Method": "POST", "X-Forwarded-Uri": "/time/mcp"}


class Connection:
    """A connection that stays open, so that one worker answers all of its requests."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)

    def verify(self, token: str) -> int:
        """Return the status that ForwardAuth gets for a token."""
        return self.get("/verify/time", forward_auth_headers(token))

    def get(self, path: str, headers: dict[str, str] | None = None) -> int:
        """Return the status of a GET request."""
        return self._ask("GET", path, headers=headers or {})

    def post(self, path: str, form: str) -> int:
        """Return the status of a form's submission."""
        return self._ask("POST", path, body=form, headers={"Content-Type": "application/x-www-form-urlencoded"})

    def _ask(self, method: str, path: str, *, body: str | None = None, headers: dict[str, str]) -> int:
        self._http.request(method, path, body=body, headers=headers)
        with self._http.getresponse() as answer:
            answer.read()
            return answer.status

    def close(self) -> None:
        """Hang up."""
        self._http.close()


class Service:
    """A running auth service."""

    def __init__(
        self,
        folder: Path,
        *,
        redis_url: str,
        github_url: str,
        workers: int,
        ready: bool = True,
        within: Sequence[str] = (),
        environment: Mapping[str, str] = MappingProxyType({}),
        **changes: Any,
    ) -> None:
        """`within` is a command that runs the one that follows it."""
        self.port = free_port()
        self.issuer = f"http://localhost:{self.port}"
        self.resource = f"{self.issuer}/time/mcp"
        settings = {
            "issuer": self.issuer,
            "identity_provider": {"type": "github", "client_id": "app", "url": github_url, "api_url": github_url},
            "allowed": {"users": ["octocat", "hubot"]},
            "redis_url": redis_url,
            "state_directory": str(folder / "state"),
            "listen": f"127.0.0.1:{self.port}",
            "internal_url": f"http://127.0.0.1:{self.port}",
            "workers": workers,
            "router": {"entry_points": ["web"]},
            "resources": {"time": {"url": self.resource, "backends": ["http://127.0.0.1:1/mcp"]}},
        }
        (folder / "settings.json").write_text(json.dumps({**settings, **changes}))
        (folder / "client-secret").write_text("upstream-secret")
        (folder / "master-key").write_text("m" * 40)
        self.log = folder / "service.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    *within,
                    *(sys.executable, "-m", "auth_service"),
                    *("--settings", str(folder / "settings.json"), "--credentials", str(folder)),
                ],
                cwd=PROJECT,
                env={**os.environ, "NO_PROXY": "*", **environment},
                stdout=log,
                stderr=log,
            )
        try:
            if ready:
                eventually(lambda: len(self.workers()) == workers and self.is_ready(), self.log.read_text)
        except BaseException:
            self.stop()
            raise

    def workers(self) -> list[int]:
        """Return the process ids of the workers, oldest first."""
        return sorted(child.pid for child in psutil.Process(self.process.pid).children())

    def is_ready(self) -> bool:
        """Whether a worker answers that Redis does."""
        return self.get("/readyz") == 200

    def get(self, path: str) -> int | None:
        """Return the status of a GET request; None if nobody listens."""
        try:
            return requests.get(self.issuer + path, timeout=WAIT_SECONDS).status_code
        except requests.ConnectionError:
            return None

    def connect(self, worker: int) -> Connection:
        """Open a connection to this worker, which serves once this returns: the others sleep meanwhile."""
        others = [pid for pid in self.workers() if pid != worker]
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        try:
            connection = Connection(self.port)
            eventually(lambda: connection.get("/readyz") == 200, self.log.read_text)
        finally:
            for pid in others:
                os.kill(pid, signal.SIGCONT)
        return connection

    def connect_to_all(self) -> list[Connection]:
        """Open a connection to each worker."""
        return [self.connect(worker) for worker in self.workers()]

    def log_in(self) -> Tokens:
        """Go through a whole login."""
        return log_in(self.issuer, self.resource)

    def post(self, path: str, form: dict[str, str]) -> requests.Response:
        """Send a form."""
        return requests.post(self.issuer + path, data=form, timeout=WAIT_SECONDS)

    def stop(self) -> None:
        """Stop it as systemd does."""
        self.process.terminate()
        self.process.wait(WAIT_SECONDS)


class Place:
    """Everything around the service: its Redis, the way there, and the stand-in GitHub."""

    def __init__(self, folder: Path, *, data: Path | None = None) -> None:
        """With `data`, Redis keeps an append-only file there."""
        self._exit = ExitStack()
        self._folder = folder
        self.redis_password: str | None = None
        self.redis = RedisServer(folder, data=data)
        self.redis.start()
        self._exit.callback(self.redis.stop)
        self.proxy = RedisProxy(folder / "proxy.sock", self.redis.socket)
        self._exit.callback(self.proxy.close)
        self.github = github.StandIn("app", "upstream-secret", "", list(github.DEFAULT_USERS))
        server = make_server("127.0.0.1", 0, github.create_app(self.github), threaded=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        self._exit.callback(server.server_close)
        self._exit.callback(thread.join)
        self._exit.callback(server.shutdown)
        self._github_url = f"http://127.0.0.1:{server.server_port}"

    def start(
        self,
        *,
        host: str = ".",
        workers: int = WORKERS,
        through_proxy: bool = False,
        ready: bool = True,
        **changes: Any,
    ) -> Service:
        """Start the service, with other settings where that matters; `host` has a folder of its own for its state."""
        folder = self._folder / host
        folder.mkdir(exist_ok=True)
        if self.redis_password is not None:
            (folder / "redis-password").write_text(self.redis_password)
        settings = {"redis_url": self.proxy.url if through_proxy else self.redis.url, "workers": workers, **changes}
        service = Service(folder, github_url=self._github_url, ready=ready, **settings)
        self._exit.callback(service.stop)
        self.github.callback_url = f"{service.issuer}/callback"
        return service

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()


def eventually(condition: Callable[[], object], explain: Callable[[], object] = lambda: "it never came true") -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.02)


def sid_of(token: str) -> str:
    """Return the grant of an access token."""
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return str(claims["sid"])


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A place for a service that the test disturbs."""
    with Place(tmp_path) as place:
        yield place


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with several workers that tests leave as they find it."""
    with Place(tmp_path_factory.mktemp("service")) as place:
        yield place.start()


@pytest.fixture
def behind_its_back(service: Service) -> Iterator[redis.Redis]:
    """A client of the Redis of `service`."""
    url = json.loads((service.log.parent / "settings.json").read_text())["redis_url"]
    with redis.Redis.from_url(url, decode_responses=True) as client:
        yield client
