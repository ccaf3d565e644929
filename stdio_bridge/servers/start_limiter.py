"""How many processes may be starting at once: a start costs a core for as long as it takes."""

from __future__ import annotations

import collections
import logging
from collections.abc import Callable

log = logging.getLogger(__name__)


class StartPermit:
    """The right to start one process: waited for, held while the process starts, and released."""

    __slots__ = ("_granted", "_limiter")

    def __init__(self, limiter: StartLimiter, granted: Callable[[], None]) -> None:
        self._limiter = limiter
        self._granted = granted

    def grant(self) -> None:
        """Let it start; called by the limiter."""
        self._granted()

    def release(self) -> None:
        """Release it, or stop waiting for it. Harmless if it was released already."""
        self._limiter.give_back(self)


class StartLimiter:
    """Gives a bounded number of permits, in the order they were asked for; low priority comes after all others."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._had: set[StartPermit] = set()
        self._waiting: collections.deque[StartPermit] = collections.deque()
        self._low_priority: collections.deque[StartPermit] = collections.deque()

    @property
    def waiting(self) -> int:
        """How many wait, without those of low priority."""
        return len(self._waiting)

    def ask(self, granted: Callable[[], None], *, low_priority: bool = False) -> StartPermit:
        """Call `granted` when it may start, which may be before this returns."""
        permit = StartPermit(self, granted)
        (self._low_priority if low_priority else self._waiting).append(permit)
        self._serve()
        return permit

    def give_back(self, permit: StartPermit) -> None:
        """Take a permit back, or off its queue."""
        if permit in self._had:
            self._had.remove(permit)
            self._serve()
            return
        for queue in (self._waiting, self._low_priority):
            if permit in queue:
                queue.remove(permit)

    def _serve(self) -> None:
        while len(self._had) < self._count and (self._waiting or self._low_priority):
            permit = (self._waiting or self._low_priority).popleft()
            self._had.add(permit)
            try:
                permit.grant()
            except Exception:
                # The other processes must start all the same, and who asks or releases now has not failed.
                log.exception("a start failed")
                self._had.discard(permit)
