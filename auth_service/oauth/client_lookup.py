"""Find clients, by their registration here or by their client document."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from auth_service.protocol import client_documents, jwk_sets
from auth_service.protocol.clients import Client
from auth_service.protocol.errors import (
    ClientDocumentError,
    ClientDocumentsDisabled,
    ClientHostNotAllowed,
    UnknownKey,
)
from auth_service.protocol.jwk_sets import KeySetError, VerificationKey
from auth_service.settings import AppScheme, ClientDocuments
from auth_service.storage.documents import Document
from auth_service.storage.store import Store

from .document_probe import DocumentProbe
from .safe_fetch import DEADLINE_SECONDS, SafeFetcher

FETCHES_PER_MINUTE: Final = 30
"""Fetches from one host, to one address, and for one client address: attackers can cause no more of them."""
KNOWN_FETCHES_PER_MINUTE: Final = 300
"""The same for documents of clients in use. They have quotas of their own, so that requests by strangers do not use
these up.
"""
MAX_WAITING: Final = 8
"""How many requests of a worker may wait for a document, which must never be all its threads.

Half of them are for documents of clients in use. Slow servers of strangers can occupy only the other half.
"""
REVALIDATION_SECONDS: Final = 24 * 3600
"""How long a document with an ETag is kept for conditional requests."""
KEY_SET_REFRESH_SECONDS: Final = 30
"""How many seconds must pass before an unknown `kid` leads to another fetch of a fresh key set."""

T = TypeVar("T")


class ClientLookup:
    """All clients. Methods may raise ClientDocumentError, ServiceUnavailable or TooManyRequests."""

    def __init__(
        self,
        store: Store,
        *,
        documents: ClientDocuments,
        apps: Mapping[str, AppScheme],
        fetcher: SafeFetcher,
        probe: DocumentProbe,
        requester: Callable[[], str],
        declared: Mapping[str, Client],
        find_created: Callable[[str], Client | None],
    ) -> None:
        """Find the `declared` clients of the settings too, which they name by their client_id.

        `find_created` returns a client that the operator has created by command.

        `probe` is told of each fetched document; `requester` returns the address of the current request.
        """
        self._store = store
        self._documents = documents
        self._apps = apps
        self._fetcher = fetcher
        self._probe = probe
        self._requester = requester
        self._declared = declared
        self._find_created = find_created
        self._waiting = {is_known: threading.BoundedSemaphore(MAX_WAITING // 2) for is_known in (False, True)}

    def find(self, client_id: str) -> Client | None:
        """Return a client as it is now. A document is used no longer than its headers allow."""
        if (declared := self._declared.get(client_id)) is not None:
            return declared
        if not client_documents.is_document_url(client_id):
            return self._store.clients.find(client_id) or self._find_created(client_id)
        if not self._documents.enabled:
            raise ClientDocumentsDisabled
        client_documents.check_url(client_id)
        client, _ = self._find_document(
            client_id,
            lambda document: client_documents.parse_client(client_id, document, apps=self._apps),
            client_id=client_id,
            max_bytes=client_documents.MAX_DOCUMENT_BYTES,
        )
        return client

    def find_key(self, client: Client, *, kid: str | None, algorithm: str | None) -> VerificationKey | None:
        """Return the client's key that the header of an assertion names.

        Keys rotate, so an unknown `kid` leads to another fetch of the key set, though not each time. Raises
        UnknownKey, with the time that is left, for a `kid` that the client may have begun to use since.
        """
        metadata = client.metadata
        if metadata.jwks is not None:
            return jwk_sets.select(jwk_sets.parse(metadata.jwks), kid=kid, algorithm=algorithm)
        url = metadata.jwks_uri
        if url is None:
            return None
        keys, is_new = self._find_key_set(url, client)
        if (found := jwk_sets.select(keys, kid=kid, algorithm=algorithm)) is not None:
            return found
        refetch = f"refetch {url}"
        if self._store.identifiers.use_once(refetch, seconds=KEY_SET_REFRESH_SECONDS):
            self._store.documents.drop(url)
            keys, _ = self._find_key_set(url, client)
            return jwk_sets.select(keys, kid=kid, algorithm=algorithm)
        if jwk_sets.lacks(keys, kid) and not is_new:
            raise UnknownKey("the client", retry_after=self._store.identifiers.seconds_left(refetch))
        return None

    def _find_key_set(self, url: str, client: Client) -> tuple[tuple[VerificationKey, ...], bool]:
        return self._find_document(
            url, _parse_key_set, client_id=client.client_id, max_bytes=client_documents.MAX_KEYS_BYTES
        )

    def _find_document(self, url: str, parse: Callable[[Any], T], *, client_id: str, max_bytes: int) -> tuple[T, bool]:
        """Return the parsed document of a client, from the cache while it is fresh, and whether it was just fetched.

        A document that is refused is not kept.
        """
        hosts = self._documents.allowed_hosts
        # The operator has named the key set of a declared client.
        if client_id not in self._declared and hosts is not None and client_documents.host_of(url) not in hosts:
            raise ClientHostNotAllowed
        kept = self._store.documents.find(url)
        if kept is not None and time.time() < kept.fresh_until:
            return parse(json.loads(kept.body)), False
        # Only at the client's own host: its key set may be at a host that has nothing to do with the client.
        is_known = client_documents.host_of(url) == client_documents.host_of(client_id) and (
            self._store.clients.has_logged_in(client_id)
        )
        if not self._waiting[is_known].acquire(blocking=False):
            raise ClientDocumentError("too many documents are being fetched", is_transient=True)
        try:
            with self._store.locks.only_one(f"fetch {url}", seconds=DEADLINE_SECONDS + 1, wait=DEADLINE_SECONDS + 1):
                kept = self._store.documents.find(url)  # another request may just have fetched it
                if kept is not None and time.time() < kept.fresh_until:
                    return parse(json.loads(kept.body)), True
                return self._fetch(url, parse, kept, is_known=is_known, max_bytes=max_bytes), True
        finally:
            self._waiting[is_known].release()

    def _fetch(
        self, url: str, parse: Callable[[Any], T], kept: Document | None, *, is_known: bool, max_bytes: int
    ) -> T:
        self._store.quotas.take("fetch-for", self._requester(), limit=FETCHES_PER_MINUTE, window=60)
        condition = {"If-None-Match": kept.etag} if kept is not None and kept.etag is not None else {}
        admit = partial(self._admit_known, url) if is_known else self._admit
        fetched = self._fetcher.fetch(url, headers=condition, max_bytes=max_bytes, admit=admit, is_known=is_known)
        body = kept.body if fetched.status == 304 and kept is not None else _decode(fetched.body)
        parsed = parse(_parse_json(body))
        self._probe.note_fetched(url)
        now = time.time()
        lifetime = client_documents.lifetime(fetched.headers, now=now)
        etag = _etag(fetched.headers.get("etag", condition.get("If-None-Match") if fetched.status == 304 else None))
        if lifetime is None or (lifetime == 0 and etag is None):
            self._store.documents.drop(url)
        else:
            document = Document(body=body, fresh_until=now + lifetime, etag=etag)
            self._store.documents.keep(url, document, lifetime=lifetime if etag is None else REVALIDATION_SECONDS)
        return parsed

    def _admit(self, host: str, addresses: Sequence[str]) -> None:
        self._store.quotas.take("fetch-from-host", host, limit=FETCHES_PER_MINUTE, window=60)
        for address in addresses:
            self._store.quotas.take("fetch-from-address", address, limit=FETCHES_PER_MINUTE, window=60)

    def _admit_known(self, url: str, _host: str, _addresses: Sequence[str]) -> None:
        self._store.quotas.take("fetch-known", url, limit=KNOWN_FETCHES_PER_MINUTE, window=60)


def _parse_key_set(document: Any) -> tuple[VerificationKey, ...]:
    try:
        return jwk_sets.parse(document)
    except KeySetError as error:
        raise ClientDocumentError(f"its key set {error}") from error


def _decode(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ClientDocumentError("it is not UTF-8") from error


def _parse_json(body: str) -> Any:
    try:
        return json.loads(body, object_pairs_hook=_refuse_repeated_members, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ClientDocumentError("it is not JSON with each member once") from error


def _refuse_repeated_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError
    return members


def _refuse_constant(_name: str) -> Any:
    raise ValueError


def _etag(value: str | None) -> str | None:
    """Return an entity tag if it is valid, so that it can be sent back (RFC 9110 §8.8.3)."""
    usable = value is not None and len(value) <= 256 and value.isascii() and value.isprintable()
    return value if usable else None
