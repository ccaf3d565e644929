"""The options of all signatures that the bridge makes or verifies; the auth service has the same. No I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

SIGNER_OPTIONS: Mapping[str, object] = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
"""For itsdangerous' serializers."""
