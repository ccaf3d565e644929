"""Logins at the identity provider: those under way, and the last one of each user."""

from __future__ import annotations

import hmac
import json
import time
from typing import Any, Final, cast

import redis

from .key_names import hashed, login_key
from .redis_client import denies_when_unavailable
from .scripts import KEEP_NEWEST, REPLACE

MAX_LOGINS: Final = 10_000
"""Each has about a KiB, more with a long `state`. An attacker can begin any number of logins and finish none."""
INDEX_SECONDS: Final = 86400


class PendingLogins:
    """Logins under way. Every method raises ServiceUnavailable when Redis does not answer."""

    def __init__(self, connection: redis.Redis) -> None:
        """Share a connection pool."""
        self._redis = connection
        self._keep_newest = connection.register_script(KEEP_NEWEST)

    @denies_when_unavailable
    def add(self, state: str, login: dict[str, Any], *, lifetime: int) -> None:
        """Keep the data for the callback under the hash of the provider's `state`."""
        name = hashed(state)
        self._keep_newest(
            keys=["logins", f"login:{name}"],
            args=[json.dumps(login), lifetime, name, time.time(), MAX_LOGINS, "login:", INDEX_SECONDS],
        )

    @denies_when_unavailable
    def consume(self, state: str, *, browser: str) -> dict[str, Any] | None:
        """Return a login once, to its own browser. A request of another browser does not use it up."""
        key = f"login:{hashed(state)}"
        login: dict[str, Any] | None = None
        for read in (self._redis.get, self._redis.getdel):
            document = cast("str | None", read(key))
            login = json.loads(document) if document is not None else None
            if login is None or not hmac.compare_digest(login["browser"], browser):
                return None
        return login


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
