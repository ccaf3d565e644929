"""Tasks that a thread does in the background, in order, so that no request waits for them."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

Task = Callable[[], None]


class BackgroundQueue:
    """Tasks that wait. The first of them starts a thread, which ends when none is left."""

    def __init__(self, log: logging.Logger, name: str, *, failure: str, most: int, drops_oldest: bool) -> None:
        """`name` is that of the thread. At most `most` tasks wait: above that the oldest or the newest is dropped.

        `failure` is logged where no thread can be started or a task raises an exception.
        """
        self._log = log
        self._name = name
        self._failure = failure
        self._most = most
        self._drops_oldest = drops_oldest
        self._waiting: deque[Task] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, task: Task) -> bool:
        """Have a task done after all earlier ones; return False if one was dropped, as too many are waiting."""
        with self._changed:
            is_full = len(self._waiting) >= self._most
            if is_full and not self._drops_oldest:
                return False
            if is_full:
                self._waiting.popleft()
            self._waiting.append(task)
            if self._thread is None:
                self._start()
            return not is_full

    def wait_until(self, deadline: float) -> bool:
        """Wait until all tasks are done, or until the deadline (monotonic clock); return whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: self._thread is None, max(0.0, deadline - time.monotonic()))

    def drop_waiting(self) -> int:
        """Give up the waiting tasks; return how many there were."""
        with self._changed:
            dropped = len(self._waiting)
            self._waiting.clear()
            return dropped

    def _start(self) -> None:
        # A daemon thread: another host that answers byte by byte must not keep the process from ending.
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The caller must go on; the next task tries again to start the thread.
            self._log.exception("%s", self._failure)
        else:
            self._thread = thread

    def _run(self) -> None:
        while (task := self._next()) is not None:
            try:
                task()
            except Exception:  # noqa: BLE001 - it is logged
                # The thread goes on, as no other does the tasks that wait.
                self._log.exception("%s", self._failure)

    def _next(self) -> Task | None:
        with self._changed:
            if self._waiting:
                return self._waiting.popleft()
            self._thread = None
            self._changed.notify_all()
            return None
