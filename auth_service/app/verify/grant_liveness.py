"""Know whether a grant is live without asking Redis each time, and know when that knowledge ends.

One connection per worker has Redis report every write to, expiry of and flush of the grants' keys (CLIENT TRACKING in
broadcast mode, Redis 6). Silence on it proves nothing, so it has a heartbeat: Redis answers in order, so the answer to
a command proves that all changes before it were reported. The proof is valid for REVOCATION_SECONDS. Without it a
worker asks Redis for each request, in one batch for all that wait. A late heartbeat may come from a busy machine and
refuses no request: a request is refused when Redis has not answered its question twice.

The same connection reports grants that hosts deny (`denials`), whatever Redis says about them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from itertools import repeat
from typing import Any, Final
from weakref import WeakValueDictionary

from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool, SentinelManagedConnection
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from auth_service.ops.outages import Outage
from auth_service.protocol.errors import ServiceUnavailable
from auth_service.storage.denials import CHANNEL, Denials
from auth_service.storage.grants import REVOCATION_SECONDS
from auth_service.storage.key_names import GRANT_PREFIX
from auth_service.storage.redis_client import connect_async

HEARTBEAT_SECONDS: Final = 0.04
ANSWER_TIMEOUT_SECONDS: Final = 1.0
ATTEMPT_SECONDS: Final = 0.9
"""How long a question waits for Redis before it is asked again on a new connection."""
ATTEMPTS: Final = 2
QUESTION_SECONDS: Final = ATTEMPTS * ATTEMPT_SECONDS
"""A request is refused after this time, before the router asks another host (modules/config/traefik.nix)."""
RECONNECT_SECONDS: Final = 0.2
MASTER_CHECK_SECONDS: Final = 1.0

_INVALIDATIONS: Final = "__redis__:invalidate"
_LOST: Final = (RedisError, OSError, RuntimeError)
"""The errors of a lost connection. uvloop raises RuntimeError if the connection has ended with an error before."""

log = logging.getLogger(__name__)


class GrantLiveness:
    """The knowledge of this worker about one grant, shared by all its tokens and dropped with the last."""

    __slots__ = ("__weakref__", "found_alive", "is_denied", "sid")

    def __init__(self, sid: str, *, is_denied: bool) -> None:
        self.sid = sid
        self.is_denied = is_denied
        """Whether it is denied, whatever Redis says. This never changes back."""
        self.found_alive: bool | None = None
        """The last answer of Redis, unless a change was reported since."""


class GrantWatch:
    """The grants of one Redis, watched from one event loop."""

    def __init__(self, redis_url: str, denials: Denials, *, password: str | None = None) -> None:
        self._outage = Outage(log, "redis.lost: asking for each request", over="redis.back: grants are watched again")
        self._denials = denials
        denials.on_new = self._note_denied
        self._redis = connect_async(
            redis_url,
            password=password,
            socket_timeout=ANSWER_TIMEOUT_SECONDS,
            socket_connect_timeout=ANSWER_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),  # `is_alive` asks again
            protocol=2,
        )
        self._pool = self._redis.connection_pool
        self._grants: WeakValueDictionary[str, GrantLiveness] = WeakValueDictionary()
        self._changes_seen = 0
        self._questions: dict[str, asyncio.Future[bool | None]] = {}
        self._asking: asyncio.Task[None] | None = None
        self._writing: asyncio.Future[None] | None = None
        self.trusted_until = 0.0
        """Until when, on the monotonic clock, `found_alive` of grants may be used."""

    def is_watching(self) -> bool:
        """Whether every change of a grant is reported, which implies that Redis answers."""
        return time.monotonic() < self.trusted_until

    def grant(self, sid: str) -> GrantLiveness:
        """Return the knowledge about a grant: the same object as long as it is in use."""
        return self._grants.setdefault(sid, GrantLiveness(sid, is_denied=sid in self._denials))

    def find_alive(self, grant: GrantLiveness) -> bool | None:
        """Whether the grant is live, or None if Redis must be asked."""
        if grant.is_denied:
            return False
        return grant.found_alive if self.is_watching() else None

    async def is_alive(self, grant: GrantLiveness) -> bool:
        """Whether the grant is live, from valid knowledge, or else by asking Redis.

        Raises ServiceUnavailable if Redis does not answer in time, on a new connection either.
        """
        until = time.monotonic() + QUESTION_SECONDS
        for _ in range(ATTEMPTS):
            self._denials.refresh()
            if (known := self.find_alive(grant)) is not None:
                return known
            question = self._ask_about(grant)
            # The question stays open if this ends: others may wait for the same answer.
            await asyncio.wait({question}, timeout=until - time.monotonic())
            if not question.done():
                break
            if (answer := question.result()) is not None:
                return answer and not grant.is_denied
        raise ServiceUnavailable("Redis")

    async def is_reachable(self) -> bool:
        """Whether Redis answers, also if it does so later than a heartbeat allows."""
        try:
            return self.is_watching() or not await self.is_alive(GrantLiveness("", is_denied=False))
        except ServiceUnavailable:
            return False

    def _ask_about(self, grant: GrantLiveness) -> asyncio.Future[bool | None]:
        """Return the future answer of Redis, which is None without one."""
        question = self._questions.get(grant.sid)
        if question is None:
            question = self._questions[grant.sid] = asyncio.get_running_loop().create_future()
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._ask())
        return question

    async def _ask(self) -> None:
        """Ask all open questions at once. Those that arrive meanwhile are asked in the next round.

        Redis' round trip costs the same for one as for all that are waiting.
        """
        while self._questions:
            questions, self._questions = self._questions, {}
            changes_seen = self._changes_seen
            answers: list[bool] | None = None
            try:
                answers = await self._find_existing(questions)
            finally:
                # A change that is reported meanwhile may be the end of a grant just after the answer.
                self._settle(questions, answers, remember=changes_seen == self._changes_seen)

    async def _find_existing(self, sids: Iterable[str]) -> list[bool] | None:
        """Return for each grant whether Redis has it, or None if Redis does not answer.

        Then the connection is closed. It may have been dead for a long time: a host without power or network is silent,
        and redis-py notices the end of a connection only when it writes.
        """
        pipeline = self._redis.pipeline(transaction=False)
        for sid in sids:
            pipeline.exists(GRANT_PREFIX + sid)
        with suppress(*_LOST):
            async with _background(pipeline.execute()) as execution:
                # An answer that has arrived counts, even if this process was stopped for longer than the time-out.
                await asyncio.wait({execution}, timeout=ATTEMPT_SECONDS)
                return [bool(found) for found in execution.result()] if execution.done() else None
        return None

    def _settle(
        self, questions: dict[str, asyncio.Future[bool | None]], answers: list[bool] | None, *, remember: bool
    ) -> None:
        for (sid, question), answer in zip(questions.items(), answers or repeat(None), strict=False):
            grant = self._grants.get(sid)
            if grant is not None:
                grant.found_alive = answer if remember else None
            if not question.done():
                question.set_result(answer)

    async def run(self) -> None:
        """Watch until cancelled, with a new connection after each lost one."""
        while True:
            connection = self._pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py left it out
            try:
                await self._watch(connection)
            except _LOST as error:
                self._outage.failed(error)
            finally:
                self.trusted_until = 0.0
                await connection.disconnect(nowait=True)
                if isinstance(self._pool, SentinelConnectionPool):
                    await self._pool.disconnect()  # the next question must look up the master again
            await asyncio.sleep(RECONNECT_SECONDS)

    async def close(self) -> None:
        """Close the connections of `is_alive`."""
        if self._asking is not None:
            self._asking.cancel()
        await self._pool.disconnect()

    async def _watch(self, connection: AbstractConnection) -> None:
        await connection.connect()  # type: ignore[no-untyped-call]  # as above
        client_id = await _call(connection, "CLIENT", "ID")
        await _call(connection, "CLIENT", "TRACKING", "ON", "REDIRECT", client_id, "BCAST", "PREFIX", GRANT_PREFIX)
        await _call(connection, "SUBSCRIBE", CHANNEL, _INVALIDATIONS)
        await connection.read_response()  # each channel has its own reply
        # Changes before this moment were not reported.
        self._forget_all()
        log.debug("redis.watching: grants are watched")
        sent: deque[float] = deque()
        async with _background(self._beat(connection, sent)), _background(self._check_master(connection)):
            while True:
                match await connection.read_response():
                    case [b"subscribe", *_]:
                        self._denials.refresh()
                        self._outage.worked()
                        self.trusted_until = sent.popleft() + REVOCATION_SECONDS
                    case [b"message", channel, sids] if channel == CHANNEL.encode():
                        self._hear_denied(sids)
                    case [b"message", _, None]:  # FLUSHDB or FLUSHALL
                        self._forget_all()
                    case [b"message", _, keys]:
                        for key in keys:
                            self._forget(key.decode().removeprefix(GRANT_PREFIX))

    async def _beat(self, connection: AbstractConnection, sent: deque[float]) -> None:
        while True:
            sent.append(time.monotonic())
            # Redis refuses PING while it cannot write to its disk. It does not refuse this, which changes nothing.
            await connection.send_command("SUBSCRIBE", _INVALIDATIONS, check_health=False)
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _check_master(self, connection: AbstractConnection) -> None:
        """Close the connection when no Sentinel says any more that it leads to the master.

        A master that was cut off goes on answering, and does not know what its successor has revoked.
        """
        pool = self._pool
        while isinstance(pool, SentinelConnectionPool) and isinstance(connection, SentinelManagedConnection):
            try:
                master = await pool.get_master_address()  # type: ignore[no-untyped-call]  # as above
            except _LOST:
                master = None
            if master != (connection.host, connection.port):
                self._outage.failed(f"{connection.host}:{connection.port} is not the master any more")
                await connection.disconnect(nowait=True)
                return
            await asyncio.sleep(MASTER_CHECK_SECONDS)

    def _hear_denied(self, message: bytes) -> None:
        """Deny grants that another host has ended, and write them to the file of this host."""
        sids = message.decode("ascii", "replace").split(" ")
        self._denials.refresh()
        unknown = [sid for sid in sids if sid not in self._denials]
        if unknown:
            self._denials.hear(unknown)
            self._writing = asyncio.ensure_future(asyncio.to_thread(self._write_denied, unknown))

    def _write_denied(self, sids: list[str]) -> None:
        try:
            self._denials.add(sids)
        except OSError as error:
            log.warning("revocation.undurable: it may be lost if this host fails: %s", error)

    def _note_denied(self, sids: Iterable[str]) -> None:
        for sid in sids:
            grant = self._grants.get(sid)
            if grant is not None:
                grant.is_denied = True

    def _forget(self, sid: str) -> None:
        self._changes_seen += 1
        grant = self._grants.get(sid)
        if grant is not None:
            grant.found_alive = None

    def _forget_all(self) -> None:
        self._changes_seen += 1
        for grant in self._grants.values():
            grant.found_alive = None


async def _call(connection: AbstractConnection, *command: Any) -> Any:
    await connection.send_command(*command, check_health=False)
    return await connection.read_response()


@asynccontextmanager
async def _background(coroutine: Coroutine[Any, Any, Any]) -> AsyncIterator[asyncio.Task[Any]]:
    """Run a task during the context, and end it with the context."""
    task = asyncio.create_task(coroutine)
    try:
        yield task
    finally:
        while not task.done():
            task.cancel()
            # Again, as a task may swallow a cancellation, for example while it makes a connection.
            await asyncio.wait({task}, timeout=RECONNECT_SECONDS)
        if not task.cancelled():
            task.exception()  # already noticed by its effects; otherwise asyncio logs it
