"""Fetched client documents and key sets."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import Final, cast

import redis

from .key_names import hashed
from .redis_client import denies_when_unavailable
from .scripts import KEEP_NEWEST

MAX_DOCUMENTS: Final = 1000
INDEX_SECONDS: Final = 86400
"""The longest time for which a document is kept."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """A fetched document. Times are in seconds since 1970."""

    body: str
    fresh_until: float
    etag: str | None


class Documents:
    """The kept documents. Every method raises ServiceUnavailable when Redis does not answer."""

    def __init__(self, connection: redis.Redis) -> None:
        """Share a connection pool."""
        self._redis = connection
        self._keep_newest = connection.register_script(KEEP_NEWEST)

    @denies_when_unavailable
    def find(self, url: str) -> Document | None:
        """Return the kept document of a URL, fresh or stale."""
        stored = cast("str | None", self._redis.get(f"document:{hashed(url)}"))
        return None if stored is None else Document(**json.loads(stored))

    @denies_when_unavailable
    def keep(self, url: str, document: Document, *, lifetime: int) -> None:
        """Keep a document for that many seconds."""
        name = hashed(url)
        value = json.dumps(asdict(document))
        self._keep_newest(
            keys=["documents", f"document:{name}"],
            args=[value, lifetime, name, time.time(), MAX_DOCUMENTS, "document:", INDEX_SECONDS],
        )

    @denies_when_unavailable
    def drop(self, url: str) -> None:
        """Forget a document."""
        self._redis.delete(f"document:{hashed(url)}")
