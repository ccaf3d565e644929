"""What keys are called that more than one part of storage uses."""

from __future__ import annotations

import hashlib
from typing import Final

CLIENT_PREFIX: Final = "client:"
GRANT_PREFIX: Final = "grant:"
REFRESH_PREFIX: Final = "refresh:"
USER_INDEX_PREFIX: Final = "grants-of-user:"
CLIENT_INDEX_PREFIX: Final = "grants-of-client:"
UNUSED_CLIENTS: Final = "unused-clients"


def client_key(client_id: str) -> str:
    """Return where a registration is."""
    return CLIENT_PREFIX + client_id


def grant_key(sid: str) -> str:
    """Return where a grant is."""
    return GRANT_PREFIX + sid


def refresh_key(sid: str) -> str:
    """Return where a grant's refresh token is."""
    return REFRESH_PREFIX + sid


def user_index(sub: str) -> str:
    """Return where the ids of a user's grants are."""
    return USER_INDEX_PREFIX + sub


def client_index(client_id: str) -> str:
    """Return where the ids of a client's grants are."""
    return CLIENT_INDEX_PREFIX + client_id


def login_key(sub: str) -> str:
    """Return where what is kept of a user's last login is."""
    return f"login-of-user:{sub}"


def hashed(text: str) -> str:
    """Return what stands in a key for a text that is secret, long, or chosen by someone else."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
