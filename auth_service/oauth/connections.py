"""Users' accounts at other services: connect one, keep its tokens fresh, and revoke them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import threading
import time
from collections.abc import Collection
from typing import Final

from auth_service.idp.connected_service import (
    CALL_SECONDS,
    MAX_CONCURRENT,
    AccountRefusedError,
    ConnectedService,
    Tokens,
)
from auth_service.ops import audit
from auth_service.ops.audit import Event
from auth_service.ops.background_queue import BackgroundQueue
from auth_service.protocol.errors import ServiceUnavailable
from auth_service.settings import Connection, Credentials, Settings, SettingsError
from auth_service.settings.credentials import option_of
from auth_service.settings.user_credentials import CLIENT_SECRET_PREFIX
from auth_service.storage.locks import Locks
from auth_service.storage.user_credentials import Secret, StoredSecret, UserCredentials

CALLBACK_PATH: Final = "/connections/callback"
STORE_SECONDS: Final = 12
"""For how long to try to store new tokens while Redis fails: no other worker could use the former refresh token."""
_STORE_PAUSE_SECONDS: Final = 0.5
"""Between two of these attempts."""
_REFRESH_SECONDS: Final = CALL_SECONDS + STORE_SECONDS + 10
"""How long the lock is held at most, which is longer than a refresh can take.

