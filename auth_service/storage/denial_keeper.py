"""Keep ended grants denied until Redis has certainly removed them, also if it fails meanwhile."""

from __future__ import annotations

import logging
import time
from typing import Final

import redis

from .denials import Denials
from .grants import Grants
from .redis_client import BATCH, find_persistence

KEEP_SECONDS: Final = 1.0
SETTLED_SECONDS: Final = 10.0
"""After this time Redis has written a change to its append-only file, as it does so every one or two seconds."""
SNAPSHOT_SECONDS: Final = 7200.0
"""The same for a Redis that takes snapshots instead, by default once an hour."""

log = logging.getLogger(__name__)


class DenialKeeper:
    """Keep the denied grants of this host. Several workers may do so at the same time."""

    def __init__(self, denials: Denials, connection: redis.Redis, grants: Grants) -> None:
        self._denials = denials
        self._redis = connection
        self._grants = grants
        self._run: str | None = None
        self._gone_since: dict[str, float] = {}
        """Since when, by the monotonic clock, the same run of Redis has not had a denied grant."""

    def keep(self) -> None:
        """End denied grants that Redis still has or has again, and forget those that it cannot have again.

        Raises ServiceUnavailable, for instance while Redis takes no writes. All hosts are told again then.
        """
        self._denials.refresh()
        denied = list(self._denials)
        self._gone_since = {sid: since for sid, since in self._gone_since.items() if sid in self._denials}
        if not denied:
            return
        persistence = find_persistence(self._redis)
        if persistence.run != self._run:
            self._run = persistence.run
            self._gone_since.clear()
        now = time.monotonic()
        for start in range(0, len(denied), BATCH):
            batch = denied[start : start + BATCH]
            again = self._grants.end_again(batch)
            for sid in again:
                log.info("revocation.repeated: Redis still had the ended grant %s", sid)
                self._gone_since.pop(sid, None)
            if persistence.is_writing:
                for sid in batch:
                    if sid not in again:
                        self._gone_since.setdefault(sid, now)
        if not persistence.is_writing:
            self._gone_since.clear()
        settled = SETTLED_SECONDS if persistence.appends else SNAPSHOT_SECONDS
        self._forget([sid for sid, since in self._gone_since.items() if now - since >= settled])

    def _forget(self, sids: list[str]) -> None:
        try:
            if sids:
                self._denials.remove(sids)
        except OSError as error:
            log.warning("denials.unforgotten: %s", error)
