"""Connecting to Redis: one server by its URL, or whichever one Redis Sentinel says is the master."""

from __future__ import annotations

import re
from typing import Any, cast

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.asyncio.sentinel
import redis.retry
import redis.sentinel
from redis.backoff import NoBackoff

from auth_service.settings import SENTINEL_URL

SENTINEL_TIMEOUT_SECONDS = 0.5


def connect(url: str, *, password: str | None, **options: Any) -> redis.Redis:
    """Return a client that connects when it is first used."""
    found = SENTINEL_URL.fullmatch(url)
    if found is None:
        return redis.Redis.from_url(url, password=password, **options)
    make: Any = redis.sentinel.Sentinel
    connection = _TLSConnection if found["tls"] == "rediss" else _Connection
    retry = redis.retry.Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
    client = _master(make, found, retry, password=password, connection_class=connection, **options)
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
    """Whether what is written may be lost when a replica takes over."""
    return SENTINEL_URL.fullmatch(url) is not None


_SENTINEL_OPTIONS = {
    "socket_timeout": SENTINEL_TIMEOUT_SECONDS,
    "socket_connect_timeout": SENTINEL_TIMEOUT_SECONDS,
    "decode_responses": True,
}


class _HangsUp:
    """Closes a connection that did not answer in time.

    redis-py keeps those that Sentinel manages: they would go on leading to a master that hangs, and its late reply
    would be taken for that to the next command.
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

    `sentinel_retry` is for the Sentinels: by default redis-py asks one that is silent many times before the next one.
    """
    tls = {"ssl": True} if found["tls"] == "rediss" else {}
    pairs = (address.rpartition(":") for address in found["hosts"].split(","))
    addresses = [(host.strip("[]"), int(port)) for host, _, port in pairs]
    sentinel = make(addresses, sentinel_kwargs={**tls, **_SENTINEL_OPTIONS, "retry": sentinel_retry})
    return sentinel.master_for(found["service"], **tls, **options)
