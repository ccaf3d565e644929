"""Resource indicators (RFC 8707): which MCP server a client asks for."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from .errors import OAuthError

_DEFAULT_PORTS = {"http": 80, "https": 443}


def _canonical(uri: str) -> str | None:
    """Return the canonical form of a resource's URI; None for a URI that can name no resource.

    Users paste URLs, so the case of scheme and host, a default port, trailing slashes and a query make no difference.
    The router ignores the query too.
    """
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        return None
    if parts.fragment or "#" in uri or "@" in parts.netloc or not parts.hostname:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    authority = host if port in {None, _DEFAULT_PORTS.get(parts.scheme)} else f"{host}:{port}"
    return f"{parts.scheme}://{authority}{parts.path.rstrip('/')}"


def parse_resource(requested: str | None, urls: Mapping[str, str], *, default: str | None) -> str:
    """Return the name of the resource that a request is for; `urls` maps the names to their URLs.

    Raises OAuthError `invalid_target` (RFC 8707 §2) for an unknown resource, and for a request without one if there is
    no default: no token is good for all resources.
    """
    if requested is None:
        if default is None:
            raise OAuthError("invalid_target", "resource is missing: send the URL of the MCP server")
        return default
    canonical = _canonical(requested)
    for name, url in urls.items():
        if canonical == _canonical(url):
            return name
    raise OAuthError(
        "invalid_target", f"this client has no access to {requested[:200]}, or this gateway has no such server"
    )
