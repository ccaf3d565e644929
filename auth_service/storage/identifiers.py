"""Which identifiers have been used, of those that may be used once, such as the `jti` of client assertions."""

from __future__ import annotations

import math
import secrets

import redis

from .key_names import hashed
from .redis_client import denies_when_unavailable
from .scripts import USE


class Identifiers:
    """The used identifiers. Every method raises ServiceUnavailable when Redis does not answer."""

    def __init__(self, connection: redis.Redis) -> None:
        """Share a connection pool."""
        self._redis = connection
        self._use = connection.register_script(USE)

    @denies_when_unavailable
    def use_once(self, identifier: str, *, seconds: int) -> bool:
        """Return whether this is the first use of an identifier, and remember it for so many seconds."""
        # A command that is sent again after its connection broke is not a second use.
        return bool(self._use(keys=[_key(identifier)], args=[secrets.token_urlsafe(8), seconds]))

    @denies_when_unavailable
    def seconds_left(self, identifier: str) -> int:
        """Return after how many seconds a used identifier can be used again, at least one."""
        return max(1, math.ceil(self._redis.pttl(_key(identifier)) / 1000))


def _key(identifier: str) -> str:
    return f"used:{hashed(identifier)}"
