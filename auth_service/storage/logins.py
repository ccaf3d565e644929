"""Logins at the identity provider: those under way, those that wait for the user, and the last one of each user."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Callable
from typing import Any, Final, cast

import redis

from .key_names import hashed, login_key
from .redis_client import denies_when_unavailable
from .scripts import KEEP_NEWEST, REPLACE

MAX_LOGINS: Final = 10_000
"""Each has about a KiB, more with a long `state`. An attacker can begin any number of logins and finish none."""
INDEX_SECONDS: Final = 86400


class PendingLogins:
    """Logins that end in the browser in which they began. Every method raises ServiceUnavailable without Redis."""

    def __init__(self, connection: redis.Redis, *, kind: str = "login") -> None:
        """Share a connection pool. `kind` is in the names of all keys."""
        self._redis = connection
        self._prefix = f"{kind}:"
        self._index = f"{kind}s"
        self._keep_newest = connection.register_script(KEEP_NEWEST)

    @denies_when_unavailable
    def add(self, state: str, login: dict[str, Any], *, lifetime: int) -> None:
        """Keep the data of a login under the hash of its `state`. Its member `browser` says which browser it is of."""
        name = hashed(state)
        self._keep_newest(
            keys=[self._index, self._prefix + name],
            args=[json.dumps(login), lifetime, name, time.time(), MAX_LOGINS, self._prefix, INDEX_SECONDS],
        )

    @denies_when_unavailable
    def find(self, state: str, *, browser: str) -> dict[str, Any] | None:
        """Return a login to its own browser."""
        return self._read(self._redis.get, state, browser)

    @denies_when_unavailable
    def consume(self, state: str, *, browser: str) -> dict[str, Any] | None:
        """Return a login once, to its own browser. A request of another browser does not use it up."""
        if self._read(self._redis.get, state, browser) is None:
            return None
        return self._read(self._redis.getdel, state, browser)

    @denies_when_unavailable
    def drop(self, state: str) -> None:
        """End a login, whose browser cannot go on with it then."""
        self._redis.delete(self._prefix + hashed(state))

    def _read(self, read: Callable[[str], object], state: str, browser: str) -> dict[str, Any] | None:
        document = cast("str | None", read(self._prefix + hashed(state)))
        login: dict[str, Any] | None = json.loads(document) if document is not None else None
        return login if login is not None and hmac.compare_digest(login["browser"], browser) else None


class LastLogins:
    """The last login of each user. Every method raises ServiceUnavailable when Redis does not answer."""

    def __init__(self, connection: redis.Redis, *, grant_lifetime: int) -> None:
        """Share a connection pool. `grant_lifetime` is how many seconds a grant outlives its last use."""
        self._redis = connection
        self._grant_lifetime = grant_lifetime
        self._replace = connection.register_script(REPLACE)

    @denies_when_unavailable
    def keep(self, sub: str, sealed: str) -> None:
        """Keep the provider's token of a user as long as the user has a grant."""
        self._redis.set(login_key(sub), sealed, ex=self._grant_lifetime)

    @denies_when_unavailable
    def replace(self, sub: str, sealed: str, *, by: str) -> None:
        """Replace the kept data of the same login, unless the user has logged in again or has no grant."""
        self._replace(keys=[login_key(sub)], args=[sealed, by])

    @denies_when_unavailable
    def find(self, sub: str) -> str | None:
        """Return the kept data of a user's last login."""
        return cast("str | None", self._redis.get(login_key(sub)))
