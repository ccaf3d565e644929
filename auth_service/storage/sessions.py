"""What is remembered of users between logins: which browsers are signed in, and what they approved.

| key | value | lives |
|---|---|---|
| `session:HASH` | who is signed in | `lifetimes.session`, whatever happens |
| `sessions-of-user:SUB` | the hashes of those, by their end | as the last of them |
| `approvals-of-user:SUB` | digest → what was approved, and when (protocol/consent.py) | 90 days after the last one |
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
from auth_service.protocol.consent import REMEMBERED_SECONDS, Approval

from .ephemeral import denies_when_unavailable, prolong

MAX_SESSIONS: Final = 50
MAX_APPROVALS: Final = 200
"""Of one user; the oldest go first."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """A browser in which a user has signed in."""

    sub: str
    name: str
    created_at: int


class Sessions:
    """The browsers that are signed in. Every method raises ServiceUnavailable when Redis does not answer."""

    def __init__(self, connection: redis.Redis) -> None:
        """Share a connection pool."""
        self._redis = connection

    @denies_when_unavailable
    def start(self, *, sub: str, name: str, lifetime: int) -> str:
        """Return the secret of a new session: never one that the browser had before (session fixation)."""
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
        """Return a session that lives."""
        document = cast("str | None", self._redis.get(_session_key(hash_secret(secret))))
        return Session(**json.loads(document)) if document is not None else None

    @denies_when_unavailable
    def end(self, secret: str) -> None:
        """Sign a browser out."""
        session = self.find(secret)
        if session is not None:
            self._end(session.sub, [hash_secret(secret)])

    @denies_when_unavailable
    def end_all(self, sub: str) -> None:
        """Sign a user out of every browser."""
        self._end(sub, cast("list[str]", self._redis.zrange(_session_index(sub), 0, -1)))

    def _end(self, sub: str, hashes: list[str]) -> None:
        if hashes:
            with self._redis.pipeline() as transaction:
                transaction.delete(*map(_session_key, hashes))
                transaction.zrem(_session_index(sub), *hashes)
                transaction.execute()


class Approvals:
    """What users have approved. Every method raises ServiceUnavailable when Redis does not answer."""

    def __init__(self, connection: redis.Redis) -> None:
        """Share a connection pool."""
        self._redis = connection

    @denies_when_unavailable
    def remember(self, sub: str, approval: Approval) -> None:
        """Remember what a user has just approved."""
        key = _approvals_key(sub)
        document = {
            "client_id": approval.client.client_id,
            "resource_url": approval.resource_url,
            "recipient": approval.recipient,
            "scopes": list(approval.scopes),
            "at": int(time.time()),
        }
        self._redis.hset(key, approval.digest, json.dumps(document))
        self._redis.expire(key, REMEMBERED_SECONDS)
        entries = self._entries(sub)
        by_age = sorted(entries, key=lambda digest: cast("int", entries[digest]["at"]), reverse=True)
        stale = {digest for digest, entry in entries.items() if not _is_current(entry)}.union(by_age[MAX_APPROVALS:])
        if stale:
            self._redis.hdel(key, *stale)

    @denies_when_unavailable
    def is_remembered(self, sub: str, approval: Approval) -> bool:
        """Whether the user approved exactly this, not too long ago."""
        document = cast("str | None", self._redis.hget(_approvals_key(sub), approval.digest))
        return document is not None and _is_current(json.loads(document))

    @denies_when_unavailable
    def find_scopes(self, sub: str, approval: Approval) -> frozenset[str]:
        """Return the scopes that the user has approved for the same client, as it is now, at the same address."""
        return frozenset(
            scope
            for entry in self._entries(sub).values()
            if entry.get("recipient") == approval.recipient and _is_current(entry)
            for scope in cast("list[str]", entry["scopes"])
        )

    @denies_when_unavailable
    def forget(self, sub: str, *, client_id: str | None = None, resource_url: str | None = None) -> bool:
        """Forget what a user approved: all, or that for one client or resource. Whether there was any."""
        digests = [
            digest
            for digest, entry in self._entries(sub).items()
            if client_id in {None, entry["client_id"]} and resource_url in {None, entry["resource_url"]}
        ]
        if digests:
            self._redis.hdel(_approvals_key(sub), *digests)
        return bool(digests)

    def _entries(self, sub: str) -> dict[str, dict[str, object]]:
        documents = cast("dict[str, str]", self._redis.hgetall(_approvals_key(sub)))
        return {digest: json.loads(document) for digest, document in documents.items()}


def _is_current(entry: dict[str, object]) -> bool:
    return time.time() < cast("int", entry["at"]) + REMEMBERED_SECONDS


def _session_key(hash_: str) -> str:
    return f"session:{hash_}"


def _session_index(sub: str) -> str:
    return f"sessions-of-user:{sub}"


def _approvals_key(sub: str) -> str:
    return f"approvals-of-user:{sub}"
