"""Refresh tokens. A grant has one at a time; each use replaces its generation by the next."""

from __future__ import annotations

import time
from enum import Enum
from typing import Final

import redis

from .grants import Grant, indices
from .key_names import client_key, grant_key, login_key, refresh_key
from .redis_client import denies_when_unavailable
from .scripts import ROTATE

LOST_ANSWER_SECONDS: Final = 24 * 3600
"""For how long a refresh token can be sent again if its successor was never used, as the answer may be lost."""
ROTATION_GRACE: Final = 60
"""For how long it can be sent after its successor was used, as several processes of a client may share it."""


class Rotation(Enum):
    """How an attempt to use a refresh token ended."""

    ROTATED = "rotated"
    REPEATED = "repeated"
    REUSED = "reused"
    GRANT_GONE = "gone"


class RefreshTokens:
    """The generations. Every method raises ServiceUnavailable when Redis does not answer."""

    def __init__(self, connection: redis.Redis, *, grant_lifetime: int, client_lifetime: int) -> None:
        """Share a connection pool. The lifetimes are how many seconds a grant and its client outlive their last use."""
        self._redis = connection
        self._grant_lifetime = grant_lifetime
        self._client_lifetime = client_lifetime
        self._rotate = connection.register_script(ROTATE)

    @denies_when_unavailable
    def rotate(self, grant: Grant, *, generation: int) -> tuple[Rotation, int]:
        """Use the refresh token of a generation; ROTATED makes the next current and prolongs the grant.

        The number is the generation to hand out, if any.
        """
        result, successor = self._rotate(
            keys=[
                refresh_key(grant.sid),
                grant_key(grant.sid),
                client_key(grant.client_id),
                login_key(grant.sub),
                *indices(grant),
            ],
            args=[
                generation,
                int(time.time()),
                ROTATION_GRACE,
                self._grant_lifetime,
                self._client_lifetime,
                grant.sid,
                LOST_ANSWER_SECONDS,
            ],
        )
        return Rotation(result), successor

    @denies_when_unavailable
    def find_expiry(self, sid: str, *, generation: int) -> int | None:
        """Return when the refresh token of that generation ends, None if it is not the current one."""
        with self._redis.pipeline() as transaction:
            transaction.hget(refresh_key(sid), "current")
            transaction.ttl(refresh_key(sid))
            current, lifetime = transaction.execute()
        return int(time.time()) + lifetime if current == str(generation) else None
