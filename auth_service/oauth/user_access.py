"""Decide which users may use which resource, at the login and at each refresh of a token."""

from __future__ import annotations

import base64
import json
import time
from functools import partial
from typing import Any, Final

from cryptography.fernet import Fernet, InvalidToken

from auth_service.idp import Login, SignOn
from auth_service.idp.bounded import BoundedProvider
from auth_service.idp.http import SESSION_SECONDS
from auth_service.protocol import access
from auth_service.protocol.access import Identity, fold
from auth_service.protocol.errors import LoginError
from auth_service.settings import AllowList, Settings
from auth_service.storage.grants import Grant
from auth_service.storage.store import Store

_MEMBERSHIPS: Final = ("organizations", "teams", "groups")
_IDENTIFY_SECONDS: Final = 2 * SESSION_SECONDS + 10
"""Longer than asking the provider can take, with the wait for its metadata: a token that it replaces must not be
used twice.
"""
_WAIT_SECONDS: Final = 5


class UserAccess:
    """Apply the allow-lists."""

    def __init__(self, settings: Settings, store: Store, provider: BoundedProvider, *, token_key: bytes) -> None:
        """`token_key`, 64 hexadecimal digits, encrypts the identity provider's tokens at rest."""
        self._settings = settings
        self._store = store
        self._provider = provider
        self._fernet = Fernet(base64.urlsafe_b64encode(bytes.fromhex(token_key.decode())))

    def remember(self, login: Login) -> None:
        """Keep the provider's token of the user's last login, encrypted.

        Only the last one is kept: providers limit the tokens of a user (GitHub: ten) and revoke the oldest, which must
        not end the grants of that login.
        """
        identity = login.identity
        kept: dict[str, Any] = {"at": time.time(), "token": login.token}
        kept |= {kind: sorted(getattr(identity, kind)) for kind in _MEMBERSHIPS}
        self._store.last_logins.keep(identity.subject, self._seal(kept))

    def _seal(self, kept: dict[str, Any]) -> str:
        return self._fernet.encrypt(json.dumps(kept).encode()).decode()

    def may_use(self, identity: Identity, resource_name: str) -> bool:
        """Whether a user who has just logged in may use the resource with this name.

        A login name on the allow-list is pinned to the subject that first uses it.
        """
        allowed = self._allowed(resource_name)
        pins = self._store.pins.find(self._provider.name) if allowed.users else {}
        login = access.login_entry(identity, allowed, pins=pins)
        if login is not None and identity.subject == (
            pins.get(login) or self._store.pins.pin(self._provider.name, login, identity.subject)
        ):
            return True
        return access.is_member(identity, allowed)

    def find_sign_ons(self, login: Login, resource_name: str) -> tuple[SignOn, ...]:
        """Return the single sign-ons without which memberships for this resource are not known."""
        allowed = self._allowed(resource_name)
        named = {fold(name.partition("/")[0]) for name in (*allowed.organizations, *allowed.teams)}
        return tuple(each for each in login.sign_ons if fold(each.organization) in named)

    def is_listed(self, grant: Grant) -> bool:
        """Whether the present allow-list admits the user of a grant, by the profile of the user's last login."""
        name = self._settings.find_resource_name(grant.resource)
        kept = self._open(self._store.last_logins.find(grant.sub))
        return name is not None and kept is not None and self.may_use(_as_remembered(grant, kept), name)

    def recheck_access(self, grant: Grant) -> bool:
        """Whether the user of a grant is still on the allow-list, by what the identity provider says now.

        Raises ServiceUnavailable if the provider cannot say.
        """
        name = self._settings.find_resource_name(grant.resource)
        if name is None:
            return False
        if not self._provider.rechecks_names and self._is_pinned(grant.sub, name):
            return True
        kept = self._open(self._store.last_logins.find(grant.sub))
        if kept is None:
            return False
        if kept["token"] is None:
            # Without a token of the provider, what it said at the login counts for a while.
            is_recent = time.time() < kept["at"] + self._settings.lifetimes.unconfirmed_user
            return is_recent and self.may_use(_as_remembered(grant, kept), name)
        identity = self._identify_again(grant.sub)
        return identity is not None and identity.subject == grant.sub and self.may_use(identity, name)

    def _is_pinned(self, sub: str, resource_name: str) -> bool:
        """Whether a login name on the list is pinned to this user, whose former login name may be another's."""
        pins = self._store.pins.find(self._provider.name)
        return any(pins.get(fold(entry)) == sub for entry in self._allowed(resource_name).users)

    def _identify_again(self, sub: str) -> Identity | None:
        """Ask the provider about the user; None if it refuses. One request at a time, as it may replace the token."""
        lock = self._store.locks.only_one(f"identify {sub}", seconds=_IDENTIFY_SECONDS, wait=_WAIT_SECONDS)
        # A request that waits for another one of the user counts as waiting for the provider.
        with self._provider.waiting(), lock:
            known: set[str] = set()
            # Again only if the user has just logged in again, which may have ended the former token.
            while (sealed := self._store.last_logins.find(sub)) is not None:
                kept = self._open(sealed)
                if kept is None or kept["token"] is None or kept["token"] in known:
                    break
                known.add(kept["token"])
                try:
                    return self._provider.identify(
                        kept["token"], replaced=partial(self._replace, sub, sealed, kept, known)
                    )
                except LoginError:
                    continue
            return None

    def _replace(self, sub: str, sealed: str, kept: dict[str, Any], known: set[str], token: str) -> None:
        """Keep the token that replaces the former one, even if the request fails later."""
        known.add(token)
        self._store.last_logins.replace(sub, sealed, by=self._seal(kept | {"token": token}))

    def _open(self, sealed: str | None) -> dict[str, Any] | None:
        """Return the kept data of a login; None without data that this master key has encrypted."""
        try:
            kept: dict[str, Any] = json.loads(self._fernet.decrypt((sealed or "").encode()))
        except (InvalidToken, ValueError):
            return None
        return kept

    def _allowed(self, resource_name: str) -> AllowList:
        own = self._settings.resources[resource_name].allowed
        return self._settings.allowed if own is None else own


def _as_remembered(grant: Grant, kept: dict[str, Any]) -> Identity:
    """Return the user of a grant with the profile of the last login."""
    memberships: dict[str, Any] = {kind: frozenset(kept[kind]) for kind in _MEMBERSHIPS}
    return Identity(subject=grant.sub, login=grant.name, **memberships)
