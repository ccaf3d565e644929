"""When a worker knows that a grant is live, and when it must ask Redis."""

from __future__ import annotations

import asyncio
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Self

import pytest
import redis
import uvloop

from auth_service.app.verify import grant_liveness
from auth_service.app.verify.grant_liveness import GrantWatch
from auth_service.protocol.errors import ServiceUnavailable
from auth_service.storage.denials import Denials
from auth_service.storage.key_names import GRANT_PREFIX
from tests.conftest import RedisServer

WAIT_SECONDS = 60
LONG_PROOF_SECONDS = 600.0


@pytest.fixture
def own_redis(tmp_path: Path) -> RedisServer:
    """A running Redis that the test may stop, hang or empty."""
    server = RedisServer(tmp_path)
    server.start()
    return server


class Relay:
    """Redis on another host: on the way there, connections may go silent or break, while new ones work."""

    def __init__(self, server: RedisServer) -> None:
        self._redis = server.socket
        self._relay: asyncio.Server | None = None
        self._links: list[tuple[asyncio.StreamWriter, asyncio.Event]] = []
        self._pumps: set[asyncio.Task[None]] = set()
        self.port = 0
        self.takes_connections = True
        """Whether new connections lead anywhere."""

    async def __aenter__(self) -> Self:
        self._relay = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = self._relay.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._relay is not None
        self._relay.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    @property
    def connections(self) -> int:
        """How many there have been."""
        return len(self._links)

    def silence(self) -> None:
        """Let nothing through any more on the connections that there are, and tell neither end."""
        for _, passes in self._links:
            passes.clear()

    def reset(self) -> None:
        """Break the connections that there are, with an error."""
        for client, _ in self._links:
            # Closing does not take leave then (socket(7)).
            client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passes = asyncio.Event()
        self._links.append((writer, passes))
        if self.takes_connections:
            passes.set()
        from_redis, to_redis = await asyncio.open_unix_connection(self._redis)
        for source, target in ((reader, to_redis), (from_redis, writer)):
            pump = asyncio.create_task(self._pump(source, target, passes))
            self._pumps.add(pump)

    @staticmethod
    async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, passes: asyncio.Event) -> None:
        try:
            with suppress(OSError):
                while chunk := await source.read(65536):
                    await passes.wait()
                    target.write(chunk)
        finally:
            target.close()


@asynccontextmanager
async def watching(server: RedisServer, url: str | None = None) -> AsyncIterator[GrantWatch]:
    watch = GrantWatch(url or server.url, Denials(server.socket.parent))
    task = asyncio.create_task(watch.run())
    try:
        await eventually(watch.is_watching)
        yield watch
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await watch.close()


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.005)


def play(server: RedisServer, scene: Callable[[GrantWatch, redis.Redis], Awaitable[None]]) -> None:
    """Run a scene with a watch over this Redis, and stop that Redis after it."""

    async def run() -> None:
        async with watching(server) as watch:
            await scene(watch, client)

    try:
        with server.client() as client:
            asyncio.run(run())
    finally:
        server.stop()


