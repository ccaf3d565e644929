"""Locks that all workers and hosts share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.exceptions import LockError

from auth_service.protocol.errors import ServiceUnavailable

from .key_names import hashed


class Locks:
    """The locks, by name."""

    def __init__(self, connection: redis.Redis) -> None:
        """Share a connection pool."""
        self._redis = connection

    @contextmanager
    def only_one(self, name: str, *, seconds: float, wait: float) -> Iterator[None]:
        """Hold a lock for at most `seconds`, after waiting at most `wait` seconds for another holder.

        Raises ServiceUnavailable if it does not become free.
        """
        lock: Any = self._redis.lock(f"lock:{hashed(name)}", timeout=seconds, sleep=0.02, blocking_timeout=wait)
        try:
            is_held = lock.acquire()
        except redis.RedisError as error:
            raise ServiceUnavailable("Redis") from error
        if not is_held:
            raise ServiceUnavailable("another request that holds the lock")
        try:
            yield
        finally:
            try:
                lock.release()
            except LockError:
                pass  # the lock has expired
            except redis.RedisError as error:
                raise ServiceUnavailable("Redis") from error
