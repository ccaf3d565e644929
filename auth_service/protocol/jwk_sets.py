"""Public keys of clients and identity providers, as JWK sets (RFC 7517), and the accepted signature algorithms."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import AllowedPublicKeys, ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ALGORITHMS: Final = ("ES256", "ES384", "ES512", "EdDSA", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512")
"""Signatures by a private key only. The key decides which of them it verifies, never the token."""
MAX_KEYS: Final = 50
MIN_RSA_BITS: Final = 2048

_RSA: Final = ("PS256", "PS384", "PS512", "RS256", "RS384", "RS512")
_EC: Final = {"P-256": ("ES256",), "P-384": ("ES384",), "P-521": ("ES512",)}
_PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


class KeySetError(ValueError):
    """A key set cannot be used. The text says why, and quotes nothing of it."""


@dataclass(frozen=True, kw_only=True)
class VerificationKey:
    """One public key, and the algorithms that it verifies."""

    kid: str | None
    algorithms: tuple[str, ...]
    key: AllowedPublicKeys = field(repr=False)

    @property
    def thumbprint(self) -> str:
        """A digest of the key alone, which is the same whatever its `kid` and in whichever form it was given."""
        return hashlib.sha256(self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def parse(document: Any) -> tuple[VerificationKey, ...]:
    """Return the keys that can verify a signature, without those of unknown types (RFC 7517 §5).

    Raises KeySetError for a document that is no key set, that has a private or symmetric key, or that has no usable
    key.
    """
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list) or not all(isinstance(jwk, dict) for jwk in listed):
        raise KeySetError("is not a JWK set")
    if len(listed) > MAX_KEYS:
        raise KeySetError(f"has more than {MAX_KEYS} keys")
    if any(_PRIVATE_MEMBERS & jwk.keys() for jwk in listed):
        raise KeySetError("holds a private or symmetric key")
    keys = tuple(key for jwk in listed if (key := _find_key(jwk)) is not None)
    if not keys:
        raise KeySetError("holds no key of an accepted algorithm")
    return keys


def select(keys: tuple[VerificationKey, ...], *, kid: str | None, algorithm: str | None) -> VerificationKey | None:
    """Return the key that a token's header names; None if no key or more than one matches."""
    fitting = [key for key in keys if algorithm in key.algorithms and (kid is None or key.kid == kid)]
    return fitting[0] if len(fitting) == 1 else None


def lacks(keys: tuple[VerificationKey, ...], kid: str | None) -> bool:
    """Whether a token's header names a key that is not among these, so that its owner may have a newer set."""
    return kid is not None and all(key.kid != kid for key in keys)


def _find_key(jwk: dict[str, Any]) -> VerificationKey | None:
    texts = [jwk.get(name) for name in ("kty", "crv", "kid", "use", "alg")]
    if not all(text is None or isinstance(text, str) for text in texts):
        return None
    kind, curve, kid, use, algorithm = texts
    if use not in {None, "sig"} or jwk.get("key_ops", ["verify"]) != ["verify"]:
        return None
    key: AllowedPublicKeys
    try:
        if kind == "RSA":
            key, possible = RSAAlgorithm.from_jwk(jwk), _RSA  # type: ignore[assignment]  # no "d": public
            if not isinstance(key, RSAPublicKey) or key.key_size < MIN_RSA_BITS:
                return None
        elif kind == "EC" and curve in _EC:
            key, possible = ECAlgorithm.from_jwk(jwk), _EC[curve]  # type: ignore[assignment]
        elif kind == "OKP" and curve in {"Ed25519", "Ed448"}:
            key, possible = OKPAlgorithm.from_jwk(jwk), ("EdDSA",)  # type: ignore[assignment]
        else:
            return None
    except (jwt.InvalidKeyError, ValueError, TypeError, KeyError, AttributeError):
        return None
    algorithms = possible if algorithm is None else tuple(name for name in possible if name == algorithm)
    return VerificationKey(kid=kid, algorithms=algorithms, key=key) if algorithms else None
