"""Keep the public keys of trusted issuers, as their discovery documents name them (OpenID Connect Discovery §4)."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from auth_service.ops.outages import Outage
from auth_service.protocol import client_documents, jwk_sets
from auth_service.protocol.errors import RETRY_SECONDS as SOON_SECONDS
from auth_service.protocol.errors import ClientDocumentError, ServiceUnavailable, UnknownKey
from auth_service.protocol.jwk_sets import KeySetError, VerificationKey

from .safe_fetch import SafeFetcher

DISCOVERY_PATH: Final = "/.well-known/openid-configuration"
MAX_BYTES: Final = 64 * 1024
FRESH_SECONDS: Final = 3600
"""For how long keys are used before they are fetched again."""
STALE_SECONDS: Final = 24 * 3600
"""For how long keys are used while they cannot be fetched again: a key that its issuer has revoked ends by then."""
RETRY_SECONDS: Final = 30
"""How many seconds must pass between two fetches, which an unknown `kid` or a failure causes."""
MAX_WAITING: Final = 4
"""How many requests of a worker may wait for an issuer's keys, which must never be all its threads."""

Fetch = Callable[[], tuple[VerificationKey, ...]]
"""Fetches an issuer's keys. Raises ClientDocumentError."""

log = logging.getLogger(__name__)


class IssuerKeys:
    """The keys of one issuer. Whatever a token says, they are fetched no more often than once in RETRY_SECONDS."""

    def __init__(self, issuer: str, fetch: Fetch) -> None:
        """Nothing is fetched yet."""
        self._issuer = issuer
        self._fetch = fetch
        self._lock = threading.Lock()
        self._waiting = threading.BoundedSemaphore(MAX_WAITING)
        self._keys: tuple[VerificationKey, ...] = ()
        self._fetched_at = self._tried_at = -float("inf")
        self._fetches = 0
        """How often the keys were fetched."""
        self._outage = Outage(log, f"issuer.unavailable: the keys of {issuer}", over=f"issuer.available: {issuer}")

    def find(self, *, kid: str | None, algorithm: str) -> VerificationKey | None:
        """Return the key that the header of a token names; None if the issuer does not have such a key.

        Raises ServiceUnavailable if the keys are too old and cannot be fetched, and UnknownKey for a `kid` that the
        issuer may have begun to use since they were fetched. Both say when the keys can be fetched again.
        """
        found = self._select(kid, algorithm)
        if found is not None and time.monotonic() - self._fetched_at < FRESH_SECONDS:
            return found
        fetches = self._fetches
        is_newest = self._renew()
        if (found := self._select(kid, algorithm)) is not None:
            return found
        if is_newest and (self._fetches > fetches or not jwk_sets.lacks(self._keys, kid)):
            return None
        left = self._tried_at + RETRY_SECONDS - time.monotonic()
        retry_after = math.ceil(left) if left > 0 else SOON_SECONDS
        if is_newest:
            raise UnknownKey(self._issuer, retry_after=retry_after)
        raise ServiceUnavailable(f"{self._issuer}, which publishes the keys,", retry_after=retry_after)

    def _select(self, kid: str | None, algorithm: str) -> VerificationKey | None:
        if time.monotonic() - self._fetched_at >= STALE_SECONDS:
            return None
        return jwk_sets.select(self._keys, kid=kid, algorithm=algorithm)

    def _renew(self) -> bool:
        """Fetch the keys, unless that has just been tried; return whether the last try succeeded."""
        if time.monotonic() - self._tried_at >= RETRY_SECONDS:
            if not self._waiting.acquire(blocking=False):
                return False
            try:
                with self._lock:
                    if time.monotonic() - self._tried_at >= RETRY_SECONDS:  # else another request has just tried
                        self._try_to_fetch()
            finally:
                self._waiting.release()
        return self._fetched_at >= self._tried_at

    def _try_to_fetch(self) -> None:
        try:
            keys = self._fetch()
        except ClientDocumentError as error:
            self._outage.failed(f"{error}: {error.__cause__}" if error.__cause__ else error)
            self._tried_at = time.monotonic()
        else:
            self._outage.worked()
            self._keys = keys
            self._fetches += 1
            self._tried_at = self._fetched_at = time.monotonic()


def fetch_keys(issuer: str, fetcher: SafeFetcher) -> tuple[VerificationKey, ...]:
    """Fetch an issuer's keys from where its discovery document says. Raises ClientDocumentError."""
    document = _fetch_object(discovery_url(issuer), fetcher)
    if document.get("issuer") != issuer:
        raise ClientDocumentError("the discovery document names another issuer")
    url = document.get("jwks_uri")
    if not isinstance(url, str):
        raise ClientDocumentError("the discovery document has no jwks_uri")
    client_documents.check_url(url)
    try:
        return jwk_sets.parse(_fetch_object(url, fetcher))
    except KeySetError as error:
        raise ClientDocumentError(f"the key set {error}") from error


def discovery_url(issuer: str) -> str:
    """Return where the discovery document of an issuer is."""
    return issuer.removesuffix("/") + DISCOVERY_PATH


def _fetch_object(url: str, fetcher: SafeFetcher) -> dict[str, Any]:
    body = fetcher.fetch(url, headers={}, max_bytes=MAX_BYTES, admit=_admit, is_known=True).body
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ClientDocumentError("the answer is not JSON") from error
    if not isinstance(document, dict):
        raise ClientDocumentError("the answer is not a JSON object")
    return document


def _admit(_host: str, _addresses: Sequence[str]) -> None:
    """Admit every host: the operator has named the issuer, and `IssuerKeys` bounds the fetches."""
