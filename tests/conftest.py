"""Fixtures that several folders share."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, settings

from local.stack import find_bundled_redis, find_redis
from tests.leftovers import Leftovers

# A machine that is busy with something else is no fault of what is tested.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

START_SECONDS = 60
LONGEST_FILES = ("test_units.py", "test_python.py")
"""Each takes minutes: in two processes from the beginning, they do not follow one another."""

# What a shell starts in its background, or with nohup, ignores these signals, and so would each program that tests
# start. What a process handles, its programs do not inherit.
for _number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda number, frame: None)


class RedisServer:
    """A Redis of its own on a unix socket, which tests may stop and start again.

    Of the oldest version that will do, where that is at hand: the local stack and the module's units run on newer ones.
    """

    def __init__(self, directory: Path, *, data: Path | None = None) -> None:
        """With `data`, it keeps an append-only file there, as the module's does."""
        self._directory = directory
        self._data = data
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = directory / "redis.sock"
        self.url = f"unix://{self.socket}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = subprocess.Popen(
            [
                find_bundled_redis() or find_redis(),
                *("--port", "0", "--unixsocket", str(self.socket), "--dir", str(self._data or self._directory)),
                *("--save", "", "--appendonly", "no" if self._data is None else "yes"),
                *("--logfile", str(self._directory / "redis.log")),
            ]
        )
        with self.client() as client:
            deadline = time.monotonic() + START_SECONDS
            while time.monotonic() < deadline and self._process.poll() is None:
                with contextlib.suppress(redis.ConnectionError):
                    client.ping()
                    return
                time.sleep(0.01)
        self.stop()
        raise RuntimeError((self._directory / "redis.log").read_text())

    def stop(self, *, keep: bool = False) -> None:
        """Stop it; what it held is gone, or `keep` it for the next start."""
        if self._process is not None:
            if keep:
                with self.client() as client:
                    client.save()
            self._process.terminate()
            self._process.wait(START_SECONDS)
            self._process = None

    def kill(self) -> None:
        """End it without a chance to write anything more."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(START_SECONDS)
        self._process = None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, SIGSTOP for instance."""
        assert self._process is not None
        self._process.send_signal(number)

    def client(self) -> redis.Redis:
        """Return a client for looking behind the service's back."""
        return redis.Redis.from_url(self.url, decode_responses=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, which is mostly waiting: everything else can be done beside it."""
    items.sort(key=lambda item: _turn(item.path))


def _turn(path: Path) -> int:
    if path.name in LONGEST_FILES:
        return LONGEST_FILES.index(path.name)
    return len(LONGEST_FILES) + ("systemd" not in path.parts)


@pytest.fixture(scope="session", autouse=True)
def _nothing_outlives_the_tests() -> Iterator[None]:
    """Fail where a process or thread is left when every other fixture is done."""
    leftovers = Leftovers()
    yield
    assert leftovers.end() == []


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real Redis for the whole run; each test that wants it empty uses `redis_url`."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of a real and empty Redis."""
    with redis_server.client() as client:
        client.flushall()
    return redis_server.url
