"""Client documents: the metadata of clients whose `client_id` is an https URL (MCP 2026-07-28).

"The draft" is draft-ietf-oauth-client-id-metadata-document. The URL is the identifier, compared letter by letter; the
document at the URL replaces a registration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

from auth_service.settings import AppScheme

from . import clients, redirect_uris
from .clients import Client, ClientMetadata
from .errors import ClientDocumentError, OAuthError

URL_PREFIX: Final = "https://"
MAX_URL_LENGTH: Final = 1024
MAX_DOCUMENT_BYTES: Final = 5 * 1024
"""The draft recommends this number."""
MAX_KEYS_BYTES: Final = 32 * 1024
"""A key set may carry certificates."""
AUTH_METHODS: Final = ("none", "private_key_jwt")
"""No shared secret: such a client has never received one."""
DEFAULT_LIFETIME: Final = 300
"""For how many seconds a document without caching headers is used."""
MAX_LIFETIME: Final = 24 * 3600

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# No port, user, fragment or address, and a top-level label that no resolver reads as a number.
_URL = re.compile(
    rf"https://(?P<host>(?:{_LABEL}\.)+[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9])?)"
    r"(?P<path>/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*)"
    r"(?:\?(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*)?"
)
# Encoded dots, slashes, backslashes, percent signs and controls, which servers may decode to separators.
_ENCODED_SYNTAX = re.compile(r"%(?:2e|2f|5c|25|7f|[01][0-9a-f])", re.IGNORECASE)
_MAX_AGE = re.compile(r"max-age=\"?([0-9]{1,10})\"?", re.IGNORECASE)


def is_document_url(client_id: str) -> bool:
    """Whether an identifier is the URL of a document. Identifiers of registered clients never begin so."""
    return client_id.startswith(URL_PREFIX)


def check_url(url: str) -> None:
    """Accept a URL that may be fetched for a client (draft §3). Raises ClientDocumentError."""
    if len(url) > MAX_URL_LENGTH:
        raise ClientDocumentError(f"the URL is longer than {MAX_URL_LENGTH} characters")
    match = _URL.fullmatch(url)
    if match is None:
        raise ClientDocumentError(
            "the URL must be https://HOST/PATH: a lower-case host name, no port, user or fragment"
        )
    if _ENCODED_SYNTAX.search(match["path"]) or {".", ".."} & set(match["path"].split("/")):
        raise ClientDocumentError("the URL's path has dot segments or encoded separators")
    if len(match["host"]) > 253:
        raise ClientDocumentError("the URL's host name is too long")


def host_of(client_id: str) -> str | None:
    """Return the host that vouches for a client; None for a registered client, which no host vouches for."""
    return urlsplit(client_id).hostname if is_document_url(client_id) else None


def parse_client(url: str, document: Any, *, apps: Mapping[str, AppScheme] = redirect_uris.NO_APPS) -> Client:
    """Return the client that a document at a URL describes (draft §4.1). Raises ClientDocumentError."""
    if not isinstance(document, dict):
        raise ClientDocumentError("the document is not a JSON object")
    if document.get("client_id") != url:
        raise ClientDocumentError("the document's client_id is not the document's own URL")
    if "client_secret" in document or "client_secret_expires_at" in document:
        raise ClientDocumentError("the document holds a client secret, which everyone can read there")
    # The default of RFC 7591 is a shared secret, which a client document cannot mean.
    chosen = document.get("token_endpoint_auth_method") or "none"
    try:
        metadata = clients.parse_metadata(
            {**document, "token_endpoint_auth_method": chosen},
            auth_methods=AUTH_METHODS,
            keys_by_reference=True,
            apps=apps,
        )
    except OAuthError as error:
        raise ClientDocumentError(f"the document is not valid: {error.description}") from error
    if metadata.client_name is None:
        raise ClientDocumentError("the document has no client_name")
    if metadata.jwks_uri is not None:
        check_url(metadata.jwks_uri)
    return Client(client_id=url, metadata=metadata, other_auth_methods=_other_methods(metadata, document))


def _other_methods(metadata: ClientMetadata, document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the other methods that the client lists (ChatGPT prefers a key and lists `none`)."""
    listed = document.get("token_endpoint_auth_methods_supported")
    has_keys = metadata.jwks is not None or metadata.jwks_uri is not None
    return tuple(
        method
        for method in AUTH_METHODS
        if isinstance(listed, list)
        and method in listed
        and method != metadata.token_endpoint_auth_method
        and (method == "none" or has_keys)
    )


def lifetime(headers: Mapping[str, str], *, now: float) -> int | None:
    """Return for how many seconds an answer is fresh (RFC 9111 §4.2), None if it must not be stored.

    `headers` have lower-case names.
    """
    control = headers.get("cache-control", "").lower()
    directives = {part.strip().partition("=")[0] for part in control.split(",")}
    if "no-store" in directives:
        return None
    if "no-cache" in directives:
        return 0
    if (match := _MAX_AGE.search(control)) is not None:
        age = headers.get("age", "0")
        seconds = int(match[1]) - (int(age[:10]) if age.isascii() and age.isdecimal() else 0)
    elif "expires" in headers:
        try:
            seconds = int(parsedate_to_datetime(headers["expires"]).timestamp() - now)
        except (ValueError, TypeError, OverflowError):
            seconds = 0  # an invalid date, such as "0", has passed (§5.3)
    else:
        seconds = DEFAULT_LIFETIME
    return min(max(seconds, 0), MAX_LIFETIME)
