"""Forms of single values: URLs, names, durations."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

_PLAIN_URL = re.compile(r"https?://[a-z0-9._:\[\]-]+(?:/[A-Za-z0-9._~!$&*+,;=:-]+)*")


class SettingsError(Exception):
    """The settings file or a credential is not valid; the text is one line for the operator."""


class Model(BaseModel):
    """A part of the settings. Unknown members and other types are refused, and it cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def is_loopback_host(host: str) -> bool:
    """Whether a URL's host (without brackets) can only be this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_base_url(value: str) -> str:
    """Accept an absolute http(s) URL in canonical form, as URLs are compared bytewise (RFC 8414 §3.3)."""
    # urlsplit drops tabs and line breaks, so that its result is not the text that is compared.
    if not re.fullmatch(r"[!-~]+", value):
        raise ValueError("must hold visible ASCII characters only (write an international host name in punycode)")
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an absolute http or https URL")
    if any(character in value for character in "@?#\\"):
        raise ValueError("must have no user, password, query or fragment")
    if value.endswith("/"):
        raise ValueError("must not end with a slash")
    if parts.netloc != parts.netloc.lower() or "//" in parts.path:
        raise ValueError("must be in canonical form: lower-case host, no empty path segment")
    _ = parts.port  # raises ValueError on a port that is none
    return value


def _parse_secure_url(value: str) -> str:
    """Accept a base URL with https, or with http for a loopback host."""
    parts = urlsplit(parse_base_url(value))
    if parts.scheme == "http" and not is_loopback_host(parts.hostname or ""):
        raise ValueError("must be https: plain http is accepted for a loopback host only")
    return value


def _parse_public_url(value: str) -> str:
    """Accept a secure URL that clients and the rules of the router read in the same way."""
    _parse_secure_url(value)
    if not _PLAIN_URL.fullmatch(value) or {".", ".."} & set(urlsplit(value).path.split("/")):
        raise ValueError("must have no dot segment, no percent-encoding and no quotes or brackets in its path")
    return value


def _parse_issuer(value: str) -> str:
    """Accept a secure URL that may have one slash at its end, as issuers of some providers do."""
    _parse_secure_url(value.removesuffix("/"))
    return value


def _parse_network(value: str) -> str:
    return str(ipaddress.ip_network(value))


BaseUrl = Annotated[str, AfterValidator(parse_base_url)]
PublicUrl = Annotated[str, AfterValidator(_parse_public_url)]
IssuerUrl = Annotated[str, AfterValidator(_parse_issuer)]
ResourceName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
# A bridge puts this name and a dot before the ids of its sessions.
ReplicaName = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")]
ScopeName = Annotated[str, Field(pattern=r"^[\x21\x23-\x5B\x5D-\x7E]+$", description="RFC 6749 §3.3 scope-token")]
Network = Annotated[str, AfterValidator(_parse_network)]
Seconds = Annotated[int, Field(gt=0)]
