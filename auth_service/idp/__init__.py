"""Identity providers: who is in front of the browser, as someone else knows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from auth_service.protocol.access import Identity


@dataclass(frozen=True, kw_only=True)
class Login:
    """A finished login at the identity provider."""

    identity: Identity
    token: str | None = field(repr=False)
    """What re-checks memberships later; None if nothing configured depends on any."""


class IdentityProvider(Protocol):
    """One way to log in. Calls raise LoginError for a refusal, ServiceUnavailable for no or no sensible
    answer.
    """

    name: str
    """What subjects begin with: `github` in `github:583231`."""
    title: str
    """What people are shown."""

    def authorization_url(self, *, state: str, code_challenge: str) -> str:
        """Return where to send the browser."""

    def finish_login(self, *, code: str, code_verifier: str) -> Login:
        """Redeem the code that the browser brought back."""

    def identify(self, token: str) -> Identity:
        """Return who the token of a former login belongs to, with the memberships held now."""
