"""Names of keys that several parts of the storage use, or parts outside it."""

from __future__ import annotations

import hashlib
from typing import Final

CLIENT_PREFIX: Final = "client:"
GRANT_PREFIX: Final = "grant:"
REFRESH_PREFIX: Final = "refresh:"
USER_INDEX_PREFIX: Final = "grants-of-user:"
CLIENT_INDEX_PREFIX: Final = "grants-of-client:"
UNUSED_CLIENTS: Final = "unused-clients"
SIGNING_KEYS: Final = "signing-keys"
SIGNED_UNTIL: Final = "signed-until"
DOCUMENT_PROBES: Final = "document-probes"
USER_CREDENTIALS_PREFIX: Final = "user-credentials:"
CREDENTIAL_SERVERS: Final = "credential-servers"
CREATED_CLIENTS: Final = "created-clients"
WORKLOAD_ISSUERS: Final = "workload-issuers"
DECLARED_CLIENTS: Final = "declared-clients"


def client_key(client_id: str) -> str:
    """Return the key of a registration."""
    return CLIENT_PREFIX + client_id


def grant_key(sid: str) -> str:
    """Return the key of a grant."""
    return GRANT_PREFIX + sid


def refresh_key(sid: str) -> str:
    """Return the key of a grant's refresh token."""
    return REFRESH_PREFIX + sid


def user_index(sub: str) -> str:
    """Return the key of the index of a user's grants."""
    return USER_INDEX_PREFIX + sub


def client_index(client_id: str) -> str:
    """Return the key of the index of a client's grants."""
    return CLIENT_INDEX_PREFIX + client_id


def login_key(sub: str) -> str:
    """Return the key of a user's last login."""
    return f"login-of-user:{sub}"


def user_credentials_key(resource_name: str, sub: str) -> str:
    """Return the key of a user's own credentials at a server, whose name has no colon."""
    return f"{USER_CREDENTIALS_PREFIX}{resource_name}:{sub}"


def document_proof_key(instance: str, host: str) -> str:
    """Return the key of the proof that an instance has fetched a document from a host."""
    return f"document-proof:{instance}:{host}"


def hashed(text: str) -> str:
    """Return the hash that replaces a secret, long or foreign text in a key."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
