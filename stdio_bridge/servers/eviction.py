"""Chooses which session or process ends to make room when a limit is reached. No I/O, no clock."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

# Guesses: a running call may end at any time, and the end of some streams is unknown.
CALL_SECONDS = 5.0
_UNKNOWN_SECONDS = 60.0


class Occupant(Protocol):
    """What a user's limit counts: a session, or a server process."""

    @property
    def user(self) -> str:
        """The user whose limit counts it."""

    @property
    def idle_since(self) -> float | None:
        """When it was last used; None while a call or an open stream needs it."""

    @property
    def seconds_in_use(self) -> float:
        """About how long a call or a stream still needs it; infinite if that is unknown."""

    def evict(self) -> None:
        """End, to make room for another."""


class Idling(Protocol):
    """An occupant that ends when it has been idle for too long."""

    last_used: float

    @property
    def idle_since(self) -> float | None:
        """When it was last used; None while a call or an open stream needs it."""

    def stop(self, reason: str) -> None:
        """End it."""


def end_if_idle(occupant: Idling, now: float, *, idle_timeout: float) -> None:
    """End an occupant that has been idle for longer than that; note the time while it is in use."""
    if occupant.idle_since is None:
        occupant.last_used = now
    elif now - occupant.last_used > idle_timeout:
        occupant.stop("it was idle")


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How many places there are, and how many of them one user may take."""

    in_all: int
    of_user: int


class Full(Exception):
    """Everything that could make room is in use. After `retry_seconds` that may have changed."""

    def __init__(self, *, of_user: bool, retry_seconds: int) -> None:
        super().__init__()
        self.of_user = of_user
        self.retry_seconds = retry_seconds


_O = TypeVar("_O", bound=Occupant)


def find_victim(occupants: Iterable[_O], user: str, bounds: Bounds) -> _O | None:
    """Return the occupant that must end before the user can have one more; None if there is room. Raises Full.

    It is always one that is idle, the least recently used. At the bound of one user it is the user's own. At the bound
    of all users it is one of the user with the most occupants, and never of a user with fewer than `user` has.
    """
    held: dict[str, list[_O]] = collections.defaultdict(list)
    for occupant in occupants:
        held[occupant.user].append(occupant)
    own = len(held[user])
    of_user = own >= bounds.of_user
    if of_user:
        candidates = [user]
    elif sum(map(len, held.values())) < bounds.in_all:
        return None
    else:
        # If others have as many as `user`, `user` comes first.
        candidates = sorted(held, key=lambda name: (len(held[name]), name == user), reverse=True)
        candidates = [name for name in candidates if len(held[name]) >= own]
    for name in candidates:
        if (victim := _least_recently_used(held[name])) is not None:
            return victim
    raise Full(of_user=of_user, retry_seconds=_first_free(o for name in candidates for o in held[name]))


def _least_recently_used(occupants: Iterable[_O]) -> _O | None:
    idle = [(since, o) for o in occupants if (since := o.idle_since) is not None]
    return min(idle, key=lambda pair: pair[0])[1] if idle else None


def _first_free(occupants: Iterable[Occupant]) -> int:
    seconds = min((occupant.seconds_in_use for occupant in occupants), default=math.inf)
    return max(1, math.ceil(_UNKNOWN_SECONDS if math.isinf(seconds) else seconds))
