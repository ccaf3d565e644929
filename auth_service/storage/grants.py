"""Grants: what users allow clients. Codes and refresh tokens belong to one."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, cast

import redis

from .denials import CHANNEL, Denials
from .key_names import (
    GRANT_PREFIX,
    REFRESH_PREFIX,
    client_index,
    grant_key,
    login_key,
    refresh_key,
    user_index,
)
from .redis_client import BATCH, denial, denies_when_unavailable, is_refusal, prolong
from .scripts import DROP_LOGIN, READ_GRANTS

REVOCATION_SECONDS: Final = 0.1
"""How long a worker may go on believing that a grant lives, which a revocation therefore waits for."""
_REPLICATION_MILLISECONDS: Final = 500

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Grant:
    """One user's consent for one client to use one resource. Every token belongs to exactly one."""

    sid: str
    sub: str
    name: str
    client_id: str
    client_name: str
    resource: str
    scope: str
    redirect: str
    """The redirect URI without a loopback port: tells one application of a client from another."""
    created_at: int
    needs_authentication: bool = False
    """Whether the client had to authenticate when the user approved it, and so has to ever after."""


@dataclass(frozen=True, kw_only=True)
class StoredGrant:
    """A grant, when a token was last issued for it as far as is known, and when it ends unless used."""

    grant: Grant
    last_used: int | None
    expires_at: int


@dataclass(frozen=True, kw_only=True)
class Ending:
    """Which of the grants to be ended lived, and whether Redis has them still because it takes no writes."""

    grants: list[Grant]
    is_deferred: bool


