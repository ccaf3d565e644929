"""What a user is called where an identifier of any length and with any character cannot stand."""

from __future__ import annotations

import hashlib

_DIGITS = 32


def digest_of(user: str) -> str:
    """Return the beginning of the SHA-256 of a user's identifier, in hexadecimal; an empty text for no user."""
    return hashlib.sha256(user.encode()).hexdigest()[:_DIGITS] if user else ""
