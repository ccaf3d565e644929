"""One form for the spellings of a URI that servers take for the same resource. No I/O.

RFC 3986 §6.2.2 and the URL Standard, which the SDKs' parsers follow, taken together.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

_MAX_DECODINGS = 3
# All other clients wait while one is read.
_MAX_CHARACTERS = 1 << 16
# A code point that no text has (Unicode, "Noncharacters"): it stands for * where a rule is brought into its form.
_WILDCARD = "\ufdd0"
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
_DOT_SEGMENT = re.compile(r"(?:^|[/:])\.\.?(?=[/?#]|$)")
# The URL Standard reads `http:host`, `http:///host` and `file:/path` as `http://host` and `file:///path`.
_MISSING_SLASHES = re.compile(r"(?:https?|wss?|ftp):(?!//[^/])|file:(?!//(?!//))", re.IGNORECASE)
_SCHEME_AND_AUTHORITY = re.compile(r"[a-z][a-z0-9+.-]*:(?://[^/?#]*)?", re.IGNORECASE)
_QUERY = re.compile(r"[?#]")
_REPEATED_SLASHES = re.compile(r"/{2,}")


class AmbiguousUriError(Exception):
    """Servers may read this URI as different resources; the text says why."""


def normalize_uri(uri: str) -> str:
    """Return the normal form. Raises AmbiguousUriError."""
    normal = _normalize(uri)
    if _MISSING_SLASHES.match(normal):
        raise AmbiguousUriError(f"{uri!r} has too few or too many slashes behind its scheme")
    return normal


def normalize_pattern(pattern: str) -> tuple[str, ...]:
    """Return the normal form of a rule's URI, split at each `*`. Raises AmbiguousUriError."""
    if "*" not in pattern:
        return (normalize_uri(pattern),)
    return tuple(_normalize(pattern.replace("*", _WILDCARD)).split(_WILDCARD))


def without_query(uri: str) -> str:
    """Return what a record may hold of a URI: the rest may be what is searched for, or a secret."""
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
    return start[0].lower().replace("file://localhost", "file://") + rest


def _decode(text: str) -> str:
    if "%" not in text:
        return text
    for _ in range(_MAX_DECODINGS):
        decoded = unquote(text, errors="surrogateescape")
        if decoded == text:
            return text
        text = decoded
    raise AmbiguousUriError(f"{text!r} is percent-encoded again and again")
