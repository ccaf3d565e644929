"""Names of the settings under which grants were made, so that the grants are found when a name is there no more."""

from __future__ import annotations

from typing import cast

import redis

from .redis_client import denies_when_unavailable


class NotedNames:
    """The names of one kind. Every method raises ServiceUnavailable when Redis does not answer."""

    def __init__(self, connection: redis.Redis, key: str) -> None:
        """Share a connection pool. `key` is that of the set of names."""
        self._redis = connection
        self._key = key

    @denies_when_unavailable
    def note(self, name: str) -> None:
        """Keep a name for ever, even if the settings do not have it any more."""
        self._redis.sadd(self._key, name)

    @denies_when_unavailable
    def find(self) -> set[str]:
        """Return all names."""
        return cast("set[str]", self._redis.smembers(self._key))
