"""How many processes may be starting at once: a start costs a core for as long as it takes."""

from __future__ import annotations

import collections
from collections.abc import Callable


class Slot:
    """The right to start one process: waited for, had while it starts, and given back."""

    __slots__ = ("_granted", "_slots")

    def __init__(self, slots: Slots, granted: Callable[[], None]) -> None:
        self._slots = slots
        self._granted = granted

    def grant(self) -> None:
        """Let it start; called by the slots."""
        self._granted()

    def release(self) -> None:
        """Give it back, or wait for it no longer. Harmless when it was given back already."""
        self._slots.give_back(self)


class Slots:
    """A bounded number of slots. Who asks is served in order, and who can wait after all others."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._had: set[Slot] = set()
        self._waiting: collections.deque[Slot] = collections.deque()
        self._patient: collections.deque[Slot] = collections.deque()

    @property
    def waiting(self) -> int:
        """How many wait, those that can wait aside."""
        return len(self._waiting)

    def ask(self, granted: Callable[[], None], *, patient: bool = False) -> Slot:
        """Call `granted` when it may start, which may be before this returns."""
        slot = Slot(self, granted)
        (self._patient if patient else self._waiting).append(slot)
        self._serve()
        return slot

    def give_back(self, slot: Slot) -> None:
        """Take a slot back, or off its queue."""
        if slot in self._had:
            self._had.remove(slot)
            self._serve()
            return
        for queue in (self._waiting, self._patient):
            if slot in queue:
                queue.remove(slot)

    def _serve(self) -> None:
        while len(self._had) < self._count and (self._waiting or self._patient):
            slot = (self._waiting or self._patient).popleft()
            self._had.add(slot)
            slot.grant()
