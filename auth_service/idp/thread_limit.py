"""How many threads of a worker may wait for another service, so that a slow one cannot block all of them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from auth_service.protocol.errors import ServiceUnavailable


class ThreadLimit:
    """Counts the threads that wait for one service, also while they wait for their turn."""

    def __init__(self, dependency: str, *limits: threading.BoundedSemaphore) -> None:
        """`dependency` is the service's name in errors. A thread counts in each of `limits`, which may be shared."""
        self._dependency = dependency
        self._limits = limits
        self._own = threading.local()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count this thread once, however often it enters. Raises ServiceUnavailable above a limit."""
        if getattr(self._own, "is_counted", False):
            yield
            return
        with contextlib.ExitStack() as counted:
            for limit in self._limits:
                if not limit.acquire(blocking=False):
                    raise ServiceUnavailable(self._dependency)
                counted.callback(limit.release)
            self._own.is_counted = True
            try:
                yield
            finally:
                self._own.is_counted = False
