"""The gateway's word on who asks, as contracts.md defines it, and the page that makes the request."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Mapping

from itsdangerous import URLSafeTimedSerializer

ORIGIN = "https://app.example.com"

_grants = itertools.count()


def headers_of(key: str) -> Mapping[str, str]:
    """Return headers that are good for a minute and not the same twice."""
    serializer = URLSafeTimedSerializer(
        key,
        salt="mcp-oauth-gateway.identity",
        signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
    )
    claims = {
        "sub": "github:583231",
        "name": "octocat",
        "client_id": "bench",
        "scope": "mcp",
        "aud": "https://echo.example.com/mcp",
        "sid": f"grant-{next(_grants)}",
        "exp": int(time.time()) + 3600,
    }
    return {"X-Gateway-Identity": str(serializer.dumps(claims)), "Origin": ORIGIN}
