"""Knowing that a grant still lives without asking Redis each time, and knowing when that knowledge ends.

One connection per worker has Redis report every write to, expiry of and flush of the grants' keys (CLIENT TRACKING in
broadcast mode, Redis 6). Silence on it proves nothing by itself, so it carries a heartbeat: Redis answers in order,
hence an answered command proves that everything before it was reported. That proof is good for REVOCATION_SECONDS;
without it a worker asks Redis for each request, in one go for all that wait. A heartbeat that is late may only be
that of a busy machine, and refuses nobody: a request is refused once Redis has left its question open twice.

The same connection tells of grants that hosts deny (`denials`), whatever Redis says of them.
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
"""A request is refused after this: before the router asks another host instead (modules/config/traefik.nix)."""
RECONNECT_SECONDS: Final = 0.2
MASTER_CHECK_SECONDS: Final = 1.0

_INVALIDATIONS: Final = "__redis__:invalidate"
_LOST: Final = (RedisError, OSError, RuntimeError)
"""What a lost connection raises. uvloop raises RuntimeError on use of one that has ended with an error meanwhile."""

log = logging.getLogger(__name__)


class GrantLiveness:
    """What this worker knows of one grant. Shared by all tokens of the grant, dropped with the last."""

    __slots__ = ("__weakref__", "found_alive", "is_denied", "sid")

    def __init__(self, sid: str, *, is_denied: bool) -> None:
        self.sid = sid
        self.is_denied = is_denied
        """Whether it has ended, whatever Redis says. That lasts."""
        self.found_alive: bool | None = None
        """What Redis last said, unless a change has been reported since."""


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
        """Until when, on the monotonic clock, `Grant.found_alive` may be believed."""

    def is_watching(self) -> bool:
        """Whether every change to a grant is being reported, which implies that Redis answers."""
        return time.monotonic() < self.trusted_until

    def grant(self, sid: str) -> GrantLiveness:
        """Return what is known of a grant; the same object for as long as anyone holds it."""
        return self._grants.setdefault(sid, GrantLiveness(sid, is_denied=sid in self._denials))

    def find_alive(self, grant: GrantLiveness) -> bool | None:
        """Whether the grant lives, or None if only Redis knows."""
        if grant.is_denied:
            return False
        return grant.found_alive if self.is_watching() else None

    async def is_alive(self, grant: GrantLiveness) -> bool:
        """Whether the grant lives, from what is known if that can be believed, else by asking Redis.

        Raises ServiceUnavailable if Redis does not answer in time, on a new connection either.
        """
        until = time.monotonic() + QUESTION_SECONDS
        for _ in range(ATTEMPTS):
            self._denials.refresh()
            if (known := self.find_alive(grant)) is not None:
                return known
            question = self._ask_about(grant)
            # This leaves the question open when it ends: others may wait for the same answer.
            await asyncio.wait({question}, timeout=until - time.monotonic())
            if not question.done():
                break
            if (answer := question.result()) is not None:
                return answer and not grant.is_denied
        raise ServiceUnavailable("Redis")

    async def is_reachable(self) -> bool:
        """Whether Redis answers, be it later than a heartbeat has to be answered."""
        try:
            return self.is_watching() or not await self.is_alive(GrantLiveness("", is_denied=False))
        except ServiceUnavailable:
            return False

    def _ask_about(self, grant: GrantLiveness) -> asyncio.Future[bool | None]:
        """Return what Redis will answer; None if it does not."""
        question = self._questions.get(grant.sid)
        if question is None:
            question = self._questions[grant.sid] = asyncio.get_running_loop().create_future()
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._ask())
        return question

    async def _ask(self) -> None:
        """Answer all questions; those that arrive while Redis answers are the next round's.

        Redis' round trip costs the same for one as for all that are waiting.
        """
        while self._questions:
            questions, self._questions = self._questions, {}
            changes_seen = self._changes_seen
            answers: list[bool] | None = None
            try:
                answers = await self._find_existing(questions)
            finally:
                # A change reported while we asked may be a grant's end, with the answer from just before it.
                self._settle(questions, answers, remember=changes_seen == self._changes_seen)

    async def _find_existing(self, sids: Iterable[str]) -> list[bool] | None:
        """Return for each grant whether Redis has it, or None if Redis does not answer.

        Its connection is closed then, and may have been dead for long: a host without power or network is silent, and
        when keepalive has ended the connection, redis-py notices that only when it writes.
        """
        pipeline = self._redis.pipeline(transaction=False)
        for sid in sids:
            pipeline.exists(GRANT_PREFIX + sid)
        with suppress(*_LOST):
            async with _background(pipeline.execute()) as execution:
                # An answer that is there counts, even if this process was kept from running for longer than that.
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
        """Watch until cancelled, over as many connections as it takes."""
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
                    await self._pool.disconnect()  # whoever asks next is to learn who the master is
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
        await connection.read_response()  # each channel has a reply of its own
        # What changed before this moment was reported to nobody.
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
            # PING is refused while Redis cannot write to its disk. This is not, and changes nothing.
            await connection.send_command("SUBSCRIBE", _INVALIDATIONS, check_health=False)
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _check_master(self, connection: AbstractConnection) -> None:
        """Hang up when no Sentinel says any more that this connection leads to the master.

        A master that was cut off goes on answering, and knows nothing of what its successor has revoked.
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
        """Deny what another host has ended, and write it down on this one."""
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
            log.warning("revocation.undurable: this host may forget it when it fails: %s", error)

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
    """Run something beside what the context holds, and see that it ends with that."""
    task = asyncio.create_task(coroutine)
    try:
        yield task
    finally:
        while not task.done():
            task.cancel()
            # Again where something on the way, such as a connection that was just being made, has swallowed it.
            await asyncio.wait({task}, timeout=RECONNECT_SECONDS)
        if not task.cancelled():
            task.exception()  # known by what it cost; else asyncio logs it
