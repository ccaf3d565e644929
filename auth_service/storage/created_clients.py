"""Clients that the operator has created by command, which are like those that the settings declare."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import redis

from auth_service.settings import DeclaredClient

from .key_names import CREATED_CLIENTS
from .redis_client import denies_when_unavailable


@dataclass(frozen=True, kw_only=True)
class CreatedClient:
    """A client by its client_id, and the hash of its secret if it has one."""

    name: str
    declared: DeclaredClient
    secret_hash: str | None
    created_at: int
    server_urls: Mapping[str, str]
    """The URLs that its servers had: another server may take the name of one that is removed."""


class CreatedClients:
    """The clients. Every method raises ServiceUnavailable when Redis does not answer."""

    def __init__(self, connection: redis.Redis) -> None:
        """Share a connection pool."""
        self._redis = connection

    @denies_when_unavailable
    def add(self, client: CreatedClient) -> bool:
        """Keep a client for ever; return whether it is new: one with the same name stays as it is."""
        document = {
            "declared": client.declared.model_dump(mode="json", exclude_defaults=True),
            "secret_hash": client.secret_hash,
            "created_at": client.created_at,
            "server_urls": dict(client.server_urls),
        }
        return bool(self._redis.hsetnx(CREATED_CLIENTS, client.name, json.dumps(document)))

    @denies_when_unavailable
    def find(self, name: str) -> CreatedClient | None:
        """Return a client."""
        document = cast("str | None", self._redis.hget(CREATED_CLIENTS, name))
        return None if document is None else _load(name, document)

    @denies_when_unavailable
    def find_all(self) -> list[CreatedClient]:
        """Return all clients, the oldest first."""
        found = cast("dict[str, str]", self._redis.hgetall(CREATED_CLIENTS))
        return sorted((_load(name, each) for name, each in found.items()), key=lambda each: each.created_at)

    @denies_when_unavailable
    def remove(self, name: str) -> bool:
        """Remove a client; return whether it was there."""
        return bool(self._redis.hdel(CREATED_CLIENTS, name))


def _load(name: str, document: str) -> CreatedClient:
    members: dict[str, Any] = json.loads(document)
    return CreatedClient(
        name=name,
        declared=DeclaredClient.model_validate(members["declared"]),
        secret_hash=members["secret_hash"],
        created_at=members["created_at"],
        server_urls=members.get("server_urls", {}),
    )
