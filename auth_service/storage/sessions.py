"""Browser sessions."""

from __future__ import annotations

import dataclasses
import json
import secrets
import time
from dataclasses import dataclass
from typing import Final, cast

import redis

from auth_service.protocol.clients import hash_secret

from .redis_client import denies_when_unavailable, prolong

MAX_SESSIONS: Final = 50
"""The limit for one user; the oldest end first."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """A browser in which a user has signed in."""

    sub: str
    name: str
    created_at: int


class Sessions:
    """The browser sessions. Every method raises ServiceUnavailable when Redis does not answer."""

    def __init__(self, connection: redis.Redis) -> None:
        """Share a connection pool."""
        self._redis = connection

    @denies_when_unavailable
    def start(self, *, sub: str, name: str, lifetime: int) -> str:
        """Start a session and return its new secret. A secret of the browser is never used (session fixation)."""
        secret = secrets.token_urlsafe(32)
        now = int(time.time())
        session = Session(sub=sub, name=name, created_at=now)
        index = _session_index(sub)
        with self._redis.pipeline() as transaction:
            transaction.set(_session_key(hash_secret(secret)), json.dumps(dataclasses.asdict(session)), ex=lifetime)
            transaction.zremrangebyscore(index, "-inf", now)
            transaction.zadd(index, {hash_secret(secret): now + lifetime})
            prolong(transaction, index, lifetime=lifetime)
            transaction.zrange(index, 0, -MAX_SESSIONS - 1)
            surplus = cast("list[str]", transaction.execute()[-1])
        self._end(sub, surplus)
        return secret

    @denies_when_unavailable
    def find(self, secret: str) -> Session | None:
        """Return a live session."""
        document = cast("str | None", self._redis.get(_session_key(hash_secret(secret))))
        return Session(**json.loads(document)) if document is not None else None

    @denies_when_unavailable
    def end(self, secret: str) -> None:
        """End one session."""
        session = self.find(secret)
        if session is not None:
            self._end(session.sub, [hash_secret(secret)])

    @denies_when_unavailable
    def end_all(self, sub: str) -> None:
        """End all sessions of a user."""
        self._end(sub, cast("list[str]", self._redis.zrange(_session_index(sub), 0, -1)))

    def _end(self, sub: str, hashes: list[str]) -> None:
        if hashes:
            with self._redis.pipeline() as transaction:
                transaction.delete(*map(_session_key, hashes))
                transaction.zrem(_session_index(sub), *hashes)
                transaction.execute()


def _session_key(hash_: str) -> str:
    return f"session:{hash_}"


def _session_index(sub: str) -> str:
    return f"sessions-of-user:{sub}"
