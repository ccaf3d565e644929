"""The rotation of signing keys, on which all workers and hosts agree.

A key is derived from the master key and the time from which it signs (`signing_keys`), so hosts need to agree on these
times only. Redis has the times, and which keys are retired; the files of each host follow within a second. The key that
signs next is published a whole interval ahead, at a time that every host computes in the same way. A key is retired
once the last token that it has signed has expired.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final, cast

import redis

from auth_service.ops import audit
from auth_service.ops.audit import Event
from auth_service.settings import Lifetimes
from auth_service.storage.key_names import SIGNED_UNTIL, SIGNING_KEYS
from auth_service.storage.redis_client import denies_when_unavailable

from .signing_keys import CLOCK_SKEW_SECONDS, SigningKey, SigningKeys

PUBLICATION_SECONDS: Final = 600
"""How long a key is in the JWKS before it signs: twice the time for which the JWKS may be cached."""
RETIREMENT_MARGIN_SECONDS: Final = 60
_NOTE_AHEAD_SECONDS: Final = 60
_LIVE: Final = "live"
_RETIRED: Final = "retired"


class KeyInUseError(Exception):
    """A key cannot be retired, as its tokens are still valid; the text is one line for the operator."""


@dataclass(frozen=True, kw_only=True)
class KeyState:
    """A key and its times, in seconds since 1970."""

    key: SigningKey
    signs_until: int | None
    """When the next key begins to sign; None if none is known."""
    needed_until: int | None
    """When its last token expires; None while the key may still sign."""

    def is_signing(self, now: float) -> bool:
        """Whether new tokens are signed with it."""
        return self.key.activation <= now and (self.signs_until is None or now < self.signs_until)


class KeyRotation:
    """Add and retire keys. Methods raise ServiceUnavailable when Redis does not answer."""

    def __init__(self, keys: SigningKeys, connection: redis.Redis, lifetimes: Lifetimes) -> None:
        """Share a connection pool that decodes responses."""
        self._keys = keys
        self._redis = connection
        self._lifetimes = lifetimes
        self._noted: dict[str, int] = {}

    @denies_when_unavailable
    def note_signature(self, kid: str, until: int) -> None:
        """Note until when a key's tokens are valid; this asks Redis at most once a minute."""
        if until > self._noted.get(kid, 0):
            self._noted[kid] = until + _NOTE_AHEAD_SECONDS
            self._redis.zadd(SIGNED_UNTIL, {kid: self._noted[kid]}, gt=True)

    @denies_when_unavailable
    def synchronize(self) -> None:
        """Make this host's keys those that all hosts agree on, and add and retire the keys that are due.

        Raises WritesRefused if Redis takes no writes; the keys of this host are up to date then.
        """
        now = time.time()
        agreed = self._find_agreed()
        for activation in (activation for activation, state in agreed.items() if state == _LIVE):
            self._keys.add(activation)
        for activation in (activation for activation, state in agreed.items() if state == _RETIRED):
            self._keys.remove(activation)
        for key in self._keys.all():
            if key.activation not in agreed:
                self._redis.hsetnx(SIGNING_KEYS, str(key.activation), _LIVE)
        interval = self._lifetimes.signing_key
        if interval is not None and all(key.activation <= now for key in self._keys.all()):
            following = (int(now + PUBLICATION_SECONDS) // interval + 1) * interval
            self._add(following, by="gateway")
        self._redis.zremrangebyscore(SIGNED_UNTIL, "-inf", now)
        for state in self.states():
            if state.needed_until is not None and state.needed_until < now:
                self._retire(state.key, by="gateway", reason="its last token has ended")

    @denies_when_unavailable
    def states(self) -> list[KeyState]:
        """Return every key, the oldest first."""
        keys = self._keys.all()
        signed_until = self._redis.zmscore(SIGNED_UNTIL, [key.kid for key in keys])
        following: list[SigningKey | None] = [*keys[1:], None]
        states = []
        for key, successor, noted in zip(keys, following, signed_until, strict=True):
            needed = None
            if successor is not None:
                last = max(successor.activation + self._lifetimes.access_token, int(noted or 0))
                needed = last + CLOCK_SKEW_SECONDS + RETIREMENT_MARGIN_SECONDS
            states.append(
                KeyState(key=key, signs_until=successor.activation if successor else None, needed_until=needed)
            )
        return states

    @denies_when_unavailable
    def rotate(self, *, delay: int = PUBLICATION_SECONDS) -> SigningKey:
        """Publish a key that signs from `delay` seconds on, for all hosts."""
        return self._add(int(time.time()) + delay, by="operator")

    @denies_when_unavailable
    def retire(self, kid: str, *, force: bool) -> None:
        """Retire a key at all hosts: its tokens are refused from then on.

        Raises KeyInUseError for a key whose tokens may still be valid, unless forced; if it is the signing key, a new
        one signs at once. Raises LookupError for an unknown key.
        """
        now = time.time()
        state = next((state for state in self.states() if state.key.kid == kid), None)
        if state is None:
            raise LookupError(kid)
        is_idle = state.needed_until is not None and state.needed_until < now
        if not (is_idle or force or state.key.activation > now):
            raise KeyInUseError(f"{kid}: tokens that it signed are still valid: wait, or refuse them all with --force")
        if state.is_signing(now):
            self._add(int(now), by="operator")
        self._retire(state.key, by="operator", reason="forced" if not is_idle else None)

    def _find_agreed(self) -> dict[int, str]:
        found = cast("dict[str, str]", self._redis.hgetall(SIGNING_KEYS))
        return {int(activation): state for activation, state in found.items() if activation.isdecimal()}

    def _add(self, activation: int, *, by: str) -> SigningKey:
        state = self._redis.hsetnx(SIGNING_KEYS, str(activation), _LIVE)
        self._keys.add(activation)
        key = next(key for key in self._keys.all() if key.activation == activation)
        if state:
            audit.record(Event.KEY_ADDED, key=key.kid, by=by)
        return key

    def _retire(self, key: SigningKey, *, by: str, reason: str | None) -> None:
        # First for all hosts, then here: a host that reads it in between removes the key too.
        is_news = self._redis.hset(SIGNING_KEYS, str(key.activation), _RETIRED) or self._keys.has(key)
        self._keys.remove(key.activation)
        self._redis.zrem(SIGNED_UNTIL, key.kid)
        if is_news:
            audit.record(Event.KEY_RETIRED, key=key.kid, by=by, reason=reason)
