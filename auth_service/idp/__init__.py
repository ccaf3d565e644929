"""Identity providers, which say who the user in front of the browser is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from auth_service.protocol.access import Profile
from auth_service.protocol.errors import LoginError, ServiceUnavailable
from auth_service.settings import GitHub, OpenIDConnect, is_loopback_host


def provider_name(settings: GitHub | OpenIDConnect) -> str:
    """Return the prefix of the provider's subjects, as ids are unique only within one issuer or GitHub server.

    For github.com, and for a stand-in on this machine, it is `github`, without a host.
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
    """A single sign-on of an organization, without which the provider does not say who its members are."""

    organization: str
    url: str
    """The provider's page for it."""


@dataclass(frozen=True, kw_only=True)
class Login:
    """A finished login at the identity provider."""

    profile: Profile
    token: str | None = field(repr=False)
    """The token with which the provider can be asked about the user later; None if it gave none."""
    sign_ons: tuple[SignOn, ...] = ()
    """Organizations for which the provider has not said whether the user is a member."""


class IdentityProvider(Protocol):
    """One way to log in. Calls raise LoginError for a refusal, ServiceUnavailable without a valid answer."""

    name: str
    """The prefix of subjects: `github` in `github:583231`."""
    title: str
    """The provider's name on pages."""
    rechecks_names: bool
    """Whether the provider is asked at each refresh also about users whose name is on an allow-list.

    A pinned GitHub account always belongs to the same user, while a company's directory removes those who leave.
    """

    def authorization_url(self, *, state: str, code_challenge: str) -> str:
        """Return where to send the browser."""

    def explain_refusal(self, parameters: Mapping[str, str]) -> LoginError | ServiceUnavailable:
        """Return the error for a browser that came back with these parameters and without a code."""

    def finish_login(self, *, code: str, code_verifier: str) -> Login:
        """Redeem the code that the browser has brought back. Raises ProviderRefusal too."""

    def identify(self, token: str, *, replaced: Callable[[str], None]) -> Profile:
        """Return the user of a token from an earlier login, with the provider's current data.

        If the provider replaces the token, `replaced` is called with the new one at once, even if the call fails later.
        """
