"""Find out whether client documents can be fetched from this host, before a client relies on it.

A client that reads `client_id_metadata_document_supported` does not register if its document cannot be fetched, and its
user is locked out. So this service fetches a few documents of widespread clients by the same code, at start and every
ten minutes, and says that documents are supported while all of them can be fetched. The settings name them; no client
can. One failed probe changes nothing; three in a row do.

A target is not fetched if a login has just needed a document of the same host. An instance is the service of one host
with all its workers. All instances behind one name give the same answer: false while one of them cannot fetch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final, cast
from urllib.parse import urlsplit

import redis

from auth_service.protocol.client_documents import MAX_DOCUMENT_BYTES
from auth_service.protocol.errors import ClientDocumentError, ServiceUnavailable
from auth_service.settings import MAX_PROBE_URLS, ClientDocuments, Settings
from auth_service.storage.key_names import DOCUMENT_PROBES, document_proof_key
from auth_service.storage.locks import Locks
from auth_service.storage.redis_client import denies_when_unavailable

from .safe_fetch import DEADLINE_SECONDS, SafeFetcher

INTERVAL_SECONDS: Final = 600
RETRY_SECONDS: Final = 20
"""The time between failed probes until there are three; after that it doubles each time."""
MAX_RETRY_SECONDS: Final = 300
FAILURES_TO_BELIEVE: Final = 3
EXPIRY_INTERVALS: Final = 3
"""How many probes an instance may miss before the others take it for ended."""

_DAY: Final = 86400
_GONE: Final = frozenset({404, 410})

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Finding:
    """The result of an instance's last probe. Times are in seconds since 1970."""

    works: bool
    failures: int
    """How many probes in a row have failed."""
    next_at: float
    expires_at: float
    settings: str
    """The digest of the settings of the probe."""


def targets_of(documents: ClientDocuments) -> tuple[str, ...]:
    """Return the URLs to fetch.

    If the operator's list of hosts excludes every document, they are the hosts themselves, for which any answer is
    enough.
    """
    allowed = documents.allowed_hosts
    if allowed is None:
        return documents.probe_urls
    chosen = tuple(url for url in documents.probe_urls if _host_of(url) in allowed)
    return chosen or tuple(f"https://{host}/" for host in allowed[:MAX_PROBE_URLS])


def find_problems(fetcher: SafeFetcher, targets: Sequence[str]) -> tuple[str, ...]:
    """Fetch all of these at once; return a text for the operator about each that cannot be fetched."""
    if not targets:
        return ()
    with ThreadPoolExecutor(len(targets), thread_name_prefix="probe-client-document") as pool:
        return tuple(filter(None, pool.map(partial(_find_problem, fetcher), targets)))


