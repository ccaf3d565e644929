"""Limit how many threads wait for the identity provider, so that a slow one cannot block all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Final

from auth_service.protocol.access import Profile
from auth_service.protocol.errors import LoginError, ServiceUnavailable

from . import IdentityProvider, Login
from .thread_limit import ThreadLimit

MAX_CONCURRENT: Final = 12
"""Per worker. An attacker can make a thread wait for the provider by an invented code."""


class BoundedProvider:
    """Pass calls on, and raise ServiceUnavailable at once for a call above the limit."""

    def __init__(self, provider: IdentityProvider) -> None:
        """Limit the calls of this provider."""
        self.name = provider.name
        self.title = provider.title
        self.rechecks_names = provider.rechecks_names
        self._provider = provider
        self.waiting = ThreadLimit(self.title, threading.BoundedSemaphore(MAX_CONCURRENT)).waiting
        """Counts this thread as waiting. Raises ServiceUnavailable above the limit."""

    def authorization_url(self, *, state: str, code_challenge: str) -> str:
        """As the provider's, which may need its metadata first."""
        with self.waiting():
            return self._provider.authorization_url(state=state, code_challenge=code_challenge)

    def explain_refusal(self, parameters: Mapping[str, str]) -> LoginError | ServiceUnavailable:
        """As the provider's, which makes no request."""
        return self._provider.explain_refusal(parameters)

    def finish_login(self, *, code: str, code_verifier: str) -> Login:
        """As the provider's."""
        with self.waiting():
            return self._provider.finish_login(code=code, code_verifier=code_verifier)

    def identify(self, token: str, *, replaced: Callable[[str], None]) -> Profile:
        """As the provider's."""
        with self.waiting():
            return self._provider.identify(token, replaced=replaced)
