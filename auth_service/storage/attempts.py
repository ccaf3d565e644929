"""What a browser has begun, and no other browser may finish.

There are three kinds: logins at the identity provider, complete logins that wait for the user's credentials, and
connections of accounts at other services.
"""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Callable
from typing import Any, Final, cast

import redis

from .key_names import hashed
from .redis_client import denies_when_unavailable
from .scripts import KEEP_NEWEST

MAX_ATTEMPTS: Final = 10_000
"""How many attempts of one kind are kept: each has about a KiB, more with a long `state`.

An attacker can begin any number of them and finish none.
"""
INDEX_SECONDS: Final = 86400


class Attempts:
    """The attempts of one kind. Every method raises ServiceUnavailable when Redis does not answer."""

    def __init__(self, connection: redis.Redis, *, kind: str) -> None:
        """Share a connection pool. `kind` is in the names of all keys."""
        self._redis = connection
        self._prefix = f"{kind}:"
        self._index = f"{kind}s"
        self._keep_newest = connection.register_script(KEEP_NEWEST)

    @denies_when_unavailable
    def add(self, state: str, attempt: dict[str, Any], *, lifetime: int) -> None:
        """Keep an attempt under the hash of its `state`. Its member `browser` names the browser that began it."""
        name = hashed(state)
        self._keep_newest(
            keys=[self._index, self._prefix + name],
            args=[json.dumps(attempt), lifetime, name, time.time(), MAX_ATTEMPTS, self._prefix, INDEX_SECONDS],
        )

    @denies_when_unavailable
    def find(self, state: str, *, browser: str) -> dict[str, Any] | None:
        """Return an attempt to its own browser."""
        return self._read(self._redis.get, state, browser)

    @denies_when_unavailable
    def consume(self, state: str, *, browser: str) -> dict[str, Any] | None:
        """Return an attempt once, to its own browser. A request of another browser does not use it up."""
        if self._read(self._redis.get, state, browser) is None:
            return None
        return self._read(self._redis.getdel, state, browser)

    @denies_when_unavailable
    def drop(self, state: str) -> None:
        """End an attempt: its own browser cannot go on with it either."""
        self._redis.delete(self._prefix + hashed(state))

    def _read(self, read: Callable[[str], object], state: str, browser: str) -> dict[str, Any] | None:
        document = cast("str | None", read(self._prefix + hashed(state)))
        attempt: dict[str, Any] | None = json.loads(document) if document is not None else None
        return attempt if attempt is not None and hmac.compare_digest(attempt["browser"], browser) else None
