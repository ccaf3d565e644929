"""Queries over all records, for operators and never for a request of a client.

Records are yielded as they are found, in batches of one round trip each, so that memory does not grow with their
number. Only the names of found keys are kept during a scan, since Redis may return a key twice.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import redis

from auth_service.protocol.clients import Client

from .clients import load_client
from .grants import Grants, StoredGrant
from .key_names import CLIENT_INDEX_PREFIX, CLIENT_PREFIX, GRANT_PREFIX, USER_INDEX_PREFIX
from .redis_client import BATCH, denial, denies_when_unavailable
from .scripts import COUNT_LIVE


@dataclass(frozen=True, kw_only=True)
class RegisteredClient:
    """A registration, the number of its grants, and when it ends unless used, in seconds since 1970."""

    client: Client
    grants: int
    expires_at: int


@dataclass(frozen=True, kw_only=True)
class OtherClient:
    """A client that is known only from its grants: the newest grant, and the number of grants."""

    newest: StoredGrant
    grants: int


class Queries:
    """All queries. Methods, and the iterators that they return, raise ServiceUnavailable without Redis."""

    def __init__(self, connection: redis.Redis, grants: Grants) -> None:
        """Share a connection pool."""
        self._redis = connection
        self._grants = grants
        self._count_live = connection.register_script(COUNT_LIVE)

    def grants(self) -> Iterator[StoredGrant]:
        """Find every grant, in no order."""
        with denial():
            for sids in self._scan(GRANT_PREFIX):
                yield from self._grants.read(sids)

    def find_grant(self, sid: str) -> StoredGrant | None:
        """Find one grant."""
        with denial():
            return next(self._grants.read([sid]), None)

    def grants_of_user(self, sub: str) -> Iterator[StoredGrant]:
        """Find the grants of one user."""
        return self._grants_of_index(USER_INDEX_PREFIX + sub)

    def grants_of_client(self, client_id: str) -> Iterator[StoredGrant]:
        """Find the grants of one client, the most recently used first."""
        return self._grants_of_index(CLIENT_INDEX_PREFIX + client_id)

    def users(self) -> Iterator[list[StoredGrant]]:
        """Find all users who have grants: the grants of each user, the oldest first."""
        with denial():
            for subs in self._scan(USER_INDEX_PREFIX):
                with self._redis.pipeline(transaction=False) as pipeline:
                    for sub in subs:
                        pipeline.zrange(USER_INDEX_PREFIX + sub, 0, -1)
                    sids = cast("list[list[str]]", pipeline.execute())
                own: dict[str, list[StoredGrant]] = {}
                for found in self._grants.read(itertools.chain.from_iterable(sids)):
                    own.setdefault(found.grant.sub, []).append(found)
                for grants in own.values():
                    yield sorted(grants, key=lambda each: each.grant.created_at)

    def clients(self) -> Iterator[RegisteredClient]:
        """Find every registration, in no order."""
        with denial():
            for client_ids in self._scan(CLIENT_PREFIX):
                yield from self._read_clients(client_ids)

    @denies_when_unavailable
    def find_client(self, client_id: str) -> RegisteredClient | OtherClient | None:
        """Find a client that is registered or has grants."""
        registered = next(iter(self._read_clients([client_id])), None)
        return registered or self._find_other(client_id)

    def other_clients(self) -> Iterator[OtherClient]:
        """Find clients that have grants but are not registered here."""
        with denial():
            for client_ids in self._scan(CLIENT_INDEX_PREFIX):
                documents = cast("list[str | None]", self._redis.mget([CLIENT_PREFIX + each for each in client_ids]))
                for client_id, document in zip(client_ids, documents, strict=True):
                    if document is None and (other := self._find_other(client_id)) is not None:
                        yield other

    def _scan(self, prefix: str) -> Iterator[list[str]]:
        """Find every key with a prefix once, and yield batches of the rest of their names."""
        seen: set[str] = set()
        keys = self._redis.scan_iter(match=prefix + "*", count=BATCH)
        while batch := list(itertools.islice(keys, BATCH)):
            names = dict.fromkeys(key.removeprefix(prefix) for key in batch)
            yield [name for name in names if name not in seen]
            seen.update(names)

    def _grants_of_index(self, index: str) -> Iterator[StoredGrant]:
        with denial():
            for start in itertools.count(0, BATCH):
                sids = cast("list[str]", self._redis.zrevrange(index, start, start + BATCH - 1))
                if not sids:
                    return
                yield from self._grants.read(sids)

    def _read_clients(self, client_ids: list[str]) -> Iterator[RegisteredClient]:
        now = int(time.time())
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.mget([CLIENT_PREFIX + each for each in client_ids])
            for client_id in client_ids:
                pipeline.ttl(CLIENT_PREFIX + client_id)
            documents, *lifetimes = pipeline.execute()
        counts = self._count_grants(client_ids)
        for document, left, count in zip(documents, lifetimes, counts, strict=True):
            if document is not None:
                yield RegisteredClient(client=load_client(document), grants=count, expires_at=now + left)

    def _find_other(self, client_id: str) -> OtherClient | None:
        newest = next(self.grants_of_client(client_id), None)
        return None if newest is None else OtherClient(newest=newest, grants=self._count_grants([client_id])[0])

    def _count_grants(self, client_ids: list[str]) -> list[int]:
        """Count the live grants of each client."""
        if not client_ids:
            return []
        indices = [CLIENT_INDEX_PREFIX + each for each in client_ids]
        counts = cast("list[int]", self._count_live(keys=indices, args=[GRANT_PREFIX, BATCH]))
        return [
            count if count >= 0 else sum(1 for _ in self.grants_of_client(client_id))
            for client_id, count in zip(client_ids, counts, strict=True)
        ]
