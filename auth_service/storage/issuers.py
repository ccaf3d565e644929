"""The names of trusted issuers for whose workloads tokens were issued, so that their grants are found later."""

from __future__ import annotations

from typing import cast

import redis

from .key_names import WORKLOAD_ISSUERS
from .redis_client import denies_when_unavailable


class Issuers:
    """The names. Every method raises ServiceUnavailable when Redis does not answer."""

    def __init__(self, connection: redis.Redis) -> None:
        """Share a connection pool."""
        self._redis = connection

    @denies_when_unavailable
    def note(self, name: str) -> None:
        """Keep the name of an issuer for ever, even if it is trusted no more."""
        self._redis.sadd(WORKLOAD_ISSUERS, name)

    @denies_when_unavailable
    def find(self) -> set[str]:
        """Return all names."""
        return cast("set[str]", self._redis.smembers(WORKLOAD_ISSUERS))
