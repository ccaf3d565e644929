"""Remembered consents (`protocol/consent.py`)."""

from __future__ import annotations

import json
import time
from typing import Final, cast

import redis

from auth_service.protocol.consent import REMEMBERED_SECONDS, Consent

from .redis_client import denies_when_unavailable

MAX_CONSENTS: Final = 200
"""The limit for one user; the oldest end first."""


class Consents:
    """What users have allowed. Every method raises ServiceUnavailable when Redis does not answer."""

    def __init__(self, connection: redis.Redis) -> None:
        """Share a connection pool."""
        self._redis = connection

    @denies_when_unavailable
    def remember(self, sub: str, consent: Consent) -> None:
        """Remember what a user has just allowed."""
        key = _consents_key(sub)
        document = {
            "client_id": consent.client.client_id,
            "resource_url": consent.resource_url,
            "recipient": consent.recipient,
            "scopes": list(consent.scopes),
            "at": int(time.time()),
        }
        self._redis.hset(key, consent.digest, json.dumps(document))
        self._redis.expire(key, REMEMBERED_SECONDS)
        entries = self._entries(sub)
        by_age = sorted(entries, key=lambda digest: cast("int", entries[digest]["at"]), reverse=True)
        stale = {digest for digest, entry in entries.items() if not _is_current(entry)}.union(by_age[MAX_CONSENTS:])
        if stale:
            self._redis.hdel(key, *stale)

    @denies_when_unavailable
    def is_remembered(self, sub: str, consent: Consent) -> bool:
        """Whether the user allowed exactly this, not too long ago."""
        document = cast("str | None", self._redis.hget(_consents_key(sub), consent.digest))
        return document is not None and _is_current(json.loads(document))

    @denies_when_unavailable
    def find_scopes(self, sub: str, consent: Consent) -> frozenset[str]:
        """Return the scopes that the user has allowed this client, with its present metadata and at this address."""
        return frozenset(
            scope
            for entry in self._entries(sub).values()
            if entry.get("recipient") == consent.recipient and _is_current(entry)
            for scope in cast("list[str]", entry["scopes"])
        )

    @denies_when_unavailable
    def forget(self, sub: str, *, client_id: str | None = None, resource_url: str | None = None) -> bool:
        """Forget what a user allowed: all, or that for one client or resource. Whether there was any."""
        digests = [
            digest
            for digest, entry in self._entries(sub).items()
            if client_id in {None, entry["client_id"]} and resource_url in {None, entry["resource_url"]}
        ]
        if digests:
            self._redis.hdel(_consents_key(sub), *digests)
        return bool(digests)

    def _entries(self, sub: str) -> dict[str, dict[str, object]]:
        documents = cast("dict[str, str]", self._redis.hgetall(_consents_key(sub)))
        return {digest: json.loads(document) for digest, document in documents.items()}


def _is_current(entry: dict[str, object]) -> bool:
    return time.time() < cast("int", entry["at"]) + REMEMBERED_SECONDS


def _consents_key(sub: str) -> str:
    return f"approvals-of-user:{sub}"
