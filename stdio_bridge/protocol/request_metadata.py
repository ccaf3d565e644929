"""The metadata of a modern request, in its body and in its headers, which must agree. No I/O.

2026-07-28, "Request Metadata" and "Server Validation".
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from . import jsonrpc
from .errors import HttpError, bad_request
from .jsonrpc import Message
from .mcp import (
    CLIENT_CAPABILITIES,
    CLIENT_INFO,
    HEADER_MISMATCH,
    LOG_LEVEL,
    LOG_LEVELS,
    MODERN_VERSIONS,
    NAMED_BY,
    PROTOCOL_VERSION,
    UNSUPPORTED_VERSION,
    Versions,
)

_DATED = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_PLAIN = re.compile(r"[\t\x20-\x7e]*")
_ENCODED = re.compile(r"=\?base64\?(.*)\?=")


@dataclass(frozen=True, kw_only=True)
class RequestMetadata:
    """What the request says about its client. It is unverified: nothing is allowed because of it."""

    version: str
    capabilities: Message
    client_info: Message
    log_level: str | None

    def wants_log_of(self, level: object) -> bool:
        """Whether a log message of this level is at least of the level that was asked for."""
        if self.log_level is None or level not in LOG_LEVELS:
            return False
        return LOG_LEVELS.index(str(level)) >= LOG_LEVELS.index(self.log_level)


def is_modern_version(version: str | None) -> bool:
    """Whether a version is of the modern era, whether or not the bridge knows it."""
    return version is not None and _DATED.fullmatch(version) is not None and version >= MODERN_VERSIONS[0]


def is_modern(version_header: str | None, messages: Iterable[Message]) -> bool:
    """Whether a POST is of the modern era: a modern client names its version in the header and in each message.

    One of the two is enough; then the other is required.
    """
    return is_modern_version(version_header) or any(
        PROTOCOL_VERSION in jsonrpc.meta_of(message) for message in messages
    )


def parse_metadata(message: Message, headers: Mapping[str, str], versions: Versions) -> RequestMetadata:
    """Read and check a request's metadata. Names of `headers` are in lower case. Raises HttpError, 400."""
    meta = jsonrpc.meta_of(message)
    for key, kind in ((PROTOCOL_VERSION, str), (CLIENT_CAPABILITIES, dict)):
        if not isinstance(meta.get(key), kind):
            raise bad_request(jsonrpc.INVALID_PARAMS, f"params._meta must hold {key}, {_KIND_NAMES[kind]}")
    version: str = meta[PROTOCOL_VERSION]
    _check_headers(message, version, headers)
    check_version(version, versions)
    log_level = meta.get(LOG_LEVEL)
    if log_level is not None and log_level not in LOG_LEVELS:
        raise bad_request(jsonrpc.INVALID_PARAMS, f"{LOG_LEVEL} must be one of {', '.join(LOG_LEVELS)}")
    info = meta.get(CLIENT_INFO)
    return RequestMetadata(
        version=version,
        capabilities=meta[CLIENT_CAPABILITIES],
        client_info=info if isinstance(info, dict) else {},
        log_level=log_level,
    )


_KIND_NAMES: dict[type, str] = {str: "a string", dict: "an object"}


def check_version(version: str, versions: Versions) -> None:
    """Raises HttpError for a version that is not offered to stand-alone requests."""
    if version not in MODERN_VERSIONS or version not in versions.offered:
        raise unsupported(version, versions)


def unsupported(requested: object, versions: Versions) -> HttpError:
    """400: a revision that is not offered, and those that are."""
    data = {"supported": list(versions.offered), "requested": requested}
    return bad_request(UNSUPPORTED_VERSION, "Unsupported protocol version", data)


def _check_headers(message: Message, version: str, headers: Mapping[str, str]) -> None:
    if headers.get("mcp-protocol-version") != version:
        raise mismatch("MCP-Protocol-Version", "params._meta")
    if headers.get("mcp-method") != message["method"]:
        raise mismatch("Mcp-Method", "method")
    parameter = NAMED_BY.get(message["method"])
    if parameter is None:
        return
    name = jsonrpc.params_of(message).get(parameter)
    if not isinstance(name, str):
        raise bad_request(jsonrpc.INVALID_PARAMS, f"params.{parameter} must be a string")
    if find_header_text(headers.get("mcp-name")) != name:
        raise mismatch("Mcp-Name", f"params.{parameter}")


def mismatch(header_name: str, source: str) -> HttpError:
    """400: a header is missing, malformed, or says something else than the body."""
    return bad_request(
        HEADER_MISMATCH, f"Header mismatch: {header_name} must be sent, and be equal to {source} of the body"
    )


def find_header_text(value: str | None) -> str | None:
    """Decode a header that may be in the base64 form. None where it is absent or malformed."""
    if value is None or not _PLAIN.fullmatch(value):
        return None
    encoded = _ENCODED.fullmatch(value)
    if encoded is None:
        return value
    try:
        decoded = base64.b64decode(encoded[1], validate=True)
        # With unused bits set at the end, two texts would decode to the same value.
        return decoded.decode("utf-8") if base64.b64encode(decoded).decode("ascii") == encoded[1] else None
    except (binascii.Error, UnicodeDecodeError):
        return None


def missing_capabilities(request: Message, declared: Message) -> Message:
    """Return the capabilities that a client must declare to get this request, and has not declared."""
    method = request.get("method")
    params = jsonrpc.params_of(request)
    needed: dict[str, Any] = {}
    if method == "roots/list":
        needed = {"roots": {}}
    elif method == "sampling/createMessage":
        needed = {"sampling": {"tools": {}} if "tools" in params else {}}
    elif method == "elicitation/create":
        needed = {"elicitation": {"url" if params.get("mode") == "url" else "form": {}}}
    return {name: parts for name, parts in needed.items() if not _declares(declared.get(name), name, parts)}


def _declares(value: object, name: str, parts: Message) -> bool:
    if not isinstance(value, dict):
        return False
    # "An empty capabilities object is equivalent to declaring support for form mode only."
    if name == "elicitation" and not value:
        value = {"form": {}}
    return all(part in value for part in parts)
