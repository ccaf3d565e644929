"""The last login of each user at the identity provider."""

from __future__ import annotations

from typing import cast

import redis

from .key_names import login_key
from .redis_client import denies_when_unavailable
from .scripts import REPLACE


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
