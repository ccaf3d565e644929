"""Identity providers: who is in front of the browser, as someone else knows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from auth_service.protocol.access import Identity
from auth_service.protocol.errors import LoginError, ServiceUnavailable
from auth_service.settings import GitHub, OpenIDConnect, is_loopback_host


def provider_name(settings: GitHub | OpenIDConnect) -> str:
    """Return what its subjects begin with: ids are unique within an issuer, or a GitHub server, only.

    github.com needs no name, and neither has what stands in for it on this machine.
    """
    if isinstance(settings, OpenIDConnect):
        return f"oidc:{settings.issuer}"
    parts = urlsplit(settings.url)
    if parts.hostname == "github.com" or is_loopback_host(parts.hostname or ""):
        return "github"
    is_usual = parts.port in {None, {"https": 443, "http": 80}[parts.scheme]}
    return f"github:{parts.hostname}" if is_usual else f"github:{parts.hostname}:{parts.port}"


@dataclass(frozen=True, kw_only=True)
class SignOn:
    """An organization that has its members sign in by itself before the provider tells who they are."""

    organization: str
    url: str
    """The provider's own page for that."""


@dataclass(frozen=True, kw_only=True)
class Login:
    """A finished login at the identity provider."""

    identity: Identity
    token: str | None = field(repr=False)
    """What asks about the user later; None if the provider gave nothing for that."""
    sign_ons: tuple[SignOn, ...] = ()
    """Organizations whose members the user may be among, for all that the provider would say."""


class IdentityProvider(Protocol):
    """One way to log in. Calls raise LoginError for a refusal, ServiceUnavailable for no or no sensible
    answer.
    """

    name: str
    """What subjects begin with: `github` in `github:583231`."""
    title: str
    """What people are shown."""
    rechecks_names: bool
    """Whether users whose name is on a list are asked about at each refresh too.

    A GitHub account stays who it is once pinned; a company's directory forgets those who leave.
    """

    def authorization_url(self, *, state: str, code_challenge: str) -> str:
        """Return where to send the browser."""

    def explain_refusal(self, parameters: Mapping[str, str]) -> LoginError | ServiceUnavailable:
        """Return what to raise where the browser came back without a code, with these parameters."""

    def finish_login(self, *, code: str, code_verifier: str) -> Login:
        """Redeem the code that the browser brought back. Raises ProviderRefusal, too."""

    def identify(self, token: str, *, replaced: Callable[[str], None]) -> Identity:
        """Return who the token of a former login belongs to, as they are known now.

        `replaced` is told which token to use next, as soon as the former is of no use: also where the call then fails.
        """
