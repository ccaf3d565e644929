"""Users' own credentials: what a user has entered, or connected, for a server that acts at another service.

A value is stored encrypted only, under a key that is derived from the master key for one server and one user. Its
variable and the service that gave it are bound to it as well. So a record that is copied to another user, server or
variable is of no use there, nor is an account at a service that the operator has replaced by another one.
A reader of Redis sees which variables each user has set, and when, and the login name.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final, cast

import redis
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .key_names import CREDENTIAL_SERVERS, USER_CREDENTIALS_PREFIX, user_credentials_key
from .redis_client import BATCH, denial, denies_when_unavailable, prolong
from .scripts import NOTE_CREDENTIAL_USE, REPLACE_CREDENTIAL, SHORTEN

KEPT_SECONDS: Final = 7 * 24 * 3600
"""How long credentials outlive the user's last grant of their server, so that a new login need not ask for them."""
RENEW_AHEAD_SECONDS: Final = 300
"""How long before its end a value is renewed, or a quarter of its lifetime if that is less.

A bridge gives no client a process whose value ends sooner than that. So few use the former token when a new one is
obtained: some services end the former one at once.
"""
_NONCE_BYTES: Final = 12
_MALFORMED: Final = (ValueError, KeyError, TypeError, RecursionError)
"""What is raised where a record is read that this service has not written."""
_MAX_SECONDS: Final = 1 << 37
"""Greater numbers are no times in seconds since 1970."""
_USED: Final = "used "
"""Begins the name of the hash member that holds the time of a variable's last use."""


@dataclass(frozen=True, kw_only=True)
class Secret:
    """What a server's process is given in a variable, and what renews it if it ends."""

    value: str = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    expires_at: int | None = None
    """When the value ends, in seconds since 1970; None for one without a known end."""
    lifetime: int | None = None
    """For how many seconds the value was good when it was given; None if that is not known."""

    @property
    def has_ended(self) -> bool:
        """Whether the value has ended."""
        return self.expires_at is not None and self.expires_at <= time.time()

    @property
    def is_due(self) -> bool:
        """Whether the value should be renewed now, since it ends soon."""
        ahead = min(RENEW_AHEAD_SECONDS, (self.lifetime or 0) / 4)
        return self.refresh_token is not None and self.expires_at is not None and self.expires_at - ahead <= time.time()

    @property
    def is_unusable(self) -> bool:
        """Whether the value has ended, and nothing renews it."""
        return self.refresh_token is None and self.has_ended


@dataclass(frozen=True, kw_only=True)
class StoredSecret:
    """A secret as stored."""

    secret: Secret
    record: str = field(repr=False)
    """The encrypted record. Each time that a secret is stored, the record is another one."""


@dataclass(frozen=True, kw_only=True)
class CredentialState:
    """What may be shown of a credential."""

    resource_name: str
    sub: str
    variable: str
    name: str | None
    """The user's login name when it was set; None if an earlier version has stored it."""
    set_at: int
    used_at: int | None