Services that see a refresh token twice revoke all tokens that came of it.
"""
_WAIT_SECONDS: Final = 5
"""How long a request waits while another one renews the same account."""
MAX_WAITING: Final = 1000
"""How many revocations may wait for other services. Above that, new ones are dropped."""
CLOSE_SECONDS: Final = 5
"""For how many seconds a process that ends goes on with revocations."""

log = logging.getLogger(__name__)


def make_services(settings: Settings, credentials: Credentials) -> dict[tuple[str, str], ConnectedService]:
    """Return the services by server and variable. Raises SettingsError where a client secret is missing or useless."""
    shared_limit = threading.BoundedSemaphore(MAX_CONCURRENT)
    return {
        (resource_name, variable): ConnectedService(
            oauth,
            name=f"resources.{resource_name}.user_credentials.{variable}.oauth",
            client_secret=_find_secret(resource_name, variable, oauth, credentials),
            callback_url=f"{settings.issuer}{CALLBACK_PATH}/{resource_name}/{variable}",
            shared_limit=shared_limit,
        )
        for resource_name, resource in settings.resources.items()
        for variable, oauth in resource.connections.items()
    }


def _find_secret(resource_name: str, variable: str, oauth: Connection, credentials: Credentials) -> str | None:
    secret = credentials.connections.get(f"{resource_name}.{variable}")
    method = oauth.token_endpoint_auth_method
    where = f"resources.{resource_name}.user_credentials.{variable}.oauth.token_endpoint_auth_method"
    name = f"{CLIENT_SECRET_PREFIX}{resource_name}.{variable}"
    credential = f"the credential {name}"
    if method not in {None, "none"} and secret is None:
        raise SettingsError(f"{where}: {credential} is missing{option_of(name)}")
    if method == "none" and secret is not None:
        raise SettingsError(f"{where}: is `none`, so {credential} would not be used{option_of(name)}")
    return secret


class Connections:
    """The accounts of all users."""

    def __init__(
        self,
        settings: Settings,
        credentials: Credentials,
        user_credentials: UserCredentials,
        locks: Locks,
    ) -> None:
        """Raises SettingsError as `make_services`."""
        self._settings = settings
        self._services = make_services(settings, credentials)
        self._user_credentials = user_credentials
        self._locks = locks
        self._verifier_key = credentials.derive_key("connection-verifier")
        self._revocations = BackgroundQueue(
            log,
            "connection-revocations",
            failure="a token could not be revoked",
            most=MAX_WAITING,
            drops_oldest=False,
        )

    def is_connection(self, resource_name: str, variable: str) -> bool:
        """Whether the user connects an account for this variable, rather than pasting a value."""
        return (resource_name, variable) in self._services

    # Connecting

    def authorization_url(self, resource_name: str, variable: str, *, state: str) -> str:
        """Return where to send the browser of a user who wants to connect an account."""
        service = self._services[resource_name, variable]
        digest = hashlib.sha256(self._verifier(resource_name, variable, state).encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        return service.authorization_url(state=state, code_challenge=challenge)

    def is_issuer(self, resource_name: str, variable: str, issuer: str | None) -> bool:
        """Whether an answer with this `iss` can be of the service that the browser was sent to."""
        return self._services[resource_name, variable].is_issuer(issuer)

    def name_of(self, resource_name: str, variable: str) -> str:
        """Return the service's name in errors."""
        return self._services[resource_name, variable].name

    def redeem(self, resource_name: str, variable: str, *, code: str, state: str) -> Secret:
        """Return the tokens for the code that the browser has brought back.

        Raises AccountRefusedError, or ServiceUnavailable. Not checked here: that the code is an answer to this state,
        in the browser of this user.
        """
        verifier = self._verifier(resource_name, variable, state)
        return _secret(self._services[resource_name, variable].redeem(code=code, code_verifier=verifier))

    def _verifier(self, resource_name: str, variable: str, state: str) -> str:
        """Return a code verifier, derived so that nothing stores it."""
        return hmac.new(self._verifier_key, f"{resource_name}.{variable}.{state}".encode(), "sha256").hexdigest()

    # Using

    def read_fresh(self, resource_name: str, sub: str) -> dict[str, Secret]:
        """Return the secrets of a user at a server, by variable, with access tokens that are renewed where they end.

        A token that has ended, and that the other service does not renew, is removed and left out. Raises
        ServiceUnavailable if that service cannot say.
        """
        found = {
            variable: self._renew(resource_name, sub, variable, stored)
            for variable, stored in self._user_credentials.read_all(resource_name, sub).items()
        }
        return {variable: secret for variable, secret in found.items() if secret is not None}

    def _renew(self, resource_name: str, sub: str, variable: str, stored: StoredSecret) -> Secret | None:
        service = self._services.get((resource_name, variable))
        if service is None or not (stored.secret.has_ended or stored.secret.is_due):
            return stored.secret
        try:
            return self._renew_under_lock(service, resource_name, sub, variable, stored)
        except ServiceUnavailable:
            if stored.secret.has_ended:
                raise
            return stored.secret  # it is good for a while

    def _renew_under_lock(
        self, service: ConnectedService, resource_name: str, sub: str, variable: str, seen: StoredSecret
    ) -> Secret | None:
        """Renew a token unless another worker has just done so, or the user has connected another account."""
        lock = self._locks.only_one(
            f"refresh {resource_name} {variable} {sub}", seconds=_REFRESH_SECONDS, wait=_WAIT_SECONDS
        )
        # A request that waits for another one of the user counts as waiting for the service.
        with service.waiting(), lock:
            while (stored := self._user_credentials.read_all(resource_name, sub).get(variable)) is not None:
                if stored.record != seen.record and not stored.secret.has_ended:
                    return stored.secret
                renewed = self._refresh(service, stored.secret)
                if renewed is None:
                    if self._user_credentials.discard(resource_name, sub, variable, stored):
                        self._note_end(resource_name, sub, variable)
                        return None
                elif self._store(service, resource_name, sub, variable, former=stored, renewed=renewed):
                    return renewed
            return None

    def _store(
        self,
        service: ConnectedService,
        resource_name: str,
        sub: str,
        variable: str,
        *,
        former: StoredSecret,
        renewed: Secret,
    ) -> bool:
        """Store what renews a secret; return False if the user has removed or replaced the account meanwhile.

        If Redis stores nothing for a while, the secret can be used once all the same.
        """
        until = time.monotonic() + STORE_SECONDS
        while True:
            try:
                if self._user_credentials.renew(resource_name, sub, variable, former, renewed):
                    return True
                current = self._user_credentials.read_all(resource_name, sub).get(variable)
            except ServiceUnavailable:
                if time.monotonic() >= until:
                    log.error("%s: new tokens of a user could not be stored, only used once", service.name)
                    return True
                time.sleep(_STORE_PAUSE_SECONDS)
                continue
            if current is None:
                self._revoke_later(service, renewed)
            # If the user has connected another account meanwhile, these tokens are not revoked: at many services that
            # would end the newer ones too. What is there may also be this secret, stored by Redis without an answer.
            return current is not None and current.secret == renewed

    def _note_end(self, resource_name: str, sub: str, variable: str) -> None:
        url = self._settings.resources[resource_name].url
        audit.record(Event.CREDENTIAL_EXPIRED, user=sub, resource=url, credential=variable, by="gateway")

    @staticmethod
    def _refresh(service: ConnectedService, secret: Secret) -> Secret | None:
        """Return the new tokens; None if there can be none."""
        if secret.refresh_token is None:
            return None
        try:
            return _secret(service.refresh(secret.refresh_token))
        except AccountRefusedError as error:
            log.info("%s: a user has to connect the account again", error)
            return None

    # Removing

    def remove(self, resource_name: str, sub: str, variables: Collection[str]) -> list[str]:
        """Remove credentials of a user; return those that were there. Tokens are revoked later, if they can be."""
        # Those that are removed, and not what was read before: a renewal in between replaces them.
        removed = self._user_credentials.remove(resource_name, sub, variables)
        for variable, secret in removed.items():
            service = self._services.get((resource_name, variable))
            if service is not None and secret is not None:
                self._revoke_later(service, secret)
        return list(removed)

    def _revoke_later(self, service: ConnectedService, secret: Secret) -> None:
        """Revoke tokens in the background, at best: nothing waits for it, and it is not tried twice."""
        if service.can_revoke and not self._revocations.add(lambda: _revoke(service, secret)):
            log.warning("%s: a token is not revoked: more than %d are waiting", service.name, MAX_WAITING)

    def close(self) -> None:
        """Wait for revocations under way, for a short time."""
        if not self._revocations.wait_until(time.monotonic() + CLOSE_SECONDS):
            self._revocations.drop_waiting()


def _secret(tokens: Tokens) -> Secret:
    return Secret(
        value=tokens.access_token,
        refresh_token=tokens.refresh_token,
        expires_at=None if tokens.lifetime is None else int(time.time()) + tokens.lifetime,
        lifetime=tokens.lifetime,
    )


def _revoke(service: ConnectedService, secret: Secret) -> None:
    """Revoke the refresh token first, which ends its access tokens at most services, then the access token."""
    try:
        if secret.refresh_token is not None:
            service.revoke(secret.refresh_token, is_refresh_token=True)
        service.revoke(secret.value, is_refresh_token=False)
    except ServiceUnavailable:
        log.warning("%s: a token could not be revoked, and is valid there until it ends", service.name)
