"""Grants: what users allow clients. Codes and refresh tokens belong to one."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import secrets
import time
from collections.abc import Collection, Iterable, Iterator
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
from .scripts import DROP_WITH_LAST, PROLONG_GRANT, READ_GRANTS, REPLACE

REVOCATION_SECONDS: Final = 0.1
"""How long a worker may use its knowledge of a live grant. A revocation waits for so long."""
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
    """The redirect URI without a loopback port, which tells the applications of one client apart."""
    created_at: int
    needs_authentication: bool = False
    """Whether the client had to authenticate when the user allowed it. Then it always has to."""
    basis: str = ""
    """What was verified of a workload or of a declared client (`oauth/settings_trust.py`); empty for all others."""


@dataclass(frozen=True, kw_only=True)
class StoredGrant:
    """A grant, the time of its last token if known, and when it ends unless it is used."""

    grant: Grant
    last_used: int | None
    expires_at: int


@dataclass(frozen=True, kw_only=True)
class Ending:
    """Which of the ended grants were live, and whether Redis still has them because it takes no writes."""

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

        Without `denials`, a grant cannot end while Redis takes no writes, and a power cut may bring back an ended
        grant.
        """
        self._redis = connection
        self._denials = denials
        self._lifetime = lifetime
        self._is_replicated = is_replicated
        self._read = connection.register_script(READ_GRANTS)
        self._prolong = connection.register_script(PROLONG_GRANT)
        self._replace = connection.register_script(REPLACE)

    @denies_when_unavailable
    def add(self, grant: Grant, *, lifetime: int) -> None:
        """Store a grant that ends after `lifetime` seconds, used or not."""
        with self._redis.pipeline() as transaction:
            self.put(transaction, grant, lifetime=lifetime)
            transaction.execute()

    def put(self, transaction: redis.client.Pipeline, grant: Grant, *, lifetime: int) -> None:
        """Store a grant as `add` does, within a transaction."""
        transaction.set(grant_key(grant.sid), json.dumps(dataclasses.asdict(grant)), ex=lifetime)
        for index in indices(grant):
            transaction.zremrangebyscore(index, "-inf", int(time.time()) - self._lifetime)
            transaction.zadd(index, {grant.sid: self.rank(lifetime)})
            # Never shortened: a grant that is in no index would not be found when the user's access is ended.
            prolong(transaction, index, lifetime=max(lifetime, self._lifetime))

    @denies_when_unavailable
    def prolong(self, grant: Grant, *, lifetime: int) -> bool:
        """Let a grant last for at least so many seconds; return whether it is still live.

        Unlike `add`, it does not bring back a grant that has ended meanwhile.
        """
        keys = [grant_key(grant.sid), *indices(grant)]
        args: list[str | int] = [lifetime, grant.sid, self.rank(lifetime), max(lifetime, self._lifetime)]
        return not self._is_denied(grant.sid) and bool(self._prolong(keys=keys, args=args))

    def rank(self, lifetime: int) -> int:
        """Return the rank in the indices of a grant that ends after these seconds unless it is used.

        The indices are ordered by last use. A grant that was not used for a grant's usual lifetime is removed from
        them.
        """
        return int(time.time()) + lifetime - self._lifetime

    @denies_when_unavailable
    def find(self, sid: str) -> Grant | None:
        """Return a grant if it is live: its access tokens are valid while it exists."""
        if self._is_denied(sid):
            return None
        document = cast("str | None", self._redis.get(grant_key(sid)))
        return _load(document) if document is not None else None

    @denies_when_unavailable
    def remove_scopes(self, sid: str, lost: Collection[str]) -> Grant | None:
        """Remove scopes from a grant, for good; return the rest of it, or None if it has ended."""
        while (document := cast("str | None", self._redis.get(grant_key(sid)))) is not None:
            grant = _load(document)
            left = dataclasses.replace(grant, scope=" ".join(each for each in grant.scope.split() if each not in lost))
            # Otherwise one of two removals at the same time would bring back what the other one has removed.
            if self._replace(keys=[grant_key(sid)], args=[document, json.dumps(dataclasses.asdict(left))]):
                return left
        return None

    @denies_when_unavailable
    def count(self) -> int:
        """Count the live grants, by a scan of all keys."""
        return sum(1 for _ in self._redis.scan_iter(match=GRANT_PREFIX + "*", count=BATCH))

    def read(self, sids: Iterable[str]) -> Iterator[StoredGrant]:
        """Yield those of these grants that are live, read in batches. Raises ServiceUnavailable."""
        remaining = iter(sids)
        while batch := list(itertools.islice(remaining, BATCH)):
            now = int(time.time())
            with denial():
                answers = cast("list[str | int]", self._read(args=[GRANT_PREFIX, REFRESH_PREFIX, *batch]))
            for document, left, left_of_refresh in zip(answers[::3], answers[1::3], answers[2::3], strict=True):
                # Each use of a refresh token renews its lifetime, so the rest of it tells when the last use was.
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
        """End grants on this host's disk and in Redis, which tells all workers (`app/verify/grant_liveness.py`).

        The number of round trips does not depend on the number of grants.
        """
        ended = self._find_alive(sids)
        is_durable = self._deny(ended)
        try:
            self._delete(sids, ended)
        except redis.RedisError as error:
            if not is_refusal(error) or not is_durable:
                raise
            log.warning("revocation.deferred: %d grants are denied until Redis can remove them: %s", len(ended), error)
            return Ending(grants=ended, is_deferred=True)
        return Ending(grants=ended, is_deferred=False)

    @denies_when_unavailable
    def end_again(self, sids: list[str]) -> list[str]:
        """End ended grants that Redis still has, tell all hosts, and return them."""
        alive = self._find_alive(sids)
        if alive:
            self._delete([grant.sid for grant in alive], alive)
        return [grant.sid for grant in alive]

    def _find_alive(self, sids: list[str]) -> list[Grant]:
        documents = cast("list[str | None]", self._redis.mget([grant_key(sid) for sid in sids]))
        return [_load(document) for document in documents if document is not None]

    def _deny(self, grants: list[Grant]) -> bool:
        """Write grants to the file of denied grants; return whether that worked."""
        if self._denials is None or not grants:
            return self._denials is not None
        try:
            self._denials.add(grant.sid for grant in grants)
        except OSError as error:
            log.warning("revocation.undurable: it may be lost if Redis fails: %s", error)
            return False
        return True

    def _delete(self, sids: list[str], alive: list[Grant]) -> None:
        """Delete grants, and tell all workers of the live ones, which Redis does even while it takes no writes."""
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
                pipeline.eval(DROP_WITH_LAST, 2, user_index(sub), login_key(sub))
            if self._is_replicated:
                pipeline.wait(1, _REPLICATION_MILLISECONDS)
            answers = pipeline.execute()
        if self._is_replicated and answers[-1] == 0:
            unreplicated = ", ".join(sids)
            log.warning(
                "revocation.unreplicated: no replica has the end of this grant yet, which a failover would lose: %s",
                unreplicated,
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
    """Return the keys of the indices of a grant's user and client."""
    return user_index(grant.sub), client_index(grant.client_id)


def _load(document: str) -> Grant:
    return Grant(**json.loads(document))
