"""All state, in Redis. Secrets are looked up by their hashes and never stored.

| key | value | lives |
|---|---|---|
| `client:ID` | a registered client | days unless used, then as long as its grants |
| `unused-clients` | identifiers of those without a login yet, by registration | as the newest |
| `code:HASH` | what a code stands for, kept past its end so that a replay is noticed | 10 minutes |
| `redeemed:HASH` | by which attempt the code was redeemed | 10 minutes |
| `grant:SID` | a grant; its access tokens are good while it exists | a refresh token lifetime |
| `refresh:SID` | the grant's refresh token generation, and when former ones were rotated | as the grant |
| `grants-of-user:SUB`, `grants-of-client:ID` | grant ids by last use | as their last grant |
| `login-of-user:SUB` | what asks the provider about the user again, encrypted (`user_access`) | as their last grant |
| those of `sessions.py` | signed-in browsers, and what users approved | |
| `pins:PROVIDER` | login → subject that first used it | for good |
| `subjects-name-servers` | that users are called as `subjects.py` says | for good |
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from auth_service.ops import audit
from auth_service.ops.audit import Event
from auth_service.protocol.clients import Client, ClientMetadata, hash_secret
from auth_service.protocol.errors import PartlyRefused, WritesRefused
from auth_service.settings import Lifetimes, Limits

from .denials import CHANNEL, Denials
from .ephemeral import Ephemeral, denial, denies_when_unavailable, is_refusal, prolong
from .redis_client import connect, is_replicated
from .sessions import Approvals, Sessions

GRANT_PREFIX = "grant:"
REFRESH_PREFIX = "refresh:"
CLIENT_PREFIX = "client:"
USER_INDEX_PREFIX = "grants-of-user:"
CLIENT_INDEX_PREFIX = "grants-of-client:"
CODE_MEMORY = 600
"""Seconds for which a code's replay revokes its grant; the code itself is good for less."""
REVOCATION_SECONDS = 0.1
"""How long a worker may go on believing that a grant lives, which a revocation therefore waits for."""
LOST_ANSWER_SECONDS = 24 * 3600
"""For how long a refresh token can be sent again whose successor was never used: the answer may have been lost."""
ROTATION_GRACE = 60
"""For how long it can still be sent once its successor was used: processes share a token, and one may be slower."""

BATCH = 1000
"""How many keys or commands go to Redis at once: enough to hide the round trip, too few to hold up others."""

_SOCKET_TIMEOUT = 3
_UNUSED_CLIENTS = "unused-clients"
_REPLICATION_MILLISECONDS = 500


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
class LiveGrant:
    """A grant as it stands now. Times are in seconds since 1970."""

    grant: Grant
    last_used: int | None
    """When a token was last issued for it; None if that is not known."""


@dataclass(frozen=True, kw_only=True)
class Code:
    """What an authorization code stands for."""

    sid: str
    client_id: str
    redirect_uri: str
    code_challenge: str
    resource: str
    expires_at: int
    client_digest: str = ""
    """Of the client as the user approved it."""

    def get_redirect_uri(self) -> None:
        """Tell Authlib that the token request need not repeat the redirect URI (OAuth 2.1 §10.2)."""


@dataclass(frozen=True, kw_only=True)
class Persistence:
    """How Redis keeps what it is told."""

    run: str
    """Which run of which server this is: another one may know less."""
    appends: bool
    """Whether it has an append-only file, rather than snapshots or nothing."""
    is_writing: bool
    """Whether its last write to the disk went well."""


class Redemption(Enum):
    """How an attempt to redeem a code ended."""

    DONE = "done"
    REPLAYED = "replayed"
    GRANT_GONE = "gone"


class Rotation(Enum):
    """How an attempt to use a refresh token ended."""

    ROTATED = "rotated"
    REPEATED = "repeated"
    REUSED = "reused"
    GRANT_GONE = "gone"


# Beyond the bound the oldest go, so that a flood of registrations locks nobody out who logs in soon.
# KEYS client, unused clients · ARGV document, lifetime, identifier, now, most, prefix
_ADD_CLIENT = """
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[4] - ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[2])
local excess = redis.call('ZCARD', KEYS[2]) - ARGV[5]
if excess > 0 then
  for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, excess - 1)) do redis.call('DEL', ARGV[6] .. id) end
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, excess - 1)
end
"""

