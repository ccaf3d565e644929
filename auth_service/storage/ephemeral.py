"""State that is of no worth after minutes or hours: logins under way, quotas, used-up identifiers, documents, locks.

| key | value | lives |
|---|---|---|
| `login:HASH` | an approved authorization request on its way through the identity provider | 10 minutes |
| `logins` | the hashes of those, by the time they were sent there | as the newest of them |
| `quota:NAME:HASH` | how often something was done in the current window | one window |
| `wait:HASH` | how long an address was just told to wait, by a group of endpoints | seconds |
| `used:HASH` | by which attempt a client assertion's `jti` was used | as long as the assertion could be believed |
| `document:HASH` | a client's metadata document or key set, as fetched | a day at most |
| `documents` | the hashes of those, by the time they were fetched | as the newest of them |
| `lock:HASH` | that someone is at work | seconds |
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import redis
from redis.exceptions import LockError

from auth_service.protocol.errors import ServiceUnavailable, TooManyRequests, WritesRefused

MAX_DOCUMENTS = 1000
WAIT_IS_NOTED_SECONDS = 2
MAX_LOGINS = 10_000
"""Of a KiB as a rule, and of a few more by a long `state`. Anyone can approve requests of their own, and never come
back.
"""

_REFUSAL = re.compile(r"\b(MISCONF|NOREPLICAS|OOM|READONLY)\b")

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S")

# Answers 0 for a use that counts, else the seconds to wait, of which Redis' TTL says 0 for less than half a second.
# KEYS quota · ARGV limit, window
_TAKE = """
if tonumber(redis.call('GET', KEYS[1]) or '0') >= tonumber(ARGV[1]) then
  return math.max(redis.call('TTL', KEYS[1]), 1)