class UserCredentials:
    """The credentials of all users. Every method raises ServiceUnavailable when Redis does not answer."""

    def __init__(
        self,
        connection: redis.Redis,
        *,
        derive_key: Callable[[str], bytes],
        grant_lifetime: int,
        sources: Mapping[tuple[str, str], Sequence[str]],
    ) -> None:
        """Share a connection pool. `derive_key` returns 64 hexadecimal digits for each purpose.

        `grant_lifetime` is how many seconds a grant outlives its last use. `sources` names the service that a
        connected account is at, by server and variable; users paste the values of all other variables.
        """
        self._redis = connection
        self._derive_key = derive_key
        self._grant_lifetime = grant_lifetime
        self._sources = sources
        self._replace = connection.register_script(REPLACE_CREDENTIAL)
        self._note_use = connection.register_script(NOTE_CREDENTIAL_USE)
        self._shorten = connection.register_script(SHORTEN)

    @denies_when_unavailable
    def put(
        self, resource_name: str, sub: str, secrets_by_variable: Mapping[str, Secret], *, name: str | None = None
    ) -> set[str]:
        """Store what a user has just entered or connected; return the variables where something was there before.

        It is kept for KEPT_SECONDS, and for longer if the user gets a grant. `name` is the user's login name.
        """
        key = user_credentials_key(resource_name, sub)
        shown: dict[str, str | int] = {"set_at": int(time.time())}
        if name is not None:
            shown["name"] = name
        with self._redis.pipeline() as transaction:
            for variable, secret in secrets_by_variable.items():
                transaction.hset(key, variable, self._seal(resource_name, sub, variable, secret, shown))
                transaction.hdel(key, _USED + variable)
            prolong(transaction, key, lifetime=KEPT_SECONDS)
            transaction.sadd(CREDENTIAL_SERVERS, resource_name)
            are_new = transaction.execute()[::2]
        return {variable for variable, is_new in zip(secrets_by_variable, are_new, strict=False) if not is_new}

    @denies_when_unavailable
    def renew(self, resource_name: str, sub: str, variable: str, former: StoredSecret, secret: Secret) -> bool:
        """Replace a secret by the one that renews it; return False if the user has changed or removed it meanwhile."""
        record = self._seal(resource_name, sub, variable, secret, _find_shown(former.record))
        keys = [user_credentials_key(resource_name, sub)]
        return bool(self._replace(keys=keys, args=[variable, former.record, record]))

    @denies_when_unavailable
    def discard(self, resource_name: str, sub: str, variable: str, former: StoredSecret) -> bool:
        """Remove a secret that is good for nothing; return False if the user has changed or removed it meanwhile."""
        keys = [user_credentials_key(resource_name, sub)]
        return bool(self._replace(keys=keys, args=[variable, former.record, "", _USED + variable]))

    @denies_when_unavailable
    def remove(self, resource_name: str, sub: str, variables: Collection[str]) -> dict[str, Secret | None]:
        """Remove credentials of a user; return those that were there, None for one that cannot be decrypted."""
        key = user_credentials_key(resource_name, sub)
        with self._redis.pipeline() as transaction:
            for variable in variables:
                transaction.hget(key, variable)
                transaction.hdel(key, variable, _USED + variable)
            records = cast("list[str | None]", transaction.execute()[::2])
        return {
            variable: self._open(resource_name, sub, variable, record)
            for variable, record in zip(variables, records, strict=True)
            if record is not None
        }

    @denies_when_unavailable
    def read_all(self, resource_name: str, sub: str) -> dict[str, StoredSecret]:
        """Return the secrets of a user at a server, by variable. One that cannot be decrypted is left out.

        So is one from another source: a token must not be sent to a service that did not give it.
        """
        records = cast("dict[str, str]", self._redis.hgetall(user_credentials_key(resource_name, sub)))
        found = {
            variable: self._open(resource_name, sub, variable, record)
            for variable, record in records.items()
            if not variable.startswith(_USED)
        }
        return {
            variable: StoredSecret(secret=secret, record=records[variable])
            for variable, secret in found.items()
            if secret is not None
        }

    def find_missing(self, resource_name: str, sub: str, variables: Collection[str]) -> list[str]:
        """Return those of these variables whose value is not there, cannot be decrypted, or has ended for good."""
        if not variables:
            return []
        held = self.read_all(resource_name, sub)
        return [variable for variable in variables if variable not in held or held[variable].secret.is_unusable]

    @denies_when_unavailable
    def find_states(self, sub: str, resource_names: Collection[str]) -> list[CredentialState]:
        """Return what may be shown of a user's credentials at these servers. Nothing is decrypted."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for name in resource_names:
                pipeline.hgetall(user_credentials_key(name, sub))
            answers = cast("list[dict[str, str]]", pipeline.execute())
        return [
            state
            for name, members in zip(resource_names, answers, strict=True)
            for state in _states(name, sub, members)
        ]

    @denies_when_unavailable
    def find_servers(self) -> set[str]:
        """Return the names of all servers for which a user has ever set something, also of those that are removed."""
        return cast("set[str]", self._redis.smembers(CREDENTIAL_SERVERS))

    def find_all_states(self) -> Iterator[CredentialState]:
        """Find what may be shown of all credentials by a scan, for operators and never for a request of a client."""
        with denial():
            seen: set[str] = set()
            for key in self._redis.scan_iter(match=USER_CREDENTIALS_PREFIX + "*", count=BATCH, _type="hash"):
                if key in seen:
                    continue
                seen.add(key)
                resource_name, _, sub = key.removeprefix(USER_CREDENTIALS_PREFIX).partition(":")
                yield from _states(resource_name, sub, cast("dict[str, str]", self._redis.hgetall(key)))

    @denies_when_unavailable
    def note_use(self, resource_name: str, sub: str, variables: Collection[str]) -> None:
        """Note that a process has been given these variables, and keep them for as long as a grant that is in use."""
        self._note_use(
            keys=[user_credentials_key(resource_name, sub)],
            args=[int(time.time()), self._lifetime, _USED, *variables],
        )

    @denies_when_unavailable
    def keep(self, resource_name: str, sub: str) -> None:
        """Keep the credentials of a user who has just got or renewed a grant for longer than that grant."""
        with self._redis.pipeline() as transaction:
            prolong(transaction, user_credentials_key(resource_name, sub), lifetime=self._lifetime)
            transaction.execute()

    @denies_when_unavailable
    def end_soon(self, resource_name: str, sub: str) -> None:
        """Keep a user's credentials for KEPT_SECONDS at most, as the user's last grant of the server has ended."""
        self._shorten(keys=[user_credentials_key(resource_name, sub)], args=[KEPT_SECONDS])

    @property
    def _lifetime(self) -> int:
        return self._grant_lifetime + KEPT_SECONDS

    def _seal(self, resource_name: str, sub: str, variable: str, secret: Secret, shown: Mapping[str, str | int]) -> str:
        """Return the record of a secret; `shown` is what may be shown of it."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        cipher = self._cipher(resource_name, sub)
        content = json.dumps(asdict(secret)).encode()
        sealed = cipher.encrypt(nonce, content, self._associated_data(resource_name, sub, variable))
        return json.dumps({"sealed": base64.b64encode(nonce + sealed).decode(), **shown})

    def _open(self, resource_name: str, sub: str, variable: str, record: str) -> Secret | None:
        cipher = self._cipher(resource_name, sub)
        associated_data = self._associated_data(resource_name, sub, variable)
        try:
            sealed = base64.b64decode(json.loads(record)["sealed"])
            content = cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], associated_data)
        except (InvalidTag, *_MALFORMED):  # of another master key or source, or copied here
            return None
        return Secret(**json.loads(content))

    def _associated_data(self, resource_name: str, sub: str, variable: str) -> bytes:
        """Return what a record belongs to. It is no part of the record, and the record opens with no other (AEAD)."""
        source = self._sources.get((resource_name, variable), ())
        return json.dumps([resource_name, sub, variable, *source]).encode()

    def _cipher(self, resource_name: str, sub: str) -> AESGCM:
        # The name of a server has no colon.
        return AESGCM(bytes.fromhex(self._derive_key(f"user-credential:{resource_name}:{sub}").decode()))


def _states(resource_name: str, sub: str, members: Mapping[str, str]) -> Iterator[CredentialState]:
    for variable, record in sorted(members.items()):
        if not variable.startswith(_USED):
            shown = _find_shown(record)
            yield CredentialState(
                resource_name=resource_name,
                sub=sub,
                variable=variable,
                name=cast("str | None", shown.get("name")),
                set_at=cast("int", shown["set_at"]),
                used_at=_find_time(members.get(_USED + variable)),
            )


def _find_shown(record: str) -> dict[str, str | int]:
    """Return what may be shown of a record: when it was set, and the user's name if it is there.

    The time of a malformed record is 0, and it has no name: it must not hide those of others.
    """
    try:
        members = json.loads(record)
        set_at, name = _find_time(members["set_at"]) or 0, members.get("name")
    except (*_MALFORMED, AttributeError):
        return {"set_at": 0}
    return {"set_at": set_at, **({"name": name} if isinstance(name, str) else {})}


def _find_time(value: object) -> int | None:
    try:
        seconds = int(str(value))
    except ValueError:
        return None
    return seconds if 0 <= seconds < _MAX_SECONDS else None
