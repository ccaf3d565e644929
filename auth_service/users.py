"""Which users may use which resource, when they log in and each time a token is refreshed."""

from __future__ import annotations

import base64

from cryptography.fernet import Fernet, InvalidToken

from .errors import LoginError
from .idp import IdentityProvider
from .protocol import access
from .protocol.access import Identity
from .settings import AllowList, Settings
from .store import Grant, Store


class Users:
    """Applies the allow-lists."""

    def __init__(self, settings: Settings, store: Store, provider: IdentityProvider, *, token_key: bytes) -> None:
        """`token_key`, 64 hexadecimal digits, encrypts the identity provider's tokens at rest."""
        self._settings = settings
        self._store = store
        self._provider = provider
        self._fernet = Fernet(base64.urlsafe_b64encode(bytes.fromhex(token_key.decode())))

    def seal(self, token: str | None) -> str | None:
        """Return the identity provider's token as a grant stores it."""
        return None if token is None else self._fernet.encrypt(token.encode()).decode()

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
        """Whether the user of a grant is still on the list, memberships asked for anew where any count.

        Raises ServiceUnavailable if the identity provider cannot say.
        """
        name = next((name for name, each in self._settings.resources.items() if each.url == grant.resource), None)
        if name is None:
            return False
        identity = Identity(subject=grant.sub, login=grant.name)
        if grant.upstream is not None:
            try:
                identity = self._provider.identify(self._fernet.decrypt(grant.upstream.encode()).decode())
            except (LoginError, InvalidToken):
                return False
        return identity.subject == grant.sub and self.may_use(identity, name)

    def _allowed(self, resource: str) -> AllowList:
        own = self._settings.resources[resource].allowed
        return self._settings.allowed if own is None else own
