"""Request parameters as RFC 6749 §3.1 and §3.2 read them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl

from .errors import OAuthError

MAX_VALUE_LENGTH = 8192
MAX_FORM_TOKEN_LENGTH = 48 * 1024
"""Of a value in one of our own forms: a form token holds a whole request, written in JSON and then in base64."""
MAX_PARAMETERS = 64
MAX_BODY_BYTES = 64 * 1024
MAX_URL_BYTES = 32 * 1024
MAX_HEADER_BYTES = 64 * 1024
"""The limit of all headers together."""
MAX_BYTES_KEPT = 1024 * 1024
"""Of the body of a request without a session id to a server with replicas: Traefik keeps it until one has taken it."""


def parse(pairs: Iterable[tuple[str, str]], *, max_length: int = MAX_VALUE_LENGTH) -> dict[str, str]:
    """Return each parameter once; one without a value counts as omitted.

    Raises OAuthError `invalid_request` for a repeated or oversized parameter, and `invalid_target` for a second
    `resource`: RFC 8707 allows several, but each of our tokens is for one.
    """
    parameters: dict[str, str] = {}
    for name, value in pairs:
        if name in parameters:
            raise OAuthError(
                "invalid_target" if name == "resource" else "invalid_request",
                f"the parameter {name[:64]} is repeated",
            )
        if len(value) > max_length:
            raise OAuthError(
                "invalid_request",
                f"the parameter {name[:64]} is longer than {max_length} characters",
            )
        if len(parameters) >= MAX_PARAMETERS:
            raise OAuthError("invalid_request", f"there are more than {MAX_PARAMETERS} parameters")
        parameters[name] = value
    return {name: value for name, value in parameters.items() if value}


def parse_form(body: bytes) -> dict[str, str]:
    """Return the parameters of a form. Raises OAuthError."""
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
    except ValueError as error:  # not UTF-8, or too many
        raise OAuthError("invalid_request", "the body is not a form of at most 64 parameters in UTF-8") from error
    return parse(pairs)


class _Members(list[tuple[str, Any]]):
    """All members of a JSON object, in order. A dict would keep only the last one of each name."""


def parse_json(body: bytes) -> dict[str, str]:
    """Return the members of a JSON object of strings as parameters; null counts as omitted. Raises OAuthError."""
    try:
        document = json.loads(body, object_pairs_hook=_Members)
    except (ValueError, RecursionError) as error:
        raise OAuthError("invalid_request", "the body is not JSON") from error
    if not isinstance(document, _Members):
        raise OAuthError("invalid_request", "the body must be a JSON object, or a form")
    for name, value in document:
        if not (value is None or isinstance(value, str)) or not _is_text(name + (value or "")):
            raise OAuthError("invalid_request", f"the parameter {name[:64]} must be a string")
    return parse((name, value or "") for name, value in document)


def _is_text(value: str) -> bool:
    """Whether the value can be encoded. JSON may hold half of a surrogate pair, which no form can."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
