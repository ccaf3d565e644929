"""One form for the spellings of a URI that servers take for the same resource. No I/O.

RFC 3986 §6.2.2 and the URL Standard, which the SDKs' parsers follow, taken together.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import unquote

_MAX_DECODINGS = 3
# Longer URIs would keep the bridge's only thread, and all other clients, waiting.
_MAX_CHARACTERS = 1 << 16
# A code point that no text has (Unicode, "Noncharacters"). It stands for * while a rule's URI is normalized.
_WILDCARD = "\ufdd0"
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
_DOT_SEGMENT = re.compile(r"(?:^|[/:])\.\.?(?=[/?#]|$)")
# The URL Standard reads `http:host`, `http:///host` and `file:/path` as `http://host` and `file:///path`.
_MISSING_SLASHES = re.compile(r"(?:https?|wss?|ftp):(?!//[^/])|file:(?!//(?!//))", re.IGNORECASE)
_SCHEME_AND_AUTHORITY = re.compile(r"([a-z][a-z0-9+.-]*):(?://([^/?#]*))?", re.IGNORECASE)
_DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443", "ftp": "21"}
_HOST_AND_PORT = re.compile(rf"(\[[^\[\]@]*\]|[^:\[\]@]*)(?::([0-9{_WILDCARD}]*))?")
# Parsers read a host with such an end as an IPv4 address, in many notations.
_NUMBER_AT_END = re.compile(r"(?:^|\.)(?:0x[0-9a-f]*|[0-9]+)$")
_QUERY = re.compile(r"[?#]")
_REPEATED_SLASHES = re.compile(r"/{2,}")


class AmbiguousUriError(Exception):
    """Servers may read this URI as different resources; the text says why."""


def normalize_uri(uri: str) -> str:
    """Return the normal form. Raises AmbiguousUriError."""
    normal = _normalize(uri)
    if _WILDCARD in normal:
        raise AmbiguousUriError(f"{uri!r} has a code point that no text has")
    if _MISSING_SLASHES.match(normal):
        raise AmbiguousUriError(f"{uri!r} has too few or too many slashes behind its scheme")
    return normal


def without_file_host(normal: str) -> str:
    """Return the normal form of a `file` URI without its host, which some servers ignore."""
    start = _SCHEME_AND_AUTHORITY.match(normal)
    return normal if start is None or start[1] != "file" else "file://" + normal[start.end() :]


def normalize_pattern(pattern: str) -> tuple[str, ...]:
    """Return the normal form of a rule's URI, split at each `*`. Raises AmbiguousUriError."""
    if "*" not in pattern:
        return (normalize_uri(pattern),)
    return tuple(_normalize(pattern.replace("*", _WILDCARD)).split(_WILDCARD))


def without_query(uri: str) -> str:
    """Return a URI without query and fragment, which may hold search terms or secrets."""
    return _QUERY.split(uri, maxsplit=1)[0]


def _normalize(uri: str) -> str:
    if len(uri) > _MAX_CHARACTERS:
        raise AmbiguousUriError(f"a URI is longer than {_MAX_CHARACTERS} characters")
    text = _decode(uri)
    if uri != uri.strip() or _CONTROL.search(text) or _DOT_SEGMENT.search(text):
        raise AmbiguousUriError(f"{uri!r} has white space at an end, a control character, a backslash or a dot segment")
    start = _SCHEME_AND_AUTHORITY.match(text)
    if start is None:
        return text
    rest = _REPEATED_SLASHES.sub("/", text[start.end() :])
    scheme, authority = start[1].lower(), start[2]
    if authority is None:
        return f"{scheme}:{rest}"
    return f"{scheme}://{_normalize_authority(scheme, authority.lower(), uri)}{rest}"


def _normalize_authority(scheme: str, authority: str, uri: str) -> str:
    if scheme == "file":
        return "" if authority == "localhost" else authority
    if scheme not in _DEFAULT_PORTS:
        return authority
    parts = _HOST_AND_PORT.fullmatch(authority)
    if parts is None or not authority.replace(_WILDCARD, "").isascii() or parts[1].endswith("."):
        raise AmbiguousUriError(f"{uri!r} has a user, a host that is not ASCII or ends in a dot, or an invalid port")
    host, port = parts[1], (parts[2] or "").lstrip("0")
    if (host.startswith("[") or _NUMBER_AT_END.search(host)) and _WILDCARD not in host:
        _check_address(host.strip("[]"), uri)
    return host if port in ("", _DEFAULT_PORTS[scheme]) else f"{host}:{port}"


def _check_address(address: str, uri: str) -> None:
    try:
        is_canonical = str(ipaddress.ip_address(address)) == address
    except ValueError:
        is_canonical = False
    if not is_canonical:
        raise AmbiguousUriError(f"{uri!r} has an IP address in another notation than the usual one")


def _decode(text: str) -> str:
    if "%" not in text:
        return text
    for _ in range(_MAX_DECODINGS):
        decoded = unquote(text, errors="surrogateescape")
        if decoded == text:
            return text
        text = decoded
    raise AmbiguousUriError(f"{text!r} is percent-encoded again and again")
