"""What a worker may believe of a grant without asking, and when it has to ask."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import redis

from auth_service.denials import Denials
from auth_service.errors import ServiceUnavailable
from auth_service.grant_watch import GrantWatch
from auth_service.store import GRANT_PREFIX
from tests.conftest import RedisServer

WAIT_SECONDS = 10


@pytest.fixture
def own_redis(tmp_path: Path) -> RedisServer:
    """A running Redis that the test may stop, hang or empty."""
    server = RedisServer(tmp_path)
    server.start()
    return server


@asynccontextmanager
async def watching(server: RedisServer) -> AsyncIterator[GrantWatch]:
    watch = GrantWatch(server.url, Denials(server.socket.parent))
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


def questions_asked(client: redis.Redis) -> int:
    statistics: dict[str, dict[str, int]] = client.info("commandstats")
    return statistics.get("cmdstat_exists", {"calls": 0})["calls"]


def test_what_redis_has_said_is_believed_until_it_reports_a_change(own_redis: RedisServer) -> None:
    async def scene(watch: GrantWatch, client: redis.Redis) -> None:
        client.set(GRANT_PREFIX + "a", "{}")
        await asyncio.sleep(0.02)  # the report of that change
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


def test_a_dead_grant_is_remembered_too_until_it_is_back(own_redis: RedisServer) -> None:
    async def scene(watch: GrantWatch, client: redis.Redis) -> None:
        grant = watch.grant("a")
        assert not await watch.is_alive(grant)
        assert watch.find_alive(grant) is False
        client.set(GRANT_PREFIX + "a", "{}")  # as a restored backup would
        await eventually(lambda: watch.find_alive(grant) is None)
        assert await watch.is_alive(grant)

    play(own_redis, scene)


def test_a_hundred_who_wait_for_one_grant_ask_once(own_redis: RedisServer) -> None:
    async def scene(watch: GrantWatch, client: redis.Redis) -> None:
        client.set(GRANT_PREFIX + "a", "{}")
        await asyncio.sleep(0.02)
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


def test_a_redis_that_hangs_is_believed_no_longer_and_found_again_when_it_goes_on(own_redis: RedisServer) -> None:
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
