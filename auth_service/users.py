"""Which users may use which resource, when they log in and each time a token is refreshed."""

from __future__ import annotations

from .idp import IdentityProvider
from .protocol import access
from .protocol.access import Identity
from .settings import AllowList, Settings
from .store import Grant, Store


class Users:
    """Applies the allow-lists."""

    def __init__(self, settings: Settings, store: Store, provider: IdentityProvider) -> None:
        self._settings = settings
        self._store = store
        self._provider = provider

    def may_use(self, identity: Identity, resource: str) -> bool:
        """Whether a user who has just logged in may use the resource of that name.

        A login on the list is pinned to the subject that first uses it.
        """
        allowed = self._allowed(resource)
        pins = self._store.find_pins(self._provider.name) if allowed.users else {}
        login = access.login_entry(identity, allowed, pins=pins)
        if login is not None and self._store.pin(self._provider.name, login, identity.subject) == identity.subject:
            return True
        return access.is_member(identity, allowed)

    def may_still_use(self, grant: Grant) -> bool:
        """Whether the user of a grant is still on the list."""
        name = next((name for name, each in self._settings.resources.items() if each.url == grant.resource), None)
        return name is not None and self.may_use(Identity(subject=grant.sub, login=grant.name), name)

    def _allowed(self, resource: str) -> AllowList:
        own = self._settings.resources[resource].allowed
        return self._settings.allowed if own is None else own
