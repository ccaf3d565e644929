"""Decide which users may use which resource with which scopes, at the login and at each refresh of a token."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, Final

from cryptography.fernet import Fernet, InvalidToken

from auth_service.idp import Login, SignOn
from auth_service.idp.bounded import BoundedProvider
from auth_service.idp.http import SESSION_SECONDS
from auth_service.protocol import access
from auth_service.protocol.access import Profile, fold
from auth_service.protocol.errors import LoginError, ServiceUnavailable
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
        names = {kind: sorted(_named(settings, kind)) for kind in _MEMBERSHIPS}
        self._asked = hashlib.sha256(json.dumps(names).encode()).hexdigest()
        """Which memberships the provider is asked about."""
        self._fernet = Fernet(base64.urlsafe_b64encode(bytes.fromhex(token_key.decode())))

    def remember(self, login: Login) -> None:
        """Keep the provider's token of the user's last login, encrypted.

        Only the last one is kept: providers limit the tokens of a user (GitHub: ten) and revoke the oldest, which must
        not end the grants of that login.
        """
        self.remember_sealed(login.profile.subject, self.seal(login))

    def seal(self, login: Login) -> str:
        """Return a login, encrypted, for `remember_sealed`."""
        return self._seal({"at": time.time(), "token": login.token, **self._memberships_of(login.profile)})

    def remember_sealed(self, sub: str, sealed_login: str) -> None:
        """Keep a login of this user as `remember` does."""
        self._store.last_logins.keep(sub, sealed_login)

    def choose_newer_login(self, sub: str, sealed_login: str) -> str:
        """Return a login that has waited for credentials, or the user's last login if that is newer."""
        last = self._store.last_logins.find(sub)
        waited, kept = self._open(sealed_login), self._open(last)
        is_later = waited is not None and kept is not None and kept["at"] > waited["at"]
        return last if last is not None and is_later else sealed_login

    def _seal(self, kept: dict[str, Any]) -> str:
        return self._fernet.encrypt(json.dumps(kept).encode()).decode()

    def may_use(self, profile: Profile, resource_name: str) -> bool:
        """Whether a user who has just logged in is on the allow-list of the resource with this name.

        A login name on the allow-list is pinned to the subject that first uses it.
        """
        return self._admits(self._allowed(resource_name), profile)

    def find_scopes(self, profile: Profile, resource_name: str) -> frozenset[str]:
        """Return the scopes that a user who has just logged in, and may use the resource, may be granted.

        Login names are pinned as by `may_use`.
        """
        return frozenset(
            scope
            for scope, allowed in self._scope_lists(resource_name)
            if allowed is None or self._admits(allowed, profile)
        )

    def find_last_profile(self, sub: str, login: str) -> Profile | None:
        """Return a user as last described by the identity provider; None if it was asked about other memberships."""
        kept = self._open(self._store.last_logins.find(sub))
        return None if kept is None or kept.get("asked") != self._asked else _as_remembered(sub, login, kept)

    def expect_scopes(self, profile: Profile, resource_name: str) -> frozenset[str]:
        """Return the scopes that a user like this may be granted, for a page. It changes nothing."""
        pins = self._store.pins.find(self._provider.name)
        return frozenset(
            scope
            for scope, allowed in self._scope_lists(resource_name)
            if allowed is None or _would_admit(allowed, profile, pins=pins)
        )

    def find_usable(self, profile: Profile) -> list[str]:
        """Return the names of the resources that a user like this may use, for a page. It changes nothing."""
        pins = self._store.pins.find(self._provider.name)
        return [
            name
            for name, resource in self._settings.resources.items()
            if all(
                allowed is None or _would_admit(allowed, profile, pins=pins)
                for allowed in (
                    self._allowed(name),
                    *(resource.scopes[each].allowed for each in resource.required_scopes),
                )
            )
        ]

    def seal_profile(self, profile: Profile) -> str | None:
        """Return what the pages keep of a user who signs in, encrypted.

        None for a user who may use nothing, unless an earlier login is kept, whose memberships are not shown any more.
        """
        is_known = self.find_usable(profile) or self._store.last_logins.find(profile.subject) is not None
        return self._seal(self._memberships_of(profile)) if is_known else None

    def find_usable_when_signed_in(self, sub: str, login: str) -> list[str] | None:
        """Return the names of the resources that a user with a browser session may use, for a page; None if unknown.

        The present lists decide, by what the provider has said last. Without a profile that is the last login, which
        there is as long as the user has a grant.
        """
        kept = self._open(self._store.sessions.find_profile(sub))
        if kept is None or kept["asked"] != self._asked:
            profile = self.find_last_profile(sub, login)
        else:
            profile = _as_remembered(sub, login, kept)
        return None if profile is None else self.find_usable(profile)

    def find_sign_ons(
        self, login: Login, resource_name: str, *, scopes: Collection[str] | None = None
    ) -> tuple[SignOn, ...]:
        """Return the single sign-ons without which memberships are not known that let the user use this resource.

        With `scopes`, those that let the user have one of these instead.
        """
        lists = [self._allowed(resource_name)]
        if scopes is not None:
            lists = [each for scope, each in self._scope_lists(resource_name) if each is not None and scope in scopes]
        entries = [entry for each in lists for entry in (*each.organizations, *each.teams)]
        named = {fold(entry.partition("/")[0]) for entry in entries}
        return tuple(each for each in login.sign_ons if fold(each.organization) in named)

    def find_listed_scopes(self, grant: Grant) -> frozenset[str]:
        """Return the scopes that the user of a grant may have, by the present lists and the user's last login.

        There are none if the user may not use the resource any more.
        """
        name = self._settings.find_resource_name(grant.resource)
        kept = self._open(self._store.last_logins.find(grant.sub))
        if name is None or kept is None:
            return frozenset()
        return self.find_allowed(_as_remembered(grant.sub, grant.name, kept), name)

    def recheck_scopes(self, grant: Grant) -> frozenset[str]:
        """Return the scopes that the user of a grant may have, by what the identity provider says now.

        There are none if the user may not use the resource any more. Raises ServiceUnavailable if the provider cannot
        say.
        """
        name = self._settings.find_resource_name(grant.resource)
        if name is None:
            return frozenset()
        if not self._provider.rechecks_names and self._is_pinned(self._allowed(name), grant.sub):
            return self._recheck_pinned(grant, name)
        kept = self._open(self._store.last_logins.find(grant.sub))
        if kept is None:
            return frozenset()
        if kept["token"] is None:
            # Without a token of the provider, what it said at the login counts for a while.
            if time.time() < kept["at"] + self._settings.lifetimes.unconfirmed_user:
                return self.find_allowed(_as_remembered(grant.sub, grant.name, kept), name)
            self._store.sessions.forget_profile(grant.sub)
            return frozenset()
        profile = self._identify_again(grant.sub)
        return frozenset() if profile is None else self.find_allowed(profile, name)

    def _recheck_pinned(self, grant: Grant, resource_name: str) -> frozenset[str]:
        """Return the scopes of a user who may use the resource by name, whatever the provider says.

        The provider is asked if there is a scope that the user cannot have by name. If it refuses, the user loses what
        depends on it. While it cannot say, the user keeps what does not, and is granted nothing else.
        """
        lists = self._scope_lists(resource_name)
        found = frozenset(scope for scope, allowed in lists if allowed is None or self._is_pinned(allowed, grant.sub))
        if len(found) < len(lists):
            required = self._settings.resources[resource_name].required_scopes
            held = required.union(grant.scope.split()).intersection(dict(lists))
            try:
                profile = self._identify_again(grant.sub)
            except ServiceUnavailable:
                if not held <= found:
                    raise
                profile = None
            if profile is not None:
                found = self.find_scopes(profile, resource_name)
        return self._unless_useless(found, resource_name)

    def find_allowed(self, profile: Profile, resource_name: str) -> frozenset[str]:
        """Return the scopes that a user may have; none for one who may not use the resource.

        Login names are pinned as by `may_use`.
        """
        if not self.may_use(profile, resource_name):
            return frozenset()
        return self._unless_useless(self.find_scopes(profile, resource_name), resource_name)

    def _unless_useless(self, scopes: frozenset[str], resource_name: str) -> frozenset[str]:
        """Return the scopes, or none if one is not among them that each request needs."""
        return scopes if self._settings.resources[resource_name].required_scopes <= scopes else frozenset()

    def _admits(self, allowed: AllowList, profile: Profile) -> bool:
        """Whether a list admits a user, whose login name is pinned if it is on the list."""
        pins = self._store.pins.find(self._provider.name) if allowed.users else {}
        login = access.login_entry(profile, allowed, pins=pins)
        if login is not None and profile.subject == (
            pins.get(login) or self._store.pins.pin(self._provider.name, login, profile.subject)
        ):
            return True
        return access.is_member(profile, allowed)

    def _is_pinned(self, allowed: AllowList, sub: str) -> bool:
        """Whether a login name on a list is pinned to this user, whose former login name may be another's."""
        pins = self._store.pins.find(self._provider.name) if allowed.users else {}
        return any(pins.get(fold(entry)) == sub for entry in allowed.users)

    def _identify_again(self, sub: str) -> Profile | None:
        """Ask the provider about the user; None if it refuses. One request at a time, as it may replace the token.

        What it says of memberships is kept in place of what it said at the last login. If it refuses the user, the
        pages forget the user.
        """
        lock = self._store.locks.only_one(f"identify {sub}", seconds=_IDENTIFY_SECONDS, wait=_WAIT_SECONDS)
        # A request that waits for another one of the user counts as waiting for the provider.
        with self._provider.waiting(), lock:
            known: set[str] = set()
            shown = self._store.sessions.find_profile(sub)
            # Again only if the user has just logged in again, which may have ended the former token.
            while (sealed := self._store.last_logins.find(sub)) is not None:
                kept = self._open(sealed)
                if kept is None or kept["token"] is None or kept["token"] in known:
                    break
                known.add(kept["token"])
                try:
                    profile = self._provider.identify(
                        kept["token"], replaced=partial(self._replace, sub, sealed, kept, known)
                    )
                except LoginError:
                    continue
                if profile.subject != sub:
                    break
                if kept != kept | self._memberships_of(profile):
                    self._keep_memberships(profile, known)
                if shown is not None:
                    self._store.sessions.replace_profile(sub, shown, by=self._seal(self._memberships_of(profile)))
                return profile
            self._store.sessions.forget_profile(sub)
            return None

    def _replace(self, sub: str, sealed: str, kept: dict[str, Any], known: set[str], token: str) -> None:
        """Keep the token that replaces the former one, even if the request fails later."""
        known.add(token)
        self._store.last_logins.replace(sub, sealed, by=self._seal(kept | {"token": token}))

    def _keep_memberships(self, profile: Profile, known: set[str]) -> None:
        """Keep memberships that have changed since the login which one of these tokens is of."""
        sealed = self._store.last_logins.find(profile.subject)
        kept = self._open(sealed)
        memberships = self._memberships_of(profile)
        if sealed is not None and kept is not None and kept["token"] in known and kept != kept | memberships:
            self._store.last_logins.replace(profile.subject, sealed, by=self._seal(kept | memberships))

    def _memberships_of(self, profile: Profile) -> dict[str, Any]:
        """Return what is kept of a user's memberships."""
        return {"asked": self._asked, **{kind: sorted(getattr(profile, kind)) for kind in _MEMBERSHIPS}}

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

    def _scope_lists(self, resource_name: str) -> list[tuple[str, AllowList | None]]:
        """Return the scopes of a resource, each with its allow-list if it has one."""
        scopes = self._settings.resources[resource_name].scopes
        return [(scope, definition.allowed) for scope, definition in scopes.items()]


def _named(settings: Settings, kind: str) -> set[str]:
    return {name for allowed in settings.allow_lists.values() for name in getattr(allowed, kind)}


def _would_admit(allowed: AllowList, profile: Profile, *, pins: Mapping[str, str]) -> bool:
    """Whether a list admits a user, without pinning the login name."""
    return access.login_entry(profile, allowed, pins=pins) is not None or access.is_member(profile, allowed)


def _as_remembered(sub: str, login: str, kept: dict[str, Any]) -> Profile:
    """Return a user with the profile of the last login."""
    memberships: dict[str, Any] = {kind: frozenset(kept[kind]) for kind in _MEMBERSHIPS}
    return Profile(subject=sub, login=login, **memberships)
