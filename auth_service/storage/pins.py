"""Pins: a login name on an allow-list means the user who first logged in by it."""

from __future__ import annotations

from typing import cast

import redis

from .redis_client import denies_when_unavailable


class Pins:
    """The pins. Every method raises ServiceUnavailable when Redis does not answer."""

    def __init__(self, connection: redis.Redis) -> None:
        """Share a connection pool."""
        self._redis = connection

    @denies_when_unavailable
    def find(self, provider: str) -> dict[str, str]:
        """Return the pins of a provider: from login names to subjects."""
        return cast("dict[str, str]", self._redis.hgetall(f"pins:{provider}"))

    @denies_when_unavailable
    def pin(self, provider: str, login: str, subject: str) -> str:
        """Pin a login name to the subject unless it is pinned already; return the subject that it is pinned to."""
        with self._redis.pipeline() as transaction:
            transaction.hsetnx(f"pins:{provider}", login, subject)
            transaction.hget(f"pins:{provider}", login)
            return str(transaction.execute()[1])

    @denies_when_unavailable
    def unpin(self, provider: str, login: str) -> str | None:
        """Remove the pin of a login name, and return its subject."""
        key = f"pins:{provider}"
        subject = cast("str | None", self._redis.hget(key, login))
        return subject if subject is not None and self._redis.hdel(key, login) else None
