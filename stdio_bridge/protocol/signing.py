"""How what the bridge signs or verifies is signed: as the gateway signs its assertions. No I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

SIGNER_OPTIONS: Mapping[str, object] = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
"""For itsdangerous' serializers."""
