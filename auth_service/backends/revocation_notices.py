"""Tell bridges of the end of a grant or of a user's credentials (docs/contracts.md, "Revocation notices")."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

import requests

from auth_service.ops.background_queue import BackgroundQueue
from auth_service.settings import Credentials, Settings
from auth_service.storage.grants import Grant

from .assertions import BackendSigner, derive_identity_key

TIMEOUT_SECONDS: Final = 2
MAX_WAITING: Final = 10_000
"""How many notices may wait for one origin. Above that the oldest are dropped."""
DELIVERED: Final = "delivered"
UNDELIVERED: Final = "undelivered"
CLOSE_SECONDS: Final = 5
"""For how many seconds a process that ends goes on sending notices."""

log = logging.getLogger(__name__)


class RevocationNotices:
    """Post to every backend of a grant's resource in the background, so that a revocation never waits for a backend.

    Each origin has a queue and a thread of its own, so a server that hangs delays only its own notices. No notice is
    sent twice. In any case the grant is refused from the moment it ends, and a stream whose bridge got no notice ends
    with its access token.
    """

    def __init__(self, settings: Settings, credentials: Credentials) -> None:
        # With both outcomes from the start, so that the first failure is an increase.
        self.outcomes: Counter[str] = Counter({DELIVERED: 0, UNDELIVERED: 0})
        """How many notices each outcome had, for the metrics."""
        self._counting = threading.Lock()
        self._resources = settings.resources
        self._origins: dict[str, _Origin] = {}
        self._targets: dict[str, tuple[BackendSigner, list[_Origin]]] = {}
        for name, resource in settings.resources.items():
            urls = dict.fromkeys(map(_revocation_url, resource.endpoints))
            origins = [self._origins.setdefault(url, _Origin(url, self._count)) for url in urls]
            self._targets[resource.url] = BackendSigner(derive_identity_key(credentials, name)), origins

    def __call__(self, grant: Grant) -> None:
        """Tell the backends that this grant has ended, unless its resource no longer exists."""
        if (target := self._targets.get(grant.resource)) is None:
            return
        signer, origins = target
        for origin in origins:
            origin.add(lambda: signer.sign_revocation(grant.sid))

    def end_processes(self, resource_name: str, sub: str) -> None:
        """Tell the bridges of a server to end all processes of a user, whose credentials have changed or are gone.

        They discard answers with former credentials that are on their way (docs/contracts.md, "Delivery of users'
        credentials").
        """
        if (resource := self._resources.get(resource_name)) is None:
            return
        signer, origins = self._targets[resource.url]
        for origin in origins:
            origin.add(lambda: signer.sign_user_revocation(sub))

    def _count(self, outcome: str, notices: int) -> None:
        with self._counting:
            self.outcomes[outcome] += notices

    def close(self) -> None:
        """Wait until every backend has its notices, except those that do not answer."""
        deadline = time.monotonic() + CLOSE_SECONDS
        for origin in self._origins.values():
            origin.begin_to_close()
        for origin in self._origins.values():
            origin.wait_until(deadline)


class _Origin:
    """The waiting notices of one origin, which a thread sends in order."""

    def __init__(self, url: str, count: Callable[[str, int], None]) -> None:
        self._url = url
        self._count = count
        self._queue = BackgroundQueue(
            log,
            f"revocation-push {url}",
            failure=f"revocation.unheard: {url}",
            most=MAX_WAITING,
            drops_oldest=True,
        )
        self._is_closing = False

    def add(self, sign: Callable[[], str]) -> None:
        """Send a notice after all earlier ones. It is signed when it is sent."""
        if not self._queue.add(lambda: self._send(sign)):
            self._count(UNDELIVERED, 1)
            log.warning("revocation.unheard: %s: more than %d are waiting", self._url, MAX_WAITING)

    def begin_to_close(self) -> None:
        """Give up at the next failure."""
        self._is_closing = True

    def wait_until(self, deadline: float) -> None:
        """Wait until all notices are sent, or until the deadline (monotonic clock)."""
        if not self._queue.wait_until(deadline):
            self._drop_waiting()
            log.warning("revocation.unheard: %s: the process ends", self._url)

    def _send(self, sign: Callable[[], str]) -> None:
        is_delivered = False
        try:
            is_delivered = _post(self._url, sign())
        finally:
            self._count(DELIVERED if is_delivered else UNDELIVERED, 1)
            if self._is_closing and not is_delivered:
                self._drop_waiting()

    def _drop_waiting(self) -> None:
        self._count(UNDELIVERED, self._queue.drop_waiting())


def _revocation_url(backend: str) -> str:
    parts = urlsplit(backend)
    return f"{parts.scheme}://{parts.netloc}/revocations"


def _post(url: str, body: str) -> bool:
    """Return whether there was an answer."""
    try:
        with requests.Session() as session:
            session.trust_env = False
            session.post(
                url,
                data=body,
                headers={"Content-Type": "text/plain"},
                timeout=TIMEOUT_SECONDS,
                allow_redirects=False,
                stream=True,
            ).close()
    except requests.RequestException as error:
        log.warning("revocation.unheard: %s: %s", url, type(error).__name__)
        return False
    return True
