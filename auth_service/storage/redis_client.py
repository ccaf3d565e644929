"""The connection to Redis, or to the master that Redis Sentinel names. Every failure raises ServiceUnavailable."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.asyncio.sentinel
import redis.retry
import redis.sentinel
from redis.backoff import NoBackoff

from auth_service.protocol.errors import ServiceUnavailable, WritesRefused
from auth_service.settings import SENTINEL_URL

from .scripts import PROLONG

BATCH: Final = 1000
"""How many keys or commands go to Redis in one batch: it must not delay other requests."""
SENTINEL_TIMEOUT_SECONDS: Final = 0.5
_SOCKET_TIMEOUT: Final = 3
_REFUSAL: Final = re.compile(r"\b(MISCONF|NOREPLICAS|OOM|READONLY)\b")

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S")


def open_redis(url: str, *, password: str | None) -> redis.Redis:
    """Return the connections that all parts of the storage share, made when they are first used."""
    return connect(
        url,
        password=password,
        decode_responses=True,
        socket_timeout=_SOCKET_TIMEOUT,
        socket_connect_timeout=_SOCKET_TIMEOUT,
        retry=_retry_once(),
    )


def _retry_once() -> redis.retry.Retry:
    """Retry once at once, for connections that a restart of Redis has cut. More retries would queue up requests."""
    return redis.retry.Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))


def connect(url: str, *, password: str | None, **options: Any) -> redis.Redis:
    """Return a client that connects when it is first used."""
    found = SENTINEL_URL.fullmatch(url)
    if found is None:
        return redis.Redis.from_url(url, password=password, **options)
    make: Any = redis.sentinel.Sentinel
    connection = _TLSConnection if found["tls"] == "rediss" else _Connection
    client = _master(make, found, _retry_once(), password=password, connection_class=connection, **options)
    return cast("redis.Redis", client)


def connect_async(url: str, *, password: str | None, **options: Any) -> redis.asyncio.Redis:
    """As `connect`, for an event loop."""
    found = SENTINEL_URL.fullmatch(url)
    if found is None:
        return redis.asyncio.Redis.from_url(url, password=password, **options)
    make: Any = redis.asyncio.sentinel.Sentinel
    retry = redis.asyncio.retry.Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
    return cast("redis.asyncio.Redis", _master(make, found, retry, password=password, **options))


def is_replicated(url: str) -> bool:
    """Whether a write may be lost in a failover to a replica."""
    return SENTINEL_URL.fullmatch(url) is not None


_SENTINEL_OPTIONS = {
    "socket_timeout": SENTINEL_TIMEOUT_SECONDS,
    "socket_connect_timeout": SENTINEL_TIMEOUT_SECONDS,
    "decode_responses": True,
}


class _HangsUp:
    """Close a connection that did not answer in time.

    redis-py keeps connections that Sentinel manages. They would stay with a master that hangs, and its late reply would
    be taken for the reply to the next command.
    """

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        """Read a reply."""
        parent: Any = super()
        return parent.read_response(*arguments, **{**options, "disconnect_on_error": True})


class _Connection(_HangsUp, redis.sentinel.SentinelManagedConnection):
    pass


class _TLSConnection(_HangsUp, redis.sentinel.SentinelManagedSSLConnection):
    pass


def _master(make: Any, found: re.Match[str], sentinel_retry: object, **options: Any) -> object:
    """Return a client of the master, of the kind that `make` belongs to: redis-py's Sentinel is untyped.

    `sentinel_retry` is for the Sentinels: by default redis-py asks a silent one many times before the next one.
    """
    tls = {"ssl": True} if found["tls"] == "rediss" else {}
    pairs = (address.rpartition(":") for address in found["hosts"].split(","))
    addresses = [(host.strip("[]"), int(port)) for host, _, port in pairs]
    sentinel = make(addresses, sentinel_kwargs={**tls, **_SENTINEL_OPTIONS, "retry": sentinel_retry})
    return sentinel.master_for(found["service"], **tls, **options)


@contextmanager
def denial() -> Iterator[None]:
    """Turn every failure of Redis into ServiceUnavailable."""
    try:
        yield
    except redis.RedisError as error:
        raise (WritesRefused(str(error)) if is_refusal(error) else ServiceUnavailable("Redis")) from error


def is_refusal(error: redis.RedisError) -> bool:
    """Whether Redis has answered that it takes no writes now."""
    return isinstance(error, redis.ReadOnlyError | redis.OutOfMemoryError) or (
        # In scripts and pipelines there is text before the code.
        isinstance(error, redis.ResponseError) and bool(_REFUSAL.search(str(error)))
    )


def denies_when_unavailable(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """As `denial`, for a whole method that returns its result at once."""

    @functools.wraps(method)
    def call(owner: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with denial():
            return method(owner, *args, **kwargs)

    return call


def prolong(transaction: redis.client.Pipeline, key: str, *, lifetime: int) -> None:
    """Let a key live for so many seconds from now at least; never shorter than it would."""
    transaction.eval(PROLONG, 1, key, lifetime)


@dataclass(frozen=True, kw_only=True)
class Persistence:
    """How Redis keeps what it is told."""

    run: str
    """Which run of which server this is: another one may know less."""
    appends: bool
    """Whether it has an append-only file, rather than snapshots or nothing."""
    is_writing: bool
    """Whether its last write to the disk went well."""


def find_persistence(connection: redis.Redis) -> Persistence:
    """Ask Redis how it keeps what it is told. Raises ServiceUnavailable."""
    with denial(), connection.pipeline(transaction=False) as pipeline:
        pipeline.info("server")
        pipeline.info("persistence")
        server, persistence = pipeline.execute()
    appends = bool(persistence["aof_enabled"])
    status = persistence["aof_last_write_status" if appends else "rdb_last_bgsave_status"]
    return Persistence(run=str(server["run_id"]), appends=appends, is_writing=status == "ok")
