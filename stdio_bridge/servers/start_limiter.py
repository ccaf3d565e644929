"""How many processes may be starting at once: a start costs a core for as long as it takes."""

from __future__ import annotations

import collections
import logging
from collections.abc import Callable

log = logging.getLogger(__name__)


class StartPermit:
    """The right to start one process: waited for, held while the process starts, and released."""

    __slots__ = ("_granted", "_limiter", "user")

    def __init__(self, limiter: StartLimiter, granted: Callable[[], None], user: str | None) -> None:
        self._limiter = limiter
        self._granted = granted
        self.user = user

    def grant(self) -> None:
        """Let it start; called by the limiter."""
        self._granted()

    def release(self) -> None:
        """Release it, or stop waiting for it. Harmless if it was released already."""
        self._limiter.give_back(self)


class StartLimiter:
    """Gives a bounded number of permits: to users in turn, and to each in the order of asking.

    So a user who asks for many, or whose processes take long to start, does not make other users wait for all of them.
    A start without a user, which is that of a spare process, comes after all others.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._held: set[StartPermit] = set()
        # By user, in the order in which the users have their turns. Each list has at least one permit that waits.
        self._turns: dict[str, collections.deque[StartPermit]] = {}
        self._spare: collections.deque[StartPermit] = collections.deque()

    @property
    def waiting(self) -> int:
        """How many wait, without those of spare processes."""
        return sum(map(len, self._turns.values()))

    def ask(self, granted: Callable[[], None], *, user: str | None) -> StartPermit:
        """Call `granted` when it may start, which may be before this returns. A spare process has no user."""
        permit = StartPermit(self, granted, user)
        if user is None:
            self._spare.append(permit)
        else:
            self._turns.setdefault(user, collections.deque()).append(permit)
        self._serve()
        return permit

    def give_back(self, permit: StartPermit) -> None:
        """Take a permit back, or off its queue."""
        if permit in self._held:
            self._held.remove(permit)
            self._serve()
            return
        queue = self._spare if permit.user is None else self._turns.get(permit.user)
        if queue is None or permit not in queue:
            return
        queue.remove(permit)
        if permit.user is not None and not queue:
            del self._turns[permit.user]

    def _take_next(self) -> StartPermit | None:
        if not self._turns:
            return self._spare.popleft() if self._spare else None
        user = next(iter(self._turns))
        queue = self._turns.pop(user)
        permit = queue.popleft()
        if queue:
            self._turns[user] = queue  # behind all other users
        return permit

    def _serve(self) -> None:
        while len(self._held) < self._count and (permit := self._take_next()) is not None:
            self._held.add(permit)
            try:
                permit.grant()
            except Exception:
                # The other processes must start all the same, and who asks or releases now has not failed.
                log.exception("a start failed")
                self._held.discard(permit)
