"""How many calls each user may make within a minute. No I/O, no clock."""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping
from dataclasses import dataclass

_MINUTE = 60.0
# Calls within this time of each other count as one burst, which stays in the count until its last call is a minute old.
_TOGETHER_SECONDS = 5.0
_MAX_USERS = 10_000


@dataclass(frozen=True, slots=True)
class Quota:
    """How many calls each user may make within any minute. `name` tells a user over the quota which calls it counts."""

    name: str
    calls_per_minute: int


@dataclass(frozen=True, slots=True)
class Excess:
    """A quota that calls exceed, and in how many seconds they no longer would; None if they always would."""

    quota: Quota
    seconds: float | None


@dataclass(slots=True)
class _Burst:
    """Calls that came together."""

    first: float
    last: float
    calls: int


class _Window:
    """The calls of the last minute: at most one burst for each five seconds, however many calls there are."""

    __slots__ = ("_bursts", "_calls")

    def __init__(self) -> None:
        self._bursts: collections.deque[_Burst] = collections.deque()
        self._calls = 0

    def seconds_until_room(self, calls: int, limit: int, now: float) -> float | None:
        """Return how many seconds until `calls` more are within the limit, None if they never are."""
        while self._bursts and now - self._bursts[0].last >= _MINUTE:
            self._calls -= self._bursts.popleft().calls
        excess = self._calls + calls - limit
        if excess <= 0:
            return 0.0
        for burst in self._bursts:
            excess -= burst.calls
            if excess <= 0:
                return _MINUTE - (now - burst.last)
        return None

    def add(self, calls: int, now: float) -> None:
        """Count calls."""
        if not self._bursts or now - self._bursts[-1].first >= _TOGETHER_SECONDS:
            self._bursts.append(_Burst(now, now, 0))
        self._bursts[-1].last = now
        self._bursts[-1].calls += calls
        self._calls += calls


_EMPTY = _Window()


class _User:
    """The calls of one user, by the quota that counts them."""

    __slots__ = ("last", "windows")

    def __init__(self) -> None:
        self.windows: dict[Quota, _Window] = {}
        self.last = -math.inf


class CallRates:
    """The calls of the last minute, by user. Users without any take no memory."""

    def __init__(self, *, max_users: int = _MAX_USERS) -> None:
        self._max_users = max_users
        # By the time of their last call.
        self._users: collections.OrderedDict[str, _User] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._users)

    def counts_at(self, now: float) -> bool:
        """Whether any call was made within the last minute."""
        return bool(self._users) and now - next(reversed(self._users.values())).last < _MINUTE

    def seconds_until_room(self, user: str, now: float) -> float:
        """Return how many seconds this user must wait because the table of users is full of callers of this minute."""
        while self._users and self._seconds_of_oldest(now) <= 0:
            self._users.popitem(last=False)
        is_full = user not in self._users and len(self._users) >= self._max_users
        return self._seconds_of_oldest(now) if is_full else 0.0

    def find_excess(self, user: str, wanted: Mapping[Quota, int], now: float) -> Excess | None:
        """Return the quota that makes these calls wait longest, None if there is none. Counts nothing."""
        windows = self._users[user].windows if user in self._users else {}
        longest: Excess | None = None
        for quota, calls in wanted.items():
            seconds = windows.get(quota, _EMPTY).seconds_until_room(calls, quota.calls_per_minute, now)
            if seconds is None:
                return Excess(quota, None)
            if seconds > 0 and (longest is None or seconds > (longest.seconds or 0)):
                longest = Excess(quota, seconds)
        return longest

    def _seconds_of_oldest(self, now: float) -> float:
        """How many seconds until the user whose last call is the oldest has made no call for a minute."""
        return _MINUTE - (now - next(iter(self._users.values())).last)

    def count(self, user: str, wanted: Mapping[Quota, int], now: float) -> None:
        """Count calls, after `find_excess` has found nothing."""
        known = self._users.setdefault(user, _User())
        self._users.move_to_end(user)
        known.last = now
        for quota, calls in wanted.items():
            known.windows.setdefault(quota, _Window()).add(calls, now)
