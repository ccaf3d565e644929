"""The secrets, each a file in the credentials directory (systemd's `LoadCredential`)."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from .user_credentials import CLIENT_SECRET_PREFIX
from .values import SettingsError

MASTER_KEY_MIN_BYTES: Final = 32
DECLARED_SECRET_MIN_CHARACTERS: Final = 32
"""They are stored nowhere, and compared by a plain hash, so they must be random."""
_DECLARED_CLIENT: Final = "declared-client."
_BACKEND: Final = "backend-credential."
_OPTIONS: Final = (
    (re.compile(r"client-secret"), "identityProvider.*.clientSecretFile"),
    (re.compile(r"master-key"), "masterKeyFile"),
    (re.compile(r"redis-password"), "redis.passwordFile"),
    (re.compile(rf"{re.escape(_DECLARED_CLIENT)}(.+)"), r"declaredClients.\1.secretFile"),
    (re.compile(rf"{re.escape(_BACKEND)}(.+)"), r"servers.\1.urlCredentialFile"),
    (
        re.compile(rf"{re.escape(CLIENT_SECRET_PREFIX)}([^.]+)\.(.+)"),
        r"servers.\1.userCredentials.\2.oauth.clientSecretFile",
    ),
)
"""The options of the NixOS module by the names of the credentials that they give."""
_BEARER_TOKEN: Final = re.compile(r"[A-Za-z0-9\-._~+/]{1,4096}=*")  # RFC 6750 §2.1


class Credentials:
    """The secrets, read once from the credentials directory. Its `repr` shows none of them."""

    def __init__(
        self,
        *,
        client_secret: str,
        master_key: bytes,
        redis_password: str | None = None,
        declared_clients: Mapping[str, str] = MappingProxyType({}),
        connections: Mapping[str, str] = MappingProxyType({}),
        backends: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Keep the secrets.

        `declared_clients` are those of the clients that the settings declare, by their client_id; `connections` are
        those of this service at the services where users connect their accounts, by `SERVER.NAME`; `backends` are the
        gateway's own bearer tokens at servers that speak HTTP, by the name of the resource.
        """
        self.backends = backends
        self.connections = connections
        self.declared_clients = declared_clients
        self.client_secret = client_secret
        self.redis_password = redis_password
        self._master_key = master_key

    def __repr__(self) -> str:
        return "Credentials(<redacted>)"

    def require_backends(self, names: Iterable[str]) -> None:
        """Raise SettingsError if the token of one of these resources is not there."""
        for name in names:
            if name not in self.backends:
                credential = f"{_BACKEND}{name}"
                raise SettingsError(
                    f"resources.{name}.backend_credential: there is no credential {credential}{option_of(credential)}"
                )

    def derive_key(self, purpose: str) -> bytes:
        """Return the 64 hex digits of HMAC-SHA256(master key, purpose): one independent key per purpose.

        `identity-key:NAME` signs the identity assertions of resource NAME. It is the only key that another part has:
        the resource's bridge.
        """
        return hmac.new(self._master_key, b"mcp-oauth-gateway:" + purpose.encode(), "sha256").hexdigest().encode()


def option_of(credential: str) -> str:
    """Return the option of the NixOS module that gives a credential, for the end of a message; "" without one."""
    found = next((match.expand(option) for name, option in _OPTIONS if (match := name.fullmatch(credential))), None)
    return "" if found is None else f" (option services.mcp-oauth-gateway.{found})"


def load_credentials(directory: Path) -> Credentials:
    """Read the secrets from the credentials directory.

    They are `client-secret`, `master-key` and, if there, `redis-password`, `declared-client.NAME`,
    `user-credential-secret.SERVER.NAME` and `backend-credential.SERVER`.

    Raises SettingsError with one line that names the missing or invalid file.
    """
    master_key = load_master_key(directory / "master-key")
    return Credentials(
        client_secret=_read_ascii(directory / "client-secret"),
        master_key=master_key,
        redis_password=load_redis_password(directory),
        declared_clients={
            path.name.removeprefix(_DECLARED_CLIENT): _load_declared_secret(path)
            for path in sorted(directory.glob(f"{_DECLARED_CLIENT}*"))
        },
        connections={
            path.name.removeprefix(CLIENT_SECRET_PREFIX): _read_ascii(path)
            for path in sorted(directory.glob(f"{CLIENT_SECRET_PREFIX}*"))
        },
        backends={
            path.name.removeprefix(_BACKEND): _load_bearer_token(path)
            for path in sorted(directory.glob(f"{_BACKEND}*"))
        },
    )


def _read_ascii(path: Path) -> str:
    try:
        return _read_credential(path).decode("ascii")
    except UnicodeDecodeError as error:
        raise _fault(path, "must be ASCII text") from error


def _load_bearer_token(path: Path) -> str:
    token = _read_ascii(path)
    if not _BEARER_TOKEN.fullmatch(token):
        raise _fault(path, "must be one bearer token, without the word Bearer")
    return token


def _load_declared_secret(path: Path) -> str:
    secret = _read_credential(path)
    if not secret.isascii() or len(secret) < DECLARED_SECRET_MIN_CHARACTERS:
        raise _fault(path, f"must be ASCII text of at least {DECLARED_SECRET_MIN_CHARACTERS} characters")
    return secret.decode("ascii")


def load_redis_password(directory: Path) -> str | None:
    """Read Redis' password, if there is one. Raises SettingsError with one line that names the file."""
    path = directory / "redis-password"
    return _read_credential(path).decode() if path.exists() else None


def load_master_key(path: Path) -> bytes:
    """Read the master key. Raises SettingsError with one line that names the file."""
    master_key = _read_credential(path)
    if len(master_key) < MASTER_KEY_MIN_BYTES:
        raise _fault(path, f"must hold at least {MASTER_KEY_MIN_BYTES} bytes")
    return master_key


def load_identity_key(path: Path) -> bytes:
    """Read the identity key of one resource. Raises SettingsError with one line that names the file."""
    return _read_credential(path)


def _read_credential(path: Path) -> bytes:
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise _fault(path, f"the credential cannot be read: {error.strerror}") from error
    if not secret:
        raise _fault(path, "the credential is empty")
    return secret


def _fault(path: Path, what: str) -> SettingsError:
    return SettingsError(f"{path}: {what}{option_of(path.name)}")
