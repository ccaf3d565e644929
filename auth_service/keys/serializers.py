"""What signs all that is no JWT: forms, and what backends are told (docs/contracts.md)."""

from __future__ import annotations

import hashlib

from itsdangerous import URLSafeTimedSerializer


def make_serializer(key: bytes, *, salt: str) -> URLSafeTimedSerializer:
    """Return what signs with HMAC-SHA256 under a key of its own for each salt."""
    return URLSafeTimedSerializer(
        key, salt=salt, signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256}
    )
