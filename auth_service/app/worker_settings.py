"""Memory that all workers share, with the settings that each has: routes wait until all have the same."""

from __future__ import annotations

import mmap
from typing import Final

MAX_SLOTS: Final = 4096
_GENERATIONS: Final = 255


class WorkerSettings:
    """One byte for each slot, in memory that forked processes share: the number of the settings of its worker.

    It is 0 for a slot without a worker that takes requests.
    """

    def __init__(self) -> None:
        """The process that forks the workers makes it."""
        self._served = mmap.mmap(-1, MAX_SLOTS)
        self._current = 1

    def renew(self) -> None:
        """Note that workers which start from now on have newer settings than all others."""
        self._current = self._current % _GENERATIONS + 1

    def begin(self, slot: int) -> None:
        """Note that the worker in that slot is about to take requests."""
        self._served[slot] = self._current

    def end(self, slot: int) -> None:
        """Note that the worker in that slot takes no more requests."""
        self._served[slot] = 0

    def are_everywhere(self, slot: int) -> bool:
        """Whether each worker that takes requests has the settings of the one in that slot."""
        return set(self._served[:]) <= {0, self._served[slot]}
