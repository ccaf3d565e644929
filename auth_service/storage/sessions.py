"""Browser sessions, and what the gateway's pages know of a user who is signed in.

That is kept apart from the login that grants depend on (`last_logins`), so that the pages still know it after the
user's last grant has ended. It is not part of a session: what the provider says later replaces it for all of them.
"""

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
from .scripts import DROP_WITH_LAST, REPLACE

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
        self._replace = connection.register_script(REPLACE)

    @denies_when_unavailable
    def start(self, *, sub: str, name: str, sealed_profile: str | None, lifetime: int) -> str:
        """Start a session and return its new secret. A secret of the browser is never used (session fixation).

        The profile takes the place of the former one; with None there is none any more.
        """
        secret = secrets.token_urlsafe(32)
        now = int(time.time())
        session = Session(sub=sub, name=name, created_at=now)
        index = _session_index(sub)
        with self._redis.pipeline() as transaction:
            transaction.set(_session_key(hash_secret(secret)), json.dumps(dataclasses.asdict(session)), ex=lifetime)
            transaction.zremrangebyscore(index, "-inf", now)
            transaction.zadd(index, {hash_secret(secret): now + lifetime})
            prolong(transaction, index, lifetime=lifetime)
            if sealed_profile is None:
                transaction.delete(_profile_key(sub))
            else:
                transaction.set(_profile_key(sub), sealed_profile, ex=lifetime)
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

    @denies_when_unavailable
    def find_profile(self, sub: str) -> str | None:
        """Return the encrypted profile of a user who is signed in."""
        return cast("str | None", self._redis.get(_profile_key(sub)))

    @denies_when_unavailable
    def replace_profile(self, sub: str, sealed_profile: str, *, by: str) -> None:
        """Replace a profile for the rest of its life, unless the user has signed in again."""
        self._replace(keys=[_profile_key(sub)], args=[sealed_profile, by])

    @denies_when_unavailable
    def forget_profile(self, sub: str) -> None:
        """Forget the profile of a user. The sessions stay."""
        self._redis.delete(_profile_key(sub))

    def _end(self, sub: str, hashes: list[str]) -> None:
        if hashes:
            with self._redis.pipeline() as transaction:
                transaction.delete(*map(_session_key, hashes))
                transaction.zrem(_session_index(sub), *hashes)
                transaction.eval(DROP_WITH_LAST, 2, _session_index(sub), _profile_key(sub))
                transaction.execute()


def _session_key(hash_: str) -> str:
    return f"session:{hash_}"


def _session_index(sub: str) -> str:
    return f"sessions-of-user:{sub}"


def _profile_key(sub: str) -> str:
    return f"profile-of-user:{sub}"