# KEYS redeemed, grant, refresh, client, unused clients, indices
# ARGV code memory, grant lifetime, has refresh, client lifetime, attempt, client identifier, sid, rank, index lifetime
_REDEEM = """
if redis.call('EXISTS', KEYS[2]) == 0 then return 'gone' end
local redeemer = redis.call('GET', KEYS[1])
if redeemer and redeemer ~= ARGV[5] then return 'replayed' end
redis.call('SET', KEYS[1], ARGV[5], 'EX', ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[2])
if ARGV[3] == '1' then
  redis.call('HSET', KEYS[3], 'current', 0)
  redis.call('EXPIRE', KEYS[3], ARGV[2])
end
redis.call('EXPIRE', KEYS[4], ARGV[4])
redis.call('ZREM', KEYS[5], ARGV[6])
for index = 6, #KEYS do
  redis.call('ZADD', KEYS[index], ARGV[8], ARGV[7])
  if redis.call('TTL', KEYS[index]) < tonumber(ARGV[9]) then redis.call('EXPIRE', KEYS[index], ARGV[9]) end
end
return 'done'
"""

# A generation ahead of ours is one that we have given out and Redis has lost again, with what it had not yet written
# when it failed: as good as the current one.
# A former generation's time of use is kept for the last 16 only: enough for any honest overlap, and bounded. Only its
# successor's use tells a token that was sent again for want of an answer from one that was stolen. Who may send one
# again gets the newest, so that all who share a grant have the same.
# Answers what became of it, and which generation to hand out.
# KEYS refresh, grant, client, login, indices
# ARGV generation, now, grace, grant lifetime, client lifetime, sid, lost answer
_ROTATE = """
local current = tonumber(redis.call('HGET', KEYS[1], 'current'))
if not current or redis.call('EXISTS', KEYS[2]) == 0 then return {'gone', 0} end
local generation = tonumber(ARGV[1])
if generation >= current then
  redis.call('HSET', KEYS[1], 'current', generation + 1, generation, ARGV[2])
  redis.call('HDEL', KEYS[1], generation - 16)
  redis.call('EXPIRE', KEYS[1], ARGV[4])
  redis.call('EXPIRE', KEYS[2], ARGV[4])
  redis.call('EXPIRE', KEYS[3], ARGV[5])
  redis.call('EXPIRE', KEYS[4], ARGV[4])
  for index = 5, #KEYS do
    redis.call('ZADD', KEYS[index], ARGV[2], ARGV[6])
    if redis.call('TTL', KEYS[index]) < tonumber(ARGV[4]) then redis.call('EXPIRE', KEYS[index], ARGV[4]) end
  end
  return {'rotated', generation + 1}
end
local now = tonumber(ARGV[2])
local used_at = tonumber(redis.call('HGET', KEYS[1], generation))
local successor_used_at = tonumber(redis.call('HGET', KEYS[1], generation + 1))
if used_at and successor_used_at and now - successor_used_at <= tonumber(ARGV[3]) then return {'repeated', current} end
if used_at and generation + 1 == current and now - used_at <= tonumber(ARGV[7]) then return {'repeated', current} end
return {'reused', 0}
"""


# What is kept of a user's login may be that of a later one by now, or have gone with the user's last grant.
# KEYS login · ARGV former, new
_REPLACE_LOGIN = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL') end"

# At once, or it could be the login of a grant that has come in between.
# KEYS index of the user, login
_DROP_LOGIN = "if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('DEL', KEYS[2]) end"


