"""Explain the OAuth errors of an identity provider to the user who logs in, and to the operator.

The codes are those of RFC 6749, RFC 9101 and OpenID Connect Core §3.1.2.6, and GitHub's own ("Troubleshooting
authorization request errors", "Troubleshooting OAuth app access token request errors").
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from auth_service.protocol.errors import LoginError, ProviderRefusal, ServiceUnavailable

DECLINED: Final = frozenset({"access_denied"})
"""The user, or a rule about the user, refused the login: the client is told so."""
PASSING: Final = frozenset({"server_error", "temporarily_unavailable"})
SPENT: Final = frozenset({"bad_verification_code", "invalid_grant"})
"""The code is used already, or too old."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Meaning:
    """What is wrong, and what to do: `operator` for the operator, without it `user` for the user."""

    title: str
    user: str
    operator: str | None = None


_SIGN_IN_FIRST = _Meaning("{Provider} wants you to sign in there first", "Sign in at {provider}, then try again.")
_ASK_OPERATOR = "Only the operator of this gateway can mend this. Please tell the operator the title of this page."
_MEANINGS: Final = {
    "application_suspended": _Meaning(
        "{Provider} has suspended this gateway's application",
        _ASK_OPERATOR,
        "Ask the support of {provider} why, or register another application and set identity_provider.client_id.",
    ),
    "redirect_uri_mismatch": _Meaning(
        "{Provider} does not know this gateway's address",
        _ASK_OPERATOR,
        "Set the callback URL of the application at {provider} to {callback}.",
    ),
    "incorrect_client_credentials": _Meaning(
        "{Provider} does not accept this gateway's credentials",
        _ASK_OPERATOR,
        "Compare identity_provider.client_id and the credential client-secret with the application at {provider}.",
    ),
    "unverified_user_email": _Meaning(
        "Your e-mail address is not verified", "Verify it in your account's settings at {provider}, then try again."
    ),
    "invalid_scope": _Meaning(
        "{Provider} does not know a scope that this gateway asks for",
        _ASK_OPERATOR,
        "Remove the scope that it refuses from identity_provider.scopes (identityProvider.oidc.scopes).",
    ),
    "unauthorized_client": _Meaning(
        "{Provider} does not let this gateway log anyone in",
        _ASK_OPERATOR,
        "Allow the application at {provider} the authorization code grant, with the callback URL {callback}.",
    ),
    "unsupported_response_type": _Meaning(
        "{Provider} does not let this gateway log anyone in",
        _ASK_OPERATOR,
        "Allow the application at {provider} the response type `code`.",
    ),
    "interaction_required": _SIGN_IN_FIRST,
    "login_required": _SIGN_IN_FIRST,
    "account_selection_required": _SIGN_IN_FIRST,
    "consent_required": _SIGN_IN_FIRST,
}
_MEANINGS["invalid_client"] = _MEANINGS["incorrect_client_credentials"]
_OTHER = _Meaning(
    "{Provider} refuses this gateway's login",
    _ASK_OPERATOR,
    "The log has the error of {provider}. Check that the application there is a web application with a client secret, "
    "and that its callback URL is {callback}.",
)


def explain(
    answer: Mapping[str, Any], *, provider: str, callback: str, is_vouched: bool
) -> LoginError | ServiceUnavailable:
    """Return the exception for an OAuth error at a login: LoginError, ServiceUnavailable, or its kind ProviderRefusal.

    `is_vouched` says whether the provider itself sent the error. If a browser brought it, an attacker may have written
    it, so that the log has it as a warning only.
    """
    code, description = answer.get("error"), answer.get("error_description")
    name = code if isinstance(code, str) else ""
    if not name and is_vouched:
        log.error("%s answered a login without tokens and without an error", provider)
        return ServiceUnavailable(provider)
    if not name:
        return LoginError(f"{provider} sent the browser back without a code and without an error")
    if name in DECLINED:
        return LoginError(f"{provider} says that the login was declined: {_quote(description)}")
    if name in SPENT:
        return LoginError(f"{provider} refused the code: {name}")
    if name in PASSING:
        log.warning("%s says that no login is possible now: %s: %s", provider, name, _quote(description))
        return ServiceUnavailable(provider)
    meaning = _MEANINGS.get(name, _OTHER)
    words = {"provider": provider, "Provider": provider[:1].upper() + provider[1:], "callback": callback}
    operator = None if meaning.operator is None else meaning.operator.format(**words)
    if operator is not None:
        level = logging.ERROR if is_vouched else logging.WARNING
        source = "answered" if is_vouched else "sent a browser back with"
        log.log(level, "%s %s the error %s: %s. %s", provider, source, _quote(code), _quote(description), operator)
    return ProviderRefusal(
        provider,
        code=name if name in _MEANINGS else "an error that is not known here",
        title=meaning.title.format(**words),
        explanation=meaning.user.format(**words),
        operator=operator,
    )


def _quote(text: object) -> str:
    """Return a value of a provider's error, which may be no text, as one line."""
    return f"{text!s:.200}".encode("ascii", "backslashreplace").decode().translate(_CONTROLS) if text else "nothing"


_CONTROLS: Final = {**dict.fromkeys(range(32), "?"), 127: "?"}
