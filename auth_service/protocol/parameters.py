"""Request parameters as RFC 6749 §3.1 and §3.2 read them."""

from __future__ import annotations

from collections.abc import Iterable

from auth_service.errors import OAuthError

MAX_VALUE_LENGTH = 8192
"""Of which a form's ticket takes more than the whole request that it repeats."""
MAX_PARAMETERS = 64


def parse(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return each parameter once; one without a value counts as omitted.

    Raises OAuthError `invalid_request` for a repeated or oversized one, `invalid_target` for a second
    `resource`:
    RFC 8707 allows several, but a token of ours is for one.
    """
    parameters: dict[str, str] = {}
    for name, value in pairs:
        if name in parameters:
            raise OAuthError(
                "invalid_target" if name == "resource" else "invalid_request",
                f"the parameter {name[:64]} is repeated",
            )
        if len(value) > MAX_VALUE_LENGTH:
            raise OAuthError(
                "invalid_request",
                f"the parameter {name[:64]} is longer than {MAX_VALUE_LENGTH} characters",
            )
        if len(parameters) >= MAX_PARAMETERS:
            raise OAuthError("invalid_request", f"there are more than {MAX_PARAMETERS} parameters")
        parameters[name] = value
    return {name: value for name, value in parameters.items() if value}
