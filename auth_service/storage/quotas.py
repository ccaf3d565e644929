"""Quotas: how often something may be done in a window of time, and how long a holder has to wait."""

from __future__ import annotations

from typing import Final, cast

import redis

from auth_service.protocol.errors import TooManyRequests

from .key_names import hashed
from .redis_client import denies_when_unavailable
from .scripts import TAKE

WAIT_IS_NOTED_SECONDS: Final = 2


class Quotas:
    """The quotas, by name and holder. Every method raises ServiceUnavailable when Redis does not answer."""

    def __init__(self, connection: redis.Redis) -> None:
        """Share a connection pool."""
        self._redis = connection
        self._take = connection.register_script(TAKE)

    @denies_when_unavailable
    def take(self, quota: str, holder: str, *, limit: int, window: int) -> None:
        """Count one use of a quota by its holder; raises TooManyRequests beyond `limit` in `window` seconds."""
        wait = cast("int", self._take(keys=[f"quota:{quota}:{hashed(holder)}"], args=[limit, window]))
        if wait != 0:
            raise TooManyRequests(retry_after=wait)

    @denies_when_unavailable
    def note_wait(self, holder: str, seconds: int) -> None:
        """Keep for a moment how long a holder has been told to wait."""
        self._redis.set(f"wait:{hashed(holder)}", seconds, ex=WAIT_IS_NOTED_SECONDS)

    @denies_when_unavailable
    def find_wait(self, holder: str) -> int:
        """Return how long a holder has just been told to wait; 0 if it was not told so."""
        return int(cast("str | None", self._redis.get(f"wait:{hashed(holder)}")) or 0)