class Grants:
    """The grants. Every method raises ServiceUnavailable when Redis does not answer."""

    def __init__(
        self,
        connection: redis.Redis,
        denials: Denials | None,
        *,
        lifetime: int,
        is_replicated: bool,
    ) -> None:
        """Share a connection pool. `lifetime` is how many seconds a grant outlives its last use.

        Without `denials` no grant ends that Redis cannot forget, and a power cut may bring back one that has ended.
        """
        self._redis = connection
        self._denials = denials
        self._lifetime = lifetime
        self._is_replicated = is_replicated
        self._read = connection.register_script(READ_GRANTS)

    @denies_when_unavailable
    def add(self, grant: Grant, *, lifetime: int) -> None:
        """Store a grant that ends after `lifetime` seconds, used or not."""
        with self._redis.pipeline() as transaction:
            self.put(transaction, grant, lifetime=lifetime)
            transaction.execute()

    def put(self, transaction: redis.client.Pipeline, grant: Grant, *, lifetime: int) -> None:
        """As `add`, beside what else is stored in one transaction."""
        transaction.set(grant_key(grant.sid), json.dumps(dataclasses.asdict(grant)), ex=lifetime)
        for index in indices(grant):
            transaction.zremrangebyscore(index, "-inf", int(time.time()) - self._lifetime)
            transaction.zadd(index, {grant.sid: self.rank(lifetime)})
            # Never shortened: what is in no index cannot be found when the user's access is to end.
            prolong(transaction, index, lifetime=max(lifetime, self._lifetime))

    def rank(self, lifetime: int) -> int:
        """Return where a grant stands in the indices that ends so many seconds from now unless used.

        They order by last use, and forget what was not used for a grant's usual lifetime.
        """
        return int(time.time()) + lifetime - self._lifetime

    @denies_when_unavailable
    def find(self, sid: str) -> Grant | None:
        """Return a grant if it lives; its existence is what makes its access tokens good."""
        if self._is_denied(sid):
            return None
        document = cast("str | None", self._redis.get(grant_key(sid)))
        return _load(document) if document is not None else None

    @denies_when_unavailable
    def count(self) -> int:
        """Count the grants that live, by looking at every key."""
        return sum(1 for _ in self._redis.scan_iter(match=GRANT_PREFIX + "*", count=BATCH))

    def read(self, sids: Iterable[str]) -> Iterator[StoredGrant]:
        """Yield those of some grants that live, read in batches. Raises ServiceUnavailable."""
        remaining = iter(sids)
        while batch := list(itertools.islice(remaining, BATCH)):
            now = int(time.time())
            with denial():
                answers = cast("list[str | int]", self._read(args=[GRANT_PREFIX, REFRESH_PREFIX, *batch]))
            for document, left, left_of_refresh in zip(answers[::3], answers[1::3], answers[2::3], strict=True):
                # A refresh token is prolonged at each use: what is left of its life tells when that was.
                used = now - self._lifetime + int(left_of_refresh) if int(left_of_refresh) > 0 else None
                yield StoredGrant(grant=_load(str(document)), last_used=used, expires_at=now + int(left))

    @denies_when_unavailable
    def find_of_user(self, sub: str, *, client_id: str | None = None) -> list[StoredGrant]:
        """Return the live grants of a user, or those of one client among them, the oldest first."""
        indices = [user_index(sub)] if client_id is None else [user_index(sub), client_index(client_id)]
        sids = cast("list[str]", self._redis.zinter(indices))
        return [found for found in self.read(sids) if not self._is_denied(found.grant.sid)]

    @denies_when_unavailable
    def find_ids_of_client(self, client_id: str) -> list[str]:
        """Return the ids of a client's grants."""
        return cast("list[str]", self._redis.zrange(client_index(client_id), 0, -1))

    @denies_when_unavailable
    def end(self, sids: list[str]) -> Ending:
        """End grants, on this host's disk and in Redis, of which all workers hear (`verify/grant_liveness.py`).

        Takes as many round trips for many grants as for one.
        """
        ended = self._find_alive(sids)
        is_durable = self._deny(ended)
        try:
            self._delete(sids, ended)
        except redis.RedisError as error:
            if not is_refusal(error) or not is_durable:
                raise
            log.warning("revocation.deferred: %d grants are denied until Redis forgets them: %s", len(ended), error)
            return Ending(grants=ended, is_deferred=True)
        return Ending(grants=ended, is_deferred=False)

    @denies_when_unavailable
    def end_again(self, sids: list[str]) -> list[str]:
        """End grants that have been ended before, where Redis has them still, and tell all hosts; return those."""
        alive = self._find_alive(sids)
        if alive:
            self._delete([grant.sid for grant in alive], alive)
        return [grant.sid for grant in alive]

    def _find_alive(self, sids: list[str]) -> list[Grant]:
        documents = cast("list[str | None]", self._redis.mget([grant_key(sid) for sid in sids]))
        return [_load(document) for document in documents if document is not None]

    def _deny(self, grants: list[Grant]) -> bool:
        """Write grants where no failure of Redis brings them back; whether that could be done."""
        if self._denials is None or not grants:
            return self._denials is not None
        try:
            self._denials.add(grant.sid for grant in grants)
        except OSError as error:
            log.warning("revocation.undurable: Redis may forget it when it fails: %s", error)
            return False
        return True

    def _delete(self, sids: list[str], alive: list[Grant]) -> None:
        """Delete grants, and tell all workers of those that lived, which Redis does even while it takes no writes."""
        entries: dict[str, list[str]] = {}
        for grant in alive:
            for index in indices(grant):
                entries.setdefault(index, []).append(grant.sid)
        with self._redis.pipeline(transaction=False) as pipeline:
            if alive:
                pipeline.publish(CHANNEL, " ".join(grant.sid for grant in alive))
            pipeline.delete(*(key for sid in sids for key in (grant_key(sid), refresh_key(sid))))
            for index, own in entries.items():
                pipeline.zrem(index, *own)
            for sub in {grant.sub for grant in alive}:
                pipeline.eval(DROP_LOGIN, 2, user_index(sub), login_key(sub))
            if self._is_replicated:
                pipeline.wait(1, _REPLICATION_MILLISECONDS)
            answers = pipeline.execute()
        if self._is_replicated and answers[-1] == 0:
            unreplicated = ", ".join(sids)
            log.warning(
                "revocation.unreplicated: a replica that takes over now would not know of it: grant %s", unreplicated
            )

    def _is_denied(self, sid: str) -> bool:
        if self._denials is None:
            return False
        self._denials.refresh()
        return sid in self._denials


def new_sid() -> str:
    """Return a fresh grant id."""
    return secrets.token_urlsafe(24)


def indices(grant: Grant) -> tuple[str, str]:
    """Return where the grants of its user and of its client are."""
    return user_index(grant.sub), client_index(grant.client_id)


def _load(document: str) -> Grant:
    return Grant(**json.loads(document))