class DocumentProbe:
    """Probe for one instance, and know the results of all instances."""

    def __init__(self, settings: Settings, connection: redis.Redis, locks: Locks, *, fetcher: SafeFetcher) -> None:
        """Share a connection pool that decodes responses. `fetcher` must be like that of client documents."""
        self._documents = settings.client_documents
        self._targets = targets_of(self._documents)
        self._redis = connection
        self._locks = locks
        self._fetcher = fetcher
        # A restarted service continues with the stored result.
        self._instance = _digest(socket.gethostname(), settings.listen, settings.state_directory)
        self._settings = _digest(self._documents.model_dump_json())
        self._is_new = True
        self.works = False
        """Whether metadata says that documents are supported, as of the last `refresh`."""

    @denies_when_unavailable
    def note_fetched(self, url: str) -> None:
        """Count a document that a login has just needed as a probe of its host."""
        host = _host_of(url)
        if any(_host_of(target) == host for target in self._targets):
            self._redis.set(self._proof(host), "1", ex=INTERVAL_SECONDS)

    @denies_when_unavailable
    def refresh(self) -> None:
        """Read the results of all instances."""
        self._refresh()

    @denies_when_unavailable
    def probe_if_due(self) -> None:
        """Probe if it is due and no other worker of this instance does so."""
        if not self._documents.enabled or not self._is_due(self._find_own()):
            return
        try:
            with self._locks.only_one(f"document-probe {self._instance}", seconds=3 * DEADLINE_SECONDS, wait=0):
                # Another worker may just have probed.
                former = self._find_own()
                if self._is_due(former):
                    self._probe(former)
        except ServiceUnavailable:
            return  # another worker probes
        self._is_new = False
        self._refresh()

    def _probe(self, former: _Finding | None) -> None:
        problems = find_problems(self._fetcher, [url for url in self._targets if not self._is_proven(url)])
        found = self._conclude(former, is_failure=bool(problems))
        text = "; ".join(problems)
        if former is None or former.works != found.works:
            if found.works:
                log.info("client_documents: documents can be fetched, and metadata offers them")
            else:
                log.warning(
                    "client_documents: documents cannot be fetched, so metadata does not offer them and clients "
                    "register instead: %s. The service needs name resolution and outgoing https, or "
                    "client_documents.proxy; mcp-gatewayctl doctor tries it",
                    text,
                )
        elif problems and found.failures <= FAILURES_TO_BELIEVE:
            log.info("client_documents: probe %d in a row failed: %s", found.failures, text)
        self._redis.hset(DOCUMENT_PROBES, self._instance, json.dumps(asdict(found)))
        self._redis.expire(DOCUMENT_PROBES, _DAY)

    def _conclude(self, former: _Finding | None, *, is_failure: bool) -> _Finding:
        now = time.time()
        failures = (former.failures + 1 if former is not None else 1) if is_failure else 0
        is_believed = failures >= FAILURES_TO_BELIEVE or former is None or not former.works
        wait = INTERVAL_SECONDS
        if is_failure:
            doublings = max(failures - FAILURES_TO_BELIEVE, 0)
            wait = min(RETRY_SECONDS << min(doublings, 8), MAX_RETRY_SECONDS)
        return _Finding(
            works=not (is_failure and is_believed),
            failures=failures,
            next_at=now + wait,
            expires_at=now + EXPIRY_INTERVALS * (wait + DEADLINE_SECONDS),
            settings=self._settings,
        )

    def _is_due(self, own: _Finding | None) -> bool:
        if own is None or (self._is_new and (not own.works or own.settings != self._settings)):
            return True
        # At most one interval, also after a clock was set back.
        return not time.time() < own.next_at <= time.time() + INTERVAL_SECONDS

    def _is_proven(self, url: str) -> bool:
        return bool(self._redis.exists(self._proof(_host_of(url))))

    def _find_own(self) -> _Finding | None:
        value = cast("str | None", self._redis.hget(DOCUMENT_PROBES, self._instance))
        return None if value is None else _parse(value)

    def _refresh(self) -> None:
        found = cast("dict[str, str]", self._redis.hgetall(DOCUMENT_PROBES))
        now = time.time()
        live = [each for each in map(_parse, found.values()) if each is not None and now < each.expires_at]
        self.works = self._documents.enabled and bool(live) and all(each.works for each in live)

    def _proof(self, host: str) -> str:
        return document_proof_key(self._instance, host)


def _parse(value: str) -> _Finding | None:
    try:
        return _Finding(**json.loads(value))
    except TypeError:  # written by another version of this service
        return None


def _find_problem(fetcher: SafeFetcher, url: str) -> str | None:
    try:
        fetcher.fetch(url, headers={}, max_bytes=MAX_DOCUMENT_BYTES, admit=lambda _host, _addresses: None)
    except ClientDocumentError as error:
        # A document that is gone proves the way to its host; a refusal (403, 429) would affect clients' documents too.
        is_host_alone = urlsplit(url).path == "/"
        if error.status is not None and (is_host_alone or error.status in _GONE):
            return None
        return f"{url}: {_explain(error)}"
    return None


def _explain(error: ClientDocumentError) -> str:
    cause = error.__cause__
    details = f"status {error.status}" if error.status is not None else str(cause or "") or type(cause).__name__
    return error.reason if error.status is None and cause is None else f"{error.reason} ({details})"


def _host_of(url: str) -> str:
    return urlsplit(url).hostname or ""


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
