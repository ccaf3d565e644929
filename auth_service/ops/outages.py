"""Log an outage once when it begins and once when it is over, however often it is noticed."""

from __future__ import annotations

import logging
import time
from typing import Final

SETTLED_SECONDS: Final = 5.0
"""For how many seconds a dependency must work before its outage is over, so that a flapping one has one outage."""


class Outage:
    """A dependency that may fail, as one worker sees it."""

    def __init__(self, log: logging.Logger, name: str, *, over: str) -> None:
        """`name` begins the line that says that it has failed, `over` the line that says that it works again."""
        self._log = log
        self._name = name
        self._over = over
        self._began: float | None = None
        self._works_since: float | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether it has failed, and has not worked for long enough since."""
        return self._began is not None

    def failed(self, reason: object) -> None:
        """Log that it has failed and why, unless that is logged already."""
        self._works_since = None
        if self._began is None:
            self._began = time.monotonic()
            self._log.warning("%s: %s", self._name, reason)

    def worked(self) -> None:
        """Log that the outage is over, once the dependency has worked for a while."""
        if self._began is None:
            return
        now = time.monotonic()
        if self._works_since is None:
            self._works_since = now
        if now - self._works_since >= SETTLED_SECONDS:
            self._log.warning("%s: after %.0f s", self._over, self._works_since - self._began)
            self._began = self._works_since = None