class Store:
    """Typed access to Redis. Every method raises ServiceUnavailable when Redis does not answer."""

    def __init__(
        self,
        redis_url: str,
        *,
        grant_lifetime: int,
        unused_client_lifetime: int = Lifetimes().unused_client,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        password: str | None = None,
        denials: Denials | None = None,
        on_revoked: Callable[[Grant], None] = lambda _grant: None,
    ) -> None:
        """Connect lazily. `grant_lifetime` is how many seconds a grant outlives its last use.

        Without `denials` no grant ends that Redis cannot forget, and a power cut may bring back one that has ended.
        """
        self._denials = denials
        self.deferred = 0
        """How many grants this has ended while Redis took no writes: denied until Redis forgets them."""
        self._on_revoked = on_revoked
        self._is_replicated = is_replicated(redis_url)
        self._redis = connect(
            redis_url,
            password=password,
            decode_responses=True,
            socket_timeout=_SOCKET_TIMEOUT,
            socket_connect_timeout=_SOCKET_TIMEOUT,
            # One immediate retry covers a connection that Redis' restart has cut; more would queue up requests.
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        )
        self.ephemeral = Ephemeral(self._redis)
        self.sessions = Sessions(self._redis)
        self.approvals = Approvals(self._redis)
        self._grant_lifetime = grant_lifetime
        self._unused_client_lifetime = unused_client_lifetime
        self._limits = limits
        self._add_client = self._redis.register_script(_ADD_CLIENT)
        self._redeem = self._redis.register_script(_REDEEM)
        self._rotate = self._redis.register_script(_ROTATE)
        self._replace_login = self._redis.register_script(_REPLACE_LOGIN)

    @property
    def connection(self) -> redis.Redis:
        """The connection pool, for what is not kept here."""
        return self._redis

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    # Clients

    @denies_when_unavailable
    def add_client(self, client: Client) -> None:
        """Store a new registration, which goes away unless it is used."""
        self._add_client(
            keys=[_client_key(client.client_id), _UNUSED_CLIENTS],
            args=[
                _dump_client(client),
                self._unused_client_lifetime,
                client.client_id,
                time.time(),
                self._limits.unused_clients,
                _client_key(""),
            ],
        )

    @denies_when_unavailable
    def find_client(self, client_id: str) -> Client | None:
        """Return a registered client."""
        document = cast("str | None", self._redis.get(_client_key(client_id)))
        return load_client(document) if document is not None else None

    @denies_when_unavailable
    def has_logged_in(self, client_id: str) -> bool:
        """Whether a user who is allowed in has logged in with a client, no longer ago than a grant lives unused."""
        return bool(self._redis.exists(_client_index(client_id)))

    @denies_when_unavailable
    def update_client(self, client: Client) -> None:
        """Replace a registration that still exists; how long it lives does not change."""
        self._redis.set(_client_key(client.client_id), _dump_client(client), xx=True, keepttl=True)

    @denies_when_unavailable
    def remove_client(self, client_id: str, *, by: str) -> list[Grant]:
        """Remove a registration, and end every grant of it; return those that lived. `by` is for the audit log.

        Raises PartlyRefused if Redis keeps the registration because it takes no writes.
        """
        refusals: list[WritesRefused] = []
        with _going_on(refusals), self._redis.pipeline() as transaction:
            transaction.delete(_client_key(client_id))
            transaction.zrem(_UNUSED_CLIENTS, client_id)
            if transaction.execute()[0]:
                audit.record(Event.CLIENT_DELETED, client=client_id, by=by)
        sids = cast("list[str]", self._redis.zrange(_client_index(client_id), 0, -1))
        return _unless_refused(self.revoke_grants(sids, by=by, reason="the client was deleted"), refusals)

    # Codes and grants

    @denies_when_unavailable
    def add_code(self, code: str, record: Code, grant: Grant) -> None:
        """Store a code together with the grant it will yield, which dies with the code unless redeemed."""
        now = int(time.time())
        with self._redis.pipeline() as transaction:
            transaction.set(f"code:{hash_secret(code)}", json.dumps(dataclasses.asdict(record)), ex=CODE_MEMORY)
            transaction.set(_grant_key(grant.sid), json.dumps(dataclasses.asdict(grant)), ex=CODE_MEMORY)
            for index in _indices(grant):
                transaction.zremrangebyscore(index, "-inf", now - self._grant_lifetime)
            self._add_to_indices(transaction, grant, lifetime=CODE_MEMORY)
            transaction.execute()

    @denies_when_unavailable
    def add_grant(self, grant: Grant, *, lifetime: int) -> None:
        """Store a grant that needs no code and ends after `lifetime` seconds, used or not."""
        with self._redis.pipeline() as transaction:
            transaction.set(_grant_key(grant.sid), json.dumps(dataclasses.asdict(grant)), ex=lifetime)
            self._add_to_indices(transaction, grant, lifetime=lifetime)
            transaction.execute()

    def _add_to_indices(self, transaction: redis.client.Pipeline, grant: Grant, *, lifetime: int) -> None:
        for index in _indices(grant):
            transaction.zadd(index, {grant.sid: self._rank(lifetime)})
            # Never shortened: what is in no index cannot be found when the user's access is to end.
            prolong(transaction, index, lifetime=max(lifetime, self._grant_lifetime))

    def _rank(self, lifetime: int) -> int:
        """Return where a grant stands in the indices that ends so many seconds from now unless used.

        They order by last use, and forget what was not used for a grant's usual lifetime.
        """
        return int(time.time()) + lifetime - self._grant_lifetime

    @denies_when_unavailable
    def find_code(self, code: str) -> Code | None:
        """Return what a code stands for, also once it is expired or redeemed. Changes nothing."""
        document = cast("str | None", self._redis.get(f"code:{hash_secret(code)}"))
        return Code(**json.loads(document)) if document is not None else None

    @denies_when_unavailable
    def was_redeemed(self, code: str) -> bool:
        """Whether anyone has turned the code into a grant; remembered for longer than what it stands for."""
        return bool(self._redis.exists(f"redeemed:{hash_secret(code)}"))

    @denies_when_unavailable
    def redeem_code(
        self, code: str, record: Code, grant: Grant, *, with_refresh_token: bool, grant_lifetime: int
    ) -> Redemption:
        """Turn a code into a living grant: of all that try, one gets DONE.

        A user who then has too many grants for that client loses those used least recently.
        """
        result = self._redeem(
            keys=[
                f"redeemed:{hash_secret(code)}",
                _grant_key(record.sid),
                _refresh_key(record.sid),
                _client_key(record.client_id),
                _UNUSED_CLIENTS,
                *_indices(grant),
            ],
            args=[
                CODE_MEMORY,
                grant_lifetime,
                int(with_refresh_token),
                self._grant_lifetime + self._unused_client_lifetime,
                # A command that is sent again because its connection broke is not a replay.
                secrets.token_urlsafe(8),
                record.client_id,
                record.sid,
                self._rank(grant_lifetime),
                self._grant_lifetime,
            ],
        )
        redemption = Redemption(result)
        if redemption is Redemption.DONE:
            self._end_surplus(grant)
        return redemption

    def _end_surplus(self, newest: Grant) -> None:
        own = self.find_grants_of_user(newest.sub, client_id=newest.client_id)
        own.sort(key=lambda each: (each.grant.sid == newest.sid, each.last_used or each.grant.created_at))
        surplus = [each.grant.sid for each in own[: max(len(own) - self._limits.grants_per_client, 0)]]
        self.revoke_grants(surplus, by="gateway", reason="the user has newer ones for this client")

    @denies_when_unavailable
    def find_grant(self, sid: str) -> Grant | None:
        """Return a grant if it lives; its existence is what makes its access tokens good."""
        if self._is_denied(sid):
            return None
        document = cast("str | None", self._redis.get(_grant_key(sid)))
        return Grant(**json.loads(document)) if document is not None else None

    @denies_when_unavailable
    def count_grants(self) -> int:
        """Count the grants that live, by looking at every key."""
        return sum(1 for _ in self._redis.scan_iter(match=GRANT_PREFIX + "*", count=BATCH))

    @denies_when_unavailable
    def rotate(self, grant: Grant, *, generation: int) -> tuple[Rotation, int]:
        """Use the refresh token of a generation; ROTATED makes the next current and prolongs the grant.

        The number is the generation to hand out, if any.
        """
        result, successor = self._rotate(
            keys=[
                _refresh_key(grant.sid),
                _grant_key(grant.sid),
                _client_key(grant.client_id),
                _login_key(grant.sub),
                *_indices(grant),
            ],
            args=[
                generation,
                int(time.time()),
                ROTATION_GRACE,
                self._grant_lifetime,
                self._grant_lifetime + self._unused_client_lifetime,
                grant.sid,
                LOST_ANSWER_SECONDS,
            ],
        )
        return Rotation(result), successor

    @denies_when_unavailable
    def keep_login(self, sub: str, sealed: str) -> None:
        """Keep what asks the identity provider about a user again, as long as the user has a grant."""
        self._redis.set(_login_key(sub), sealed, ex=self._grant_lifetime)

    @denies_when_unavailable
    def replace_login(self, sub: str, sealed: str, *, by: str) -> None:
        """Keep something else of the same login, unless the user has logged in anew or has no grant any more."""
        self._replace_login(keys=[_login_key(sub)], args=[sealed, by])

    @denies_when_unavailable
    def find_login(self, sub: str) -> str | None:
        """Return what was kept of a user's last login."""
        return cast("str | None", self._redis.get(_login_key(sub)))

    @denies_when_unavailable
    def find_refresh_expiry(self, sid: str, *, generation: int) -> int | None:
        """Return when the refresh token of that generation ends, None if it is not the current one."""
        with self._redis.pipeline() as transaction:
            transaction.hget(_refresh_key(sid), "current")
            transaction.ttl(_refresh_key(sid))
            current, lifetime = transaction.execute()
        return int(time.time()) + lifetime if current == str(generation) else None

    @denies_when_unavailable
    def revoke_grant(self, sid: str, *, by: str, reason: str) -> Grant | None:
        """As `revoke_grants`, for one; return it if it lived."""
        return next(iter(self.revoke_grants([sid], by=by, reason=reason)), None)

    @denies_when_unavailable
    def revoke_grants(self, sids: Iterable[str], *, by: str, reason: str) -> list[Grant]:
        """End grants and every token and code of them, everywhere; return those that lived.

        When this returns, no worker admits a token of them any more, not even one that has just lost Redis.
        `by` and `reason` are for the audit log: see `audit.record`.
        """
        ended: list[Grant] = []
        remaining = iter(sids)
        while batch := list(itertools.islice(remaining, BATCH)):
            ended += self._end_grants(batch, by=by, reason=reason)
        if ended:
            time.sleep(REVOCATION_SECONDS)
        return ended

    def _end_grants(self, sids: list[str], *, by: str, reason: str) -> list[Grant]:
        """All revoking goes through here: workers hear of it from Redis (`grant_liveness`), bridges from `on_revoked`.

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
            self.deferred += len(ended)
        for grant in ended:
            audit.record(Event.GRANT_REVOKED, of=grant, by=by, reason=reason)
            self._on_revoked(grant)
        return ended

    def _find_alive(self, sids: list[str]) -> list[Grant]:
        documents = cast("list[str | None]", self._redis.mget([_grant_key(sid) for sid in sids]))
        return [Grant(**json.loads(document)) for document in documents if document is not None]

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
            for index in _indices(grant):
                entries.setdefault(index, []).append(grant.sid)
        with self._redis.pipeline(transaction=False) as pipeline:
            if alive:
                pipeline.publish(CHANNEL, " ".join(grant.sid for grant in alive))
            pipeline.delete(*(key for sid in sids for key in (_grant_key(sid), _refresh_key(sid))))
            for index, own in entries.items():
                pipeline.zrem(index, *own)
            for sub in {grant.sub for grant in alive}:
                pipeline.eval(_DROP_LOGIN, 2, _user_index(sub), _login_key(sub))
            if self._is_replicated:
                pipeline.wait(1, _REPLICATION_MILLISECONDS)
            answers = pipeline.execute()
        if self._is_replicated and answers[-1] == 0:
            unreplicated = ", ".join(sids)
            log.warning(
                "revocation.unreplicated: a replica that takes over now would not know of it: grant %s", unreplicated
            )

    @denies_when_unavailable
    def delete_again(self, sids: list[str]) -> list[str]:
        """End grants that have been ended before, where Redis has them still, and tell all hosts; return those."""
        alive = self._find_alive(sids)
        if alive:
            self._delete([grant.sid for grant in alive], alive)
        return [grant.sid for grant in alive]

    @denies_when_unavailable
    def find_persistence(self) -> Persistence:
        """Ask Redis how it keeps what it is told."""
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.info("server")
            pipeline.info("persistence")
            server, persistence = pipeline.execute()
        appends = bool(persistence["aof_enabled"])
        status = persistence["aof_last_write_status" if appends else "rdb_last_bgsave_status"]
        return Persistence(run=str(server["run_id"]), appends=appends, is_writing=status == "ok")

    def _is_denied(self, sid: str) -> bool:
        if self._denials is None:
            return False
        self._denials.refresh()
        return sid in self._denials

    @denies_when_unavailable
    def find_grants_of_user(self, sub: str, *, client_id: str | None = None) -> list[LiveGrant]:
        """Return the live grants of a user, or those of one client among them, the oldest first."""
        indices = [_user_index(sub)] if client_id is None else [_user_index(sub), _client_index(client_id)]
        sids = cast("list[str]", self._redis.zinter(indices))
        with self._redis.pipeline(transaction=False) as pipeline:
            for sid in sids:
                pipeline.get(_grant_key(sid))
                # A refresh token is prolonged at each use: what is left of its life tells when that was.
                pipeline.ttl(_refresh_key(sid))
            answers = pipeline.execute()
        now = int(time.time())
        return [
            LiveGrant(
                grant=Grant(**json.loads(document)), last_used=now - (self._grant_lifetime - left) if left > 0 else None
            )
            for sid, document, left in zip(sids, answers[::2], answers[1::2], strict=True)
            if document is not None and not self._is_denied(sid)
        ]

    @denies_when_unavailable
    def revoke_access(
        self, sub: str, *, by: str, client_id: str | None = None, resource_url: str | None = None
    ) -> list[Grant]:
        """End what a user has granted, to all or to one client, on all or on one resource; return what lived.

        What the user approved of it is forgotten: it will be asked for again. `by` is for the audit log.
        Raises PartlyRefused if Redis keeps the approvals because it takes no writes.
        """
        refusals: list[WritesRefused] = []
        with _going_on(refusals):
            if self.approvals.forget(sub, client_id=client_id, resource_url=resource_url):
                audit.record(Event.CONSENT_WITHDRAWN, user=sub, client=client_id, resource=resource_url, by=by)
        sids = [
            live.grant.sid
            for live in self.find_grants_of_user(sub, client_id=client_id)
            if resource_url in {None, live.grant.resource}
        ]
        return _unless_refused(self.revoke_grants(sids, by=by, reason="the user's access was ended"), refusals)

    @denies_when_unavailable
    def end_user(self, sub: str, *, by: str) -> list[Grant]:
        """As `revoke_access`, and sign the user out of every browser. Raises PartlyRefused as well."""
        refusals: list[WritesRefused] = []
        with _going_on(refusals):
            self.sessions.end_all(sub)
            audit.record(Event.SESSION_ENDED, user=sub, by=by, reason="the user's access was ended")
        return _unless_refused(self.revoke_access(sub, by=by), refusals)

    # Pinned logins

    @denies_when_unavailable
    def find_pins(self, provider: str) -> dict[str, str]:
        """Return the subjects that the logins of a provider are pinned to."""
        return cast("dict[str, str]", self._redis.hgetall(f"pins:{provider}"))

    @denies_when_unavailable
    def pin(self, provider: str, login: str, subject: str) -> str:
        """Pin a login to the subject unless it is pinned already, and return whom it is pinned to."""
        with self._redis.pipeline() as transaction:
            transaction.hsetnx(f"pins:{provider}", login, subject)
            transaction.hget(f"pins:{provider}", login)
            return str(transaction.execute()[1])

    @denies_when_unavailable
    def unpin(self, provider: str, login: str, *, by: str) -> str | None:
        """Forget whom a login is pinned to, and return it: whoever comes in by that name next has it."""
        key = f"pins:{provider}"
        subject = cast("str | None", self._redis.hget(key, login))
        if subject is None or not self._redis.hdel(key, login):
            return None
        audit.record(Event.NAME_UNPINNED, user=subject, name=login, by=by)
        return subject


@contextmanager
def _going_on(refusals: list[WritesRefused]) -> Iterator[None]:
    """Note that Redis takes no writes, and go on: what can end nonetheless has to."""
    try:
        with denial():
            yield
    except WritesRefused as refusal:
        refusals.append(refusal)


def _unless_refused(ended: list[Grant], refusals: list[WritesRefused]) -> list[Grant]:
    """Return what has ended. Raises PartlyRefused if something else has not."""
    if refusals:
        raise PartlyRefused(refusals[0].reason, ended=len(ended))
    return ended


def new_sid() -> str:
    """Return a fresh grant id."""
    return secrets.token_urlsafe(24)


def _login_key(sub: str) -> str:
    return f"login-of-user:{sub}"


def _client_key(client_id: str) -> str:
    return CLIENT_PREFIX + client_id


def _grant_key(sid: str) -> str:
    return GRANT_PREFIX + sid


def _refresh_key(sid: str) -> str:
    return REFRESH_PREFIX + sid


def _indices(grant: Grant) -> tuple[str, str]:
    return _user_index(grant.sub), _client_index(grant.client_id)


def _user_index(sub: str) -> str:
    return USER_INDEX_PREFIX + sub


def _client_index(client_id: str) -> str:
    return CLIENT_INDEX_PREFIX + client_id


def _dump_client(client: Client) -> str:
    return json.dumps(
        {
            "client_id": client.client_id,
            "metadata": client.metadata.model_dump(exclude_none=True),
            "secret_hash": client.secret_hash,
            "registration_token_hash": client.registration_token_hash,
            "issued_at": client.issued_at,
        }
    )


def load_client(document: str) -> Client:
    """Return a client from its stored form."""
    members = json.loads(document)
    return Client(**{**members, "metadata": ClientMetadata.model_validate(members["metadata"])})
