"""Telling bridges that a grant has ended, so that they end its streams (docs/architecture.md, "Revocation push")."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import requests

from auth_service.identity import BackendSigner, derive_identity_key
from auth_service.settings import Credentials, Settings
from auth_service.store import Grant

TIMEOUT_SECONDS = 2
MAX_CONCURRENT = 4

log = logging.getLogger(__name__)


class RevocationPush:
    """Posts to every backend of a grant's resource, in the background: revoking never waits for a backend.

    Nothing is retried. The grant is refused from the moment it ends in any case; a stream that was not told
    ends with its access token.
    """

    def __init__(self, settings: Settings, credentials: Credentials) -> None:
        self._targets = {
            resource.url: (
                BackendSigner(derive_identity_key(credentials, name)),
                [_revocation_url(backend) for backend in resource.endpoints],
            )
            for name, resource in settings.resources.items()
        }
        self._pool = ThreadPoolExecutor(MAX_CONCURRENT, thread_name_prefix="revocation-push")

    def __call__(self, grant: Grant) -> None:
        """Tell the backends that this grant has ended. A resource that is gone has nobody to tell."""
        if (target := self._targets.get(grant.resource)) is None:
            return
        signer, urls = target
        for url in urls:
            self._pool.submit(_post, url, signer.sign_revocation(grant.sid))


def _revocation_url(backend: str) -> str:
    parts = urlsplit(backend)
    return f"{parts.scheme}://{parts.netloc}/revocations"


def _post(url: str, body: str) -> None:
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
