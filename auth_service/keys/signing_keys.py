"""Signing keys on disk (ES256 only).

A key is a file `<activation time>.pem` in one directory. It is published in the JWKS as soon as the file is there, and
signs from that time until a newer key does. If the file is deleted, all tokens that the key has signed are refused. The
directory is the only state, so that workers and `mcp-gatewayctl` always agree. Keys are derived from the master key and
their activation time, so that hosts with one master key agree too.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from auth_service.settings import Credentials

ALGORITHM = "ES256"
TOKEN_TYPE = "at+jwt"  # noqa: S105 -- RFC 9068 §2.1 media type, no secret
CLOCK_SKEW_SECONDS = 10
"""How far the clocks of two hosts may differ before one refuses a token that the other has just issued."""

# SEC 2, section 2.4.2: the number of points, n.
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_NAME_FORMAT = "%Y%m%dT%H%M%SZ"
log = logging.getLogger(__name__)


class SigningKeyError(Exception):
    """The key directory or a key file cannot be used; the text is one line for the operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A key pair and the second from which it signs."""

    path: Path
    activation: int
    kid: str
    public_jwk: dict[str, str]
    private_key: ec.EllipticCurvePrivateKey
    public_key: ec.EllipticCurvePublicKey
    header: str
    """The encoded header of all tokens that it signs, which PyJWT always writes in the same way."""

    def __repr__(self) -> str:
        return f"SigningKey(path={self.path!r}, kid={self.kid!r})"


class SigningKeys:
    """The keys of one directory, read again whenever its listing has changed."""

    def __init__(self, directory: Path, credentials: Credentials) -> None:
        """Load every key, making the first one, active since 1970, if there is none.

        Raises SigningKeyError if the directory cannot be used or a key file is broken.
        """
        self._directory = directory
        self._credentials = credentials
        self.removals = 0
        """How often keys were found to be removed: earlier results of their checks are no longer valid."""
        self.on_sign: Callable[[str, int], None] = lambda _kid, _until: None
        """Called before each token is signed, with the key's `kid` and the token's expiry."""
        self._keys: dict[str, SigningKey] = {}
        self._refused_names: list[str] | None = None
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _list_names(directory):
                with _locked(directory):
                    if not _list_names(directory):
                        create_key_file(directory, credentials, activation=0)
            self._keys = _load(_list_names(directory), directory, known={})
        except OSError as error:
            raise SigningKeyError(f"{error.filename or directory}: {error.strerror}") from error

    def jwks(self) -> dict[str, Any]:
        """Return the public keys, newest first, as a JWK set (RFC 7517 §5)."""
        return {"keys": [key.public_jwk for key in reversed(self.all())]}

    def all(self) -> list[SigningKey]:
        """Return every key, ordered by activation."""
        self.refresh()
        return list(self._keys.values())

    def has(self, key: SigningKey) -> bool:
        """Whether a key is still there."""
        return key in self.all()

    def add(self, activation: int) -> None:
        """Make the key that signs from `activation` on, unless it is there. Raises SigningKeyError."""
        if all(key.activation != activation for key in self.all()):
            try:
                with contextlib.suppress(FileExistsError):
                    create_key_file(self._directory, self._credentials, activation=activation)
            except OSError as error:
                raise SigningKeyError(f"{error.filename or self._directory}: {error.strerror}") from error

    def remove(self, activation: int) -> None:
        """Remove a key, if it is there: all its tokens are refused from now on. Raises SigningKeyError."""
        try:
            (self._directory / _file_name(activation)).unlink(missing_ok=True)
        except OSError as error:
            raise SigningKeyError(f"{error.filename or self._directory}: {error.strerror}") from error

    def signing_key(self, *, now: int) -> SigningKey:
        """Return the newest active key; the oldest key if none is active after a clock was set back."""
        keys = self.all()
        return next((key for key in reversed(keys) if key.activation <= now), keys[0])

    def find_key(self, header: str) -> SigningKey | None:
        """Return the key whose tokens begin with this header, also if its file has only just appeared."""
        return next((key for key in self.all() if key.header == header), None)

    def refresh(self) -> None:
        """Read the keys again if the directory's listing has changed."""
        # The listing of a small directory takes microseconds, far less than a signature check. It bounds the cost of
        # unknown kids: no file is read twice, and a listing that cannot be used is tried once.
        names: list[str] = []
        try:
            names = _list_names(self._directory)
            if names not in (list(self._keys), self._refused_names):
                former = self._keys
                self._keys = _load(names, self._directory, known=former)
                if former.keys() - self._keys.keys():
                    self.removals += 1
        except (OSError, SigningKeyError) as error:
            self._refused_names = names
            log.warning("signing keys not reloaded, the last good ones stay in use: %s", error)


