"""Forms of single values: URLs, names, durations."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

_PLAIN_URL = re.compile(r"https?://[a-z0-9._:\[\]-]+(?:/[A-Za-z0-9._~!$&*+,;=:-]+)*")


class SettingsError(Exception):
    """The settings file or a credential is unusable; the text is one line for the operator."""


class Model(BaseModel):
    """A part of the settings: nothing in it is unknown, converted or changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def is_loopback_host(host: str) -> bool:
    """Whether a URL's host (no brackets) can only ever mean this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_base_url(value: str) -> str:
    """Accept an absolute http(s) URL in the one canonical form that we compare bytewise (RFC 8414 §3.3)."""
    # urlsplit drops tabs and line breaks, so that what it reports is not what we would compare.
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
    """As `parse_base_url`, and https unless only this machine can reach it."""
    parts = urlsplit(parse_base_url(value))
    if parts.scheme == "http" and not is_loopback_host(parts.hostname or ""):
        raise ValueError("must be https: plain http is accepted for a loopback host only")
    return value


def _parse_public_url(value: str) -> str:
    """As `_parse_secure_url`, and spelled so that clients and the router, in whose rules it is, read the same in it."""
    _parse_secure_url(value)
    if not _PLAIN_URL.fullmatch(value) or {".", ".."} & set(urlsplit(value).path.split("/")):
        raise ValueError("must have no dot segment, no percent-encoding and no quotes or brackets in its path")
    return value


def _parse_issuer(value: str) -> str:
    """As `_parse_secure_url`, but for one trailing slash, which some providers' issuers have."""
    _parse_secure_url(value.removesuffix("/"))
    return value


def _parse_network(value: str) -> str:
    return str(ipaddress.ip_network(value))


BaseUrl = Annotated[str, AfterValidator(parse_base_url)]
PublicUrl = Annotated[str, AfterValidator(_parse_public_url)]
IssuerUrl = Annotated[str, AfterValidator(_parse_issuer)]
ResourceName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
# What a bridge puts before the ids of its sessions, followed by a dot.
ReplicaName = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")]
ScopeName = Annotated[str, Field(pattern=r"^[\x21\x23-\x5B\x5D-\x7E]+$", description="RFC 6749 §3.3 scope-token")]
Network = Annotated[str, AfterValidator(_parse_network)]
Seconds = Annotated[int, Field(gt=0)]
