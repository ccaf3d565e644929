"""A limit on the bytes of all request bodies in memory, in all and for each user. No I/O."""

from __future__ import annotations

import collections
from collections.abc import Callable, Hashable, Mapping

# Smaller bodies are not counted: most bodies are smaller, and the limit on connections bounds their sum.
SMALL_BYTES = 64 * 1024


class BodyBudget:
    """Room for the bodies of requests that are being read or answered. `owner_of` finds a request's user by headers."""

    def __init__(
        self, *, max_bytes: int, max_bytes_of_one: int, owner_of: Callable[[Mapping[str, str]], Hashable]
    ) -> None:
        self.owner_of = owner_of
        self._max_bytes = max_bytes
        self._max_bytes_of_one = max_bytes_of_one
        self._taken: collections.Counter[Hashable] = collections.Counter()
        self._all = 0

    def take(self, owner: Hashable, size: int) -> bool:
        """Reserve room. Returns whether there was enough."""
        if self._all + size > self._max_bytes or self._taken[owner] + size > self._max_bytes_of_one:
            return False
        self._all += size
        self._taken[owner] += size
        return True

    def give_back(self, owner: Hashable, size: int) -> None:
        """Give room back."""
        self._all -= size
        self._taken[owner] -= size
        if not self._taken[owner]:
            del self._taken[owner]