def play_through_relay(
    server: RedisServer,
    scene: Callable[[GrantWatch, redis.Redis, Relay], Awaitable[None]],
    *,
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """As `play`, with a way to Redis that the scene may disturb."""

    async def run() -> None:
        async with Relay(server) as relay, watching(server, f"redis://127.0.0.1:{relay.port}") as watch:
            await scene(watch, client, relay)

    try:
        with server.client() as client, asyncio.Runner(loop_factory=loop) as runner:
            runner.run(run())
    finally:
        server.stop()


# Workers run on uvloop, whose connections fail in another way.
both_loops = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


@pytest.fixture
def long_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a heartbeat proves is valid for longer than the test takes, however busy the machine is."""
    monkeypatch.setattr(grant_liveness, "REVOCATION_SECONDS", LONG_PROOF_SECONDS)


async def all_is_reported(watch: GrantWatch) -> None:
    """Wait until Redis has answered a heartbeat that was sent after this was called; needs `long_proof`."""
    now = time.monotonic()
    await eventually(lambda: watch.trusted_until > now + LONG_PROOF_SECONDS)


def questions_asked(client: redis.Redis) -> int:
    statistics: dict[str, dict[str, int]] = client.info("commandstats")
    return statistics.get("cmdstat_exists", {"calls": 0})["calls"]


@pytest.mark.usefixtures("long_proof")
def test_what_redis_has_said_is_believed_until_it_reports_a_change(own_redis: RedisServer) -> None:
    async def scene(watch: GrantWatch, client: redis.Redis) -> None:
        client.set(GRANT_PREFIX + "a", "{}")
        await all_is_reported(watch)
        grant = watch.grant("a")
        assert watch.find_alive(grant) is None
        assert await watch.is_alive(grant)
        asked = questions_asked(client)
        for _ in range(10):
            assert watch.find_alive(grant)
            assert await watch.is_alive(grant)
        assert questions_asked(client) == asked
        client.delete(GRANT_PREFIX + "a")
        await eventually(lambda: not watch.find_alive(grant))
        assert not await watch.is_alive(grant)

    play(own_redis, scene)


@pytest.mark.usefixtures("long_proof")
def test_a_dead_grant_is_remembered_too_until_it_is_back(own_redis: RedisServer) -> None:
    async def scene(watch: GrantWatch, client: redis.Redis) -> None:
        grant = watch.grant("a")
        assert not await watch.is_alive(grant)
        assert watch.find_alive(grant) is False
        client.set(GRANT_PREFIX + "a", "{}")  # as a restored backup would
        await eventually(lambda: watch.find_alive(grant) is None)
        assert await watch.is_alive(grant)

    play(own_redis, scene)


@pytest.mark.usefixtures("long_proof")
def test_a_hundred_who_wait_for_one_grant_ask_once(own_redis: RedisServer) -> None:
    async def scene(watch: GrantWatch, client: redis.Redis) -> None:
        client.set(GRANT_PREFIX + "a", "{}")
        await all_is_reported(watch)
        grant = watch.grant("a")
        asked = questions_asked(client)
        assert all(await asyncio.gather(*(watch.is_alive(grant) for _ in range(100))))
        assert questions_asked(client) == asked + 1

    play(own_redis, scene)


def test_each_gets_the_answer_to_its_own_question(own_redis: RedisServer) -> None:
    async def scene(watch: GrantWatch, client: redis.Redis) -> None:
        for number in range(0, 100, 2):
            client.set(f"{GRANT_PREFIX}{number}", "{}")
        grants = [watch.grant(str(number)) for number in range(100)]
        answers = await asyncio.gather(*(watch.is_alive(grant) for grant in grants))
        assert answers == [number % 2 == 0 for number in range(100)]

    play(own_redis, scene)


def test_one_who_hangs_up_leaves_the_others_their_answer(own_redis: RedisServer) -> None:
    async def scene(watch: GrantWatch, client: redis.Redis) -> None:
        client.set(GRANT_PREFIX + "a", "{}")
        grant = watch.grant("a")
        gone, waiting = (asyncio.create_task(watch.is_alive(grant)) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        assert await waiting

    play(own_redis, scene)


def test_a_redis_that_hangs_is_not_trusted_and_is_used_again_when_it_answers(own_redis: RedisServer) -> None:
    async def scene(watch: GrantWatch, client: redis.Redis) -> None:
        client.set(GRANT_PREFIX + "a", "{}")
        grant = watch.grant("a")
        assert await watch.is_alive(grant)
        own_redis.signal(signal.SIGSTOP)
        try:
            await eventually(lambda: not watch.is_watching())
            with pytest.raises(ServiceUnavailable):
                await watch.is_alive(grant)
        finally:
            own_redis.signal(signal.SIGCONT)
        await eventually(watch.is_watching)
        assert await watch.is_alive(grant)

    play(own_redis, scene)


def test_a_redis_that_comes_back_empty_has_no_grants(own_redis: RedisServer) -> None:
    async def scene(watch: GrantWatch, client: redis.Redis) -> None:
        client.set(GRANT_PREFIX + "a", "{}")
        grant = watch.grant("a")
        assert await watch.is_alive(grant)
        own_redis.stop()
        await eventually(lambda: not watch.is_watching())
        with pytest.raises(ServiceUnavailable):
            await watch.is_alive(grant)
        own_redis.start()
        await eventually(watch.is_watching)
        assert not await watch.is_alive(grant)

    play(own_redis, scene)


@pytest.mark.parametrize("command", ["FLUSHALL", "FLUSHDB"])
def test_an_emptied_redis_has_no_grants(own_redis: RedisServer, command: str) -> None:
    async def scene(watch: GrantWatch, client: redis.Redis) -> None:
        client.set(GRANT_PREFIX + "a", "{}")
        grant = watch.grant("a")
        assert await watch.is_alive(grant)
        client.execute_command(command)  # type: ignore[no-untyped-call]  # redis-py left it out
        await eventually(lambda: not watch.find_alive(grant))
        assert not await watch.is_alive(grant)

    play(own_redis, scene)


@both_loops
@pytest.mark.parametrize("disturb", [Relay.silence, Relay.reset], ids=lambda disturb: disturb.__name__)
def test_a_connection_that_has_died_unnoticed_costs_no_request_its_answer(
    own_redis: RedisServer, disturb: Callable[[Relay], None], loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def scene(watch: GrantWatch, client: redis.Redis, relay: Relay) -> None:
        client.set(GRANT_PREFIX + "a", "{}")
        assert await watch.is_alive(watch.grant("a"))  # over a connection that is kept for the next question
        before = relay.connections
        disturb(relay)
        await eventually(lambda: not watch.is_watching())
        alive, dead = await asyncio.gather(watch.is_alive(watch.grant("a")), watch.is_alive(watch.grant("b")))
        assert alive
        assert not dead
        assert relay.connections > before
        await eventually(watch.is_watching)
        client.delete(GRANT_PREFIX + "a")
        await eventually(lambda: watch.find_alive(watch.grant("a")) is not True)
        assert not await watch.is_alive(watch.grant("a"))

    play_through_relay(own_redis, scene, loop=loop)


@both_loops
def test_a_redis_that_no_connection_leads_to_refuses_each_request_until_one_does(
    own_redis: RedisServer, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def scene(watch: GrantWatch, client: redis.Redis, relay: Relay) -> None:
        client.set(GRANT_PREFIX + "a", "{}")
        assert await watch.is_alive(watch.grant("a"))
        assert await watch.is_reachable()
        relay.takes_connections = False
        relay.silence()
        await eventually(lambda: not watch.is_watching())
        answers = await asyncio.gather(*(watch.is_alive(watch.grant("a")) for _ in range(3)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [ServiceUnavailable] * 3
        assert not await watch.is_reachable()
        relay.takes_connections = True
        await eventually(watch.is_watching)
        assert await watch.is_alive(watch.grant("a"))
        assert await watch.is_reachable()

    play_through_relay(own_redis, scene, loop=loop)