def create_key_file(directory: Path, credentials: Credentials, *, activation: int) -> Path:
    """Make a key that signs from `activation` (seconds since 1970) and return its file.

    The file is complete as soon as it appears, and belongs to the owner of the directory even if root makes it. Raises
    FileExistsError if there is a key with that activation.
    """
    pem = _derive_key(credentials, activation).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = directory / _file_name(activation)
    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".new-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
            if os.geteuid() == 0:
                owner = directory.stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
        os.link(temporary, path)
    finally:
        Path(temporary).unlink()
    return path


def _file_name(activation: int) -> str:
    return datetime.fromtimestamp(activation, UTC).strftime(_NAME_FORMAT) + ".pem"


def _derive_key(credentials: Credentials, activation: int) -> ec.EllipticCurvePrivateKey:
    # Twice the bits that the curve needs, so that all keys are equally likely (FIPS 186-5, appendix A.2.1).
    digits = b"".join(credentials.derive_key(f"signing-key:{activation}:{half}") for half in (0, 1))
    return ec.derive_private_key(int(digits, 16) % (_P256_ORDER - 1) + 1, ec.SECP256R1())


def _list_names(directory: Path) -> list[str]:
    """Return the names of the key files, which sort by activation."""
    return sorted(path.name for path in directory.iterdir() if path.suffix == ".pem")


def _load(names: list[str], directory: Path, *, known: dict[str, SigningKey]) -> dict[str, SigningKey]:
    if not names:
        raise SigningKeyError(f"{directory}: holds no signing key")
    return {name: known.get(name) or _read_key_file(directory / name) for name in names}


def _read_key_file(path: Path) -> SigningKey:
    """Read one key file. Raises SigningKeyError, or OSError if it cannot be read."""
    try:
        activation = datetime.strptime(path.stem, _NAME_FORMAT).replace(tzinfo=UTC)
    except ValueError as error:
        raise SigningKeyError(f"{path}: the name must be an activation time such as 20261124T000500Z.pem") from error
    try:
        private_key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise SigningKeyError(f"{path}: is not an unencrypted PEM private key") from error
    if not isinstance(private_key, ec.EllipticCurvePrivateKey) or private_key.curve.name != "secp256r1":
        raise SigningKeyError(f"{path}: must be an elliptic curve key on P-256, as {ALGORITHM} needs")
    public_key = private_key.public_key()
    public = jwt.algorithms.ECAlgorithm.to_jwk(public_key, as_dict=True)
    kid = _thumbprint(public)
    return SigningKey(
        path=path,
        activation=int(activation.timestamp()),
        kid=kid,
        public_jwk={**public, "kid": kid, "use": "sig", "alg": ALGORITHM},
        private_key=private_key,
        public_key=public_key,
        header=jwt.encode({}, private_key, algorithm=ALGORITHM, headers={"typ": TOKEN_TYPE, "kid": kid}).partition(".")[
            0
        ],
    )


def _thumbprint(jwk: dict[str, Any]) -> str:
    """Return the RFC 7638 §3 thumbprint of an elliptic curve key."""
    members = {member: jwk[member] for member in ("crv", "kty", "x", "y")}
    canonical = json.dumps(members, separators=(",", ":"), sort_keys=True).encode()
    return base64.urlsafe_b64encode(hashlib.sha256(canonical).digest()).rstrip(b"=").decode()


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the directory's lock, as other workers and processes may start at the same moment."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
