"""All errors that a request can end with. One handler (`app/views/error_handlers.py`) renders them."""

from __future__ import annotations

import re
from typing import Final

_NOT_DESCRIPTION_TEXT = re.compile(r"[^\x20-\x21\x23-\x5B\x5D-\x7E]")


def oauth_text(text: str) -> str:
    """Replace the characters that `error_description` must not have (RFC 6749 §5.2)."""
    return _NOT_DESCRIPTION_TEXT.sub("?", text)


RETRY_SECONDS: Final = 5
"""When to try again after an error that may pass by itself."""


class GatewayError(Exception):
    """Base of all errors that this service raises on purpose."""


class ServiceUnavailable(GatewayError):
    """A dependency does not answer: nothing is granted, and the caller may retry."""

    def __init__(self, dependency: str, *, retry_after: int = RETRY_SECONDS) -> None:
        super().__init__(f"{dependency} is unavailable")
        self.dependency = dependency
        self.retry_after = retry_after


class UnknownKey(ServiceUnavailable):
    """A token or assertion names a key that is not known, and it is too early to fetch the issuer's keys again.

    The issuer may have begun to use a new key. Anyone can send such a token, so this is no outage.
    """

    def __init__(self, issuer: str, *, retry_after: int) -> None:
        super().__init__(f"a newer key set of {issuer}", retry_after=retry_after)


class WritesRefused(ServiceUnavailable):
    """Redis answers, but takes no writes: its disk or memory is full, or it has lost its replicas."""

    def __init__(self, reason: str) -> None:
        super().__init__("Redis")
        self.reason = reason
        """The error of Redis."""


class PartlyRefused(WritesRefused):
    """Redis takes no writes: the grants of a user or client have ended, but other records of it are still there."""

    def __init__(self, reason: str, *, ended: int) -> None:
        super().__init__(reason)
        self.ended = ended
        """How many grants have ended."""


class ProviderRefusal(ServiceUnavailable):
    """The identity provider refuses a login for a reason that the operator, or the user at the provider, must mend.

    The user's rights are unchanged: as when the provider does not answer, nothing is granted and nothing ends.
    """

    def __init__(self, provider: str, *, code: str, title: str, explanation: str, operator: str | None) -> None:
        super().__init__(provider)
        self.code = code
        self.title = title
        self.explanation = explanation
        self.operator = operator
        """What the operator can do; None if the user can mend it."""


class TooManyRequests(GatewayError):
    """A quota is used up. `retry_after` is in seconds."""

    def __init__(self, *, retry_after: int) -> None:
        super().__init__(f"too many requests, again in {retry_after} s")
        self.retry_after = retry_after


class ClientDocumentError(GatewayError):
    """A client document, or its key set, cannot be used. `reason` may be shown to everyone."""

    def __init__(self, reason: str, *, is_transient: bool = False, status: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_transient = is_transient
        """Whether another try may succeed."""
        self.status = status
        """The status of the host's answer; None without an answer."""


class ClientDocumentsDisabled(ClientDocumentError):
    """The operator has turned client documents off."""

    def __init__(self) -> None:
        super().__init__("this gateway accepts no client with a URL as its client_id: register instead")


class ClientHostNotAllowed(ClientDocumentError):
    """The host is not one of those that the operator allows for client documents."""

    def __init__(self) -> None:
        super().__init__("its host is not on this gateway's list of allowed hosts")


class OAuthError(GatewayError):
    """An error response of RFC 6749 §5.2, or of an RFC that extends its list of codes.

    `description` may quote what a client sent. Characters that RFC 6749 forbids in `error_description` are replaced, so
    that no input can make the error response malformed.
    """

    def __init__(self, error: str, description: str, *, status: int = 400) -> None:
        self.error = error
        self.description = oauth_text(description)
        self.status = status
        super().__init__(f"{error}: {self.description}")


class AuthorizationRedirectError(OAuthError):
    """An authorization error for the client, at a redirect URI that has been validated."""

    def __init__(self, cause: OAuthError, *, redirect_uri: str, state: str | None) -> None:
        super().__init__(cause.error, cause.description)
        self.redirect_uri = redirect_uri
        self.state = state


class ConsentDeclined(AuthorizationRedirectError):
    """The user has declined."""

    def __init__(self, *, redirect_uri: str, state: str | None) -> None:
        super().__init__(OAuthError("access_denied", "the user declined"), redirect_uri=redirect_uri, state=state)


class PageError(GatewayError):
    """An error that is shown to the user as a page, and never redirected."""

    def __init__(
        self,
        title: str,
        explanation: str,
        *,
        status: int = 400,
        help_clients: bool = False,
        help_registration: bool = False,
        operator: str | None = None,
        links: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(f"{title}: {explanation}")
        self.title = title
        self.explanation = explanation
        self.status = status
        self.help_clients = help_clients
        """Whether to show how to connect again in each client."""
        self.help_registration = help_registration
        """Whether to show how to make a client with a client document register instead."""
        self.operator = operator
        """What the gateway's operator can do about it."""
        self.links = links
        """Links for the user: (text, URL)."""


class LoginError(GatewayError):
    """The identity provider refused a login, or its answer is not valid. The text is for the log only."""
