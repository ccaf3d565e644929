"""Clients that registered here (RFC 7591)."""

from __future__ import annotations

import json
import time
from typing import cast

import redis

from auth_service.protocol.clients import Client, ClientMetadata

from .key_names import UNUSED_CLIENTS, client_index, client_key
from .redis_client import denies_when_unavailable
from .scripts import KEEP_NEWEST


class Clients:
    """The registrations. Every method raises ServiceUnavailable when Redis does not answer."""

    def __init__(self, connection: redis.Redis, *, unused_lifetime: int, most_unused: int) -> None:
        """Share a connection pool. A registration without a login ends after this time, or if there are too many."""
        self._redis = connection
        self._unused_lifetime = unused_lifetime
        self._most_unused = most_unused
        self._keep_newest = connection.register_script(KEEP_NEWEST)

    @denies_when_unavailable
    def add(self, client: Client) -> None:
        """Store a new registration, which ends unless it is used."""
        self._keep_newest(
            keys=[UNUSED_CLIENTS, client_key(client.client_id)],
            args=[
                dump_client(client),
                self._unused_lifetime,
                client.client_id,
                time.time(),
                self._most_unused,
                client_key(""),
                self._unused_lifetime,
            ],
        )

    @denies_when_unavailable
    def find(self, client_id: str) -> Client | None:
        """Return a registered client."""
        document = cast("str | None", self._redis.get(client_key(client_id)))
        return load_client(document) if document is not None else None

    @denies_when_unavailable
    def has_logged_in(self, client_id: str) -> bool:
        """Whether an allowed user has logged in with a client within the lifetime of an unused grant."""
        return bool(self._redis.exists(client_index(client_id)))

    @denies_when_unavailable
    def update(self, client: Client) -> None:
        """Replace a registration that still exists. Its lifetime does not change."""
        self._redis.set(client_key(client.client_id), dump_client(client), xx=True, keepttl=True)

    @denies_when_unavailable
    def remove(self, client_id: str) -> bool:
        """Remove a registration; return whether it was there."""
        with self._redis.pipeline() as transaction:
            transaction.delete(client_key(client_id))
            transaction.zrem(UNUSED_CLIENTS, client_id)
            return bool(transaction.execute()[0])


def dump_client(client: Client) -> str:
    """Return the stored form of a client."""
    return json.dumps(
        {
            "client_id": client.client_id,
            "metadata": client.metadata.model_dump(exclude_none=True),
            "secret_hash": client.secret_hash,
            "registration_token_hash": client.registration_token_hash,
            "issued_at": client.issued_at,
        }
    )


def load_client(document: str) -> Client:
    """Return a client from its stored form."""
    members = json.loads(document)
    return Client(**{**members, "metadata": ClientMetadata.model_validate(members["metadata"])})
