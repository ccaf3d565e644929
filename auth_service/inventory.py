"""Looking through everything that there is: for operators, never for a request of a client."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Final

from .ephemeral import denies_when_unavailable
from .protocol.clients import Client
from .store import CLIENT_PREFIX, GRANT_PREFIX, Grant, Store, load_client

_SCAN_COUNT: Final = 1000


@dataclass(frozen=True, kw_only=True)
class RegisteredClient:
    """A registration, and when it goes unless used. Times are in seconds since 1970."""

    client: Client
    expires_at: int


@dataclass(frozen=True, kw_only=True)
class StoredGrant:
    """A grant, when a token was last issued for it as far as is known, and when it ends unless used."""

    grant: Grant
    last_used: int | None
    expires_at: int


class Inventory:
    """Reads every key of a kind. Methods raise ServiceUnavailable when Redis does not answer."""

    def __init__(self, store: Store, *, grant_lifetime: int) -> None:
        """`grant_lifetime` is how many seconds a grant outlives its last use."""
        self._redis = store.connection
        self._grant_lifetime = grant_lifetime

    @denies_when_unavailable
    def clients(self) -> list[RegisteredClient]:
        """Return every registration, the oldest first."""
        now = int(time.time())
        found = [
            RegisteredClient(client=load_client(document), expires_at=now + ttl)
            for document, ttl in self._read(CLIENT_PREFIX, CLIENT_PREFIX)
        ]
        return sorted(found, key=lambda each: each.client.issued_at)

    @denies_when_unavailable
    def grants(self) -> list[StoredGrant]:
        """Return every grant, the oldest first."""
        now = int(time.time())
        left_of_grant = {json.loads(document)["sid"]: ttl for document, ttl in self._read(GRANT_PREFIX, GRANT_PREFIX)}
        found = []
        for document, left in self._read(GRANT_PREFIX, "refresh:"):
            grant = Grant(**json.loads(document))
            # A refresh token is prolonged at each use: what is left of its life tells when that was.
            last_used = now - self._grant_lifetime + left if left > 0 else None
            expires_at = now + left_of_grant.get(grant.sid, 0)
            found.append(StoredGrant(grant=grant, last_used=last_used, expires_at=expires_at))
        return sorted(found, key=lambda each: each.grant.created_at)

    def _read(self, prefix: str, prefix_of_ttl: str) -> list[tuple[str, int]]:
        """Return the value of every key of a prefix, with the time to live of its namesake of another."""
        names = [key.removeprefix(prefix) for key in self._redis.scan_iter(match=prefix + "*", count=_SCAN_COUNT)]
        with self._redis.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.get(prefix + name)
                pipeline.ttl(prefix_of_ttl + name)
            answers = pipeline.execute()
        return [
            (document, ttl) for document, ttl in zip(answers[::2], answers[1::2], strict=True) if document is not None
        ]
