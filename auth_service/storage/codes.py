"""Authorization codes, each of which is redeemed once."""

from __future__ import annotations

import dataclasses
import json
import secrets
from dataclasses import dataclass
from enum import Enum
from typing import Final, cast

import redis

from auth_service.protocol.clients import hash_secret

from .grants import Grant, Grants, indices
from .key_names import UNUSED_CLIENTS, client_key, grant_key, refresh_key
from .redis_client import denies_when_unavailable
from .scripts import REDEEM

CODE_MEMORY: Final = 600
"""For how many seconds a replay of the code revokes its grant. The code itself expires earlier."""


@dataclass(frozen=True, kw_only=True)
class Code:
    """The record of an authorization code."""

    sid: str
    client_id: str
    redirect_uri: str
    code_challenge: str
    resource: str
    expires_at: int
    client_digest: str = ""
    """The digest of the client's metadata when the user allowed it."""

    def get_redirect_uri(self) -> None:
        """Tell Authlib that the token request need not repeat the redirect URI (OAuth 2.1 §10.2)."""


class Redemption(Enum):
    """How an attempt to redeem a code ended."""

    DONE = "done"
    REPLAYED = "replayed"
    GRANT_GONE = "gone"


class Codes:
    """The codes. Every method raises ServiceUnavailable when Redis does not answer."""

    def __init__(self, connection: redis.Redis, grants: Grants, *, grant_lifetime: int, client_lifetime: int) -> None:
        """Share a connection pool. The lifetimes are how many seconds a grant and its client outlive their last use."""
        self._redis = connection
        self._grants = grants
        self._index_lifetime = grant_lifetime
        self._client_lifetime = client_lifetime
        self._redeem = connection.register_script(REDEEM)

    @denies_when_unavailable
    def add(self, code: str, record: Code, grant: Grant) -> None:
        """Store a code and its grant, which ends with the code unless the code is redeemed."""
        with self._redis.pipeline() as transaction:
            transaction.set(f"code:{hash_secret(code)}", json.dumps(dataclasses.asdict(record)), ex=CODE_MEMORY)
            self._grants.put(transaction, grant, lifetime=CODE_MEMORY)
            transaction.execute()

    @denies_when_unavailable
    def find(self, code: str) -> Code | None:
        """Return the record of a code, also after it has expired or was redeemed. Changes nothing."""
        document = cast("str | None", self._redis.get(f"code:{hash_secret(code)}"))
        return Code(**json.loads(document)) if document is not None else None

    @denies_when_unavailable
    def was_redeemed(self, code: str) -> bool:
        """Whether the code was redeemed, which is remembered for longer than its record."""
        return bool(self._redis.exists(f"redeemed:{hash_secret(code)}"))

    @denies_when_unavailable
    def redeem(
        self, code: str, record: Code, grant: Grant, *, with_refresh_token: bool, grant_lifetime: int
    ) -> Redemption:
        """Redeem a code: one of all attempts gets DONE."""
        result = self._redeem(
            keys=[
                f"redeemed:{hash_secret(code)}",
                grant_key(record.sid),
                refresh_key(record.sid),
                client_key(record.client_id),
                UNUSED_CLIENTS,
                *indices(grant),
            ],
            args=[
                CODE_MEMORY,
                grant_lifetime,
                int(with_refresh_token),
                self._client_lifetime,
                # A command that is sent again after its connection broke is not a replay.
                secrets.token_urlsafe(8),
                record.client_id,
                record.sid,
                self._grants.rank(grant_lifetime),
                self._index_lifetime,
            ],
        )
        return Redemption(result)