end
if redis.call('INCR', KEYS[1]) == 1 then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
return 0
"""

# KEYS used · ARGV attempt, seconds
_USE = """
local user = redis.call('GET', KEYS[1])
if user and user ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
"""

# The oldest go when there are too many: whoever publishes a thousand documents forgets their own first, and a flood of
# logins leaves time for honest ones.
# KEYS index, entry · ARGV value, lifetime, hash, now, most, prefix
_KEEP = """
redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2])
redis.call('ZADD', KEYS[1], ARGV[4], ARGV[3])
redis.call('EXPIRE', KEYS[1], 86400)
local excess = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[5])
if excess > 0 then
  for _, hash in ipairs(redis.call('ZRANGE', KEYS[1], 0, excess - 1)) do redis.call('DEL', ARGV[6] .. hash) end
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, excess - 1)
end
"""


# `EXPIRE … GT` would do, but Redis knows it only since 7.0.
# KEYS any · ARGV lifetime
_PROLONG = "if redis.call('TTL', KEYS[1]) < tonumber(ARGV[1]) then redis.call('EXPIRE', KEYS[1], ARGV[1]) end"


def prolong(transaction: redis.client.Pipeline, key: str, *, lifetime: int) -> None:
    """Let a key live for so many seconds from now at least; never shorter than it would."""
    transaction.eval(_PROLONG, 1, key, lifetime)


@contextmanager
def denial() -> Iterator[None]:
    """Turn every failure of Redis into the one error that denies."""
    try:
        yield
    except redis.RedisError as error:
        raise (WritesRefused(str(error)) if is_refusal(error) else ServiceUnavailable("Redis")) from error


def is_refusal(error: redis.RedisError) -> bool:
    """Whether Redis answered that it takes no writes now."""
    return isinstance(error, redis.ReadOnlyError | redis.OutOfMemoryError) or (
        # Inside of scripts and pipelines something stands before the code.
        isinstance(error, redis.ResponseError) and bool(_REFUSAL.search(str(error)))
    )


def denies_when_unavailable(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """As `denial`, for a whole method that returns its result at once."""

    @functools.wraps(method)
    def call(owner: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with denial():
            return method(owner, *args, **kwargs)

    return call


@dataclass(frozen=True, kw_only=True)
class Document:
    """What was fetched from a URL. Times are in seconds since 1970."""

    body: str
    fresh_until: float
    etag: str | None


class Ephemeral:
    """Typed access to it. Every method raises ServiceUnavailable when Redis does not answer."""

    def __init__(self, connection: redis.Redis) -> None:
        """Share a connection pool."""
        self._redis = connection
        self._take = connection.register_script(_TAKE)
        self._use = connection.register_script(_USE)
        self._keep = connection.register_script(_KEEP)

    @denies_when_unavailable
    def take(self, quota: str, holder: str, *, limit: int, window: int) -> None:
        """Count one use of a quota by its holder; raises TooManyRequests beyond `limit` in `window` seconds."""
        wait = cast("int", self._take(keys=[f"quota:{quota}:{_hash(holder)}"], args=[limit, window]))
        if wait != 0:
            raise TooManyRequests(retry_after=wait)

    @denies_when_unavailable
    def note_wait(self, holder: str, seconds: int) -> None:
        """Keep for a moment how long a holder was told to wait."""
        self._redis.set(f"wait:{_hash(holder)}", seconds, ex=WAIT_IS_NOTED_SECONDS)

    @denies_when_unavailable
    def find_wait(self, holder: str) -> int:
        """Return how long a holder was told to wait a moment ago, 0 if it was not."""
        return int(cast("str | None", self._redis.get(f"wait:{_hash(holder)}")) or 0)

    @denies_when_unavailable
    def use_once(self, identifier: str, *, seconds: int) -> bool:
        """Whether this is the identifier's first use; remembered for so long, whatever time Redis' clock shows."""
        # A command that is sent again because its connection broke is not a second use.
        return bool(self._use(keys=[f"used:{_hash(identifier)}"], args=[secrets.token_urlsafe(8), seconds]))

    @denies_when_unavailable
    def add_login(self, state: str, login: dict[str, Any], *, lifetime: int) -> None:
        """Keep what the callback needs, under the hash of the upstream `state`."""
        name = _hash(state)
        self._keep(
            keys=["logins", f"login:{name}"],
            args=[json.dumps(login), lifetime, name, time.time(), MAX_LOGINS, "login:"],
        )

    @denies_when_unavailable
    def consume_login(self, state: str, *, browser: str) -> dict[str, Any] | None:
        """Return a login of that browser once: a second request finds nothing, and another browser uses nothing up."""
        key = f"login:{_hash(state)}"
        login: dict[str, Any] | None = None
        for read in (self._redis.get, self._redis.getdel):
            document = cast("str | None", read(key))
            login = json.loads(document) if document is not None else None
            if login is None or not hmac.compare_digest(login["browser"], browser):
                return None
        return login

    @denies_when_unavailable
    def find_document(self, url: str) -> Document | None:
        """Return what was kept of a URL, fresh or not."""
        stored = cast("str | None", self._redis.get(f"document:{_hash(url)}"))
        return None if stored is None else Document(**json.loads(stored))

    @denies_when_unavailable
    def keep_document(self, url: str, document: Document, *, lifetime: int) -> None:
        """Keep a document for that many seconds."""
        name = _hash(url)
        value = json.dumps(asdict(document))
        self._keep(
            keys=["documents", f"document:{name}"],
            args=[value, lifetime, name, time.time(), MAX_DOCUMENTS, "document:"],
        )

    @denies_when_unavailable
    def drop_document(self, url: str) -> None:
        """Forget a document."""
        self._redis.delete(f"document:{_hash(url)}")

    @contextmanager
    def only_one(self, name: str, *, seconds: float, wait: float) -> Iterator[None]:
        """Hold a lock that ends by itself after `seconds`, having waited at most `wait` for another holder.

        Raises ServiceUnavailable if it does not become free.
        """
        lock: Any = self._redis.lock(f"lock:{_hash(name)}", timeout=seconds, sleep=0.02, blocking_timeout=wait)
        try:
            is_held = lock.acquire()
        except redis.RedisError as error:
            raise ServiceUnavailable("Redis") from error
        if not is_held:
            raise ServiceUnavailable("another request for the same thing")
        try:
            yield
        finally:
            try:
                lock.release()
            except LockError:
                pass  # it had ended by itself
            except redis.RedisError as error:
                raise ServiceUnavailable("Redis") from error


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
