"""Look up names with a deadline. getaddrinfo has none, so it runs in a thread that can be abandoned."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class NameLookups(Generic[T]):
    """Run a limited number of look-ups at a time, each in a daemon thread."""

    def __init__(self, limit: int) -> None:
        self._free = threading.BoundedSemaphore(limit)

    def run(self, look_up: Callable[[], T], *, timeout: float) -> T:
        """Return what `look_up` returns. Raises what it raises, and TimeoutError after `timeout` seconds.

        An abandoned look-up goes on, and counts until it ends.
        """
        if not self._free.acquire(timeout=timeout):
            raise TimeoutError("too many names are being looked up")
        future: Future[T] = Future()

        def work() -> None:
            try:
                future.set_result(look_up())
            except Exception as error:  # noqa: BLE001 - raised where it is waited for
                future.set_exception(error)
            finally:
                self._free.release()

        try:
            threading.Thread(target=work, name="look-up-name", daemon=True).start()
        except BaseException:
            self._free.release()
            raise
        return future.result(timeout)
