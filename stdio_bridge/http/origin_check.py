"""The allow-lists for the Origin and Host headers of requests.

A web page can make a browser send requests to any address, and can make its own host name resolve to any address ("DNS
rebinding"). So both headers are checked (2026-07-28, "Security Warning").
"""

from __future__ import annotations

import functools
import ipaddress
import logging
import re
import time
from urllib.parse import urlsplit

from stdio_bridge.io.log_handler import LimitedLog
from stdio_bridge.options import Options
from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.errors import HttpError

from .exchange import Headers, Request

log = logging.getLogger(__name__)

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
# A DNS name has 253 characters at most; this also bounds the size of the caches.
_LONGEST = 300
_REMEMBERED = 64
# A scheme, a host and a port; or "null", the origin of a page without one.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@,\s]+|null", re.IGNORECASE)
# `*` stands for every name but this one.
_PREFLIGHT: Headers = [
    ("Access-Control-Allow-Methods", "GET, POST, DELETE"),
    ("Access-Control-Allow-Headers", "*, Authorization"),
    ("Access-Control-Max-Age", "7200"),
]


class OriginCheck:
    """The allow-lists.

    Without identity assertions, loopback hosts are always allowed, and loopback origins if no origin is configured. The
    responses then have CORS headers.

    With identity assertions, every host and origin is allowed if none is configured: the gateway has checked a bearer
    token, which a web page cannot make a browser send. The gateway also sets the CORS headers.
    """

    def __init__(self, options: Options) -> None:
        self._behind_gateway = options.identity_key is not None
        self._origins = tuple(map(_pattern, options.allowed_origins))
        self._hosts = tuple(map(_pattern, options.allowed_hosts))
        self._log = LimitedLog(log, time.monotonic, per_second=1)
        # Clients send the same values again and again.
        self._origin_allowed = functools.lru_cache(_REMEMBERED)(self._allows_origin)
        self._host_allowed = functools.lru_cache(_REMEMBERED)(self._allows_host)

    def check(self, request: Request) -> Headers:
        """Return the CORS headers of the response; none if the request has no Origin.

        Raises HttpError, 403, on an Origin or a Host that is not allowed.
        """
        origin = request.headers.get("origin")
        if origin is not None and not (len(origin) <= _LONGEST and self._origin_allowed(origin)):
            raise self._refuse("Origin", origin, "--allow-origin")
        host = request.headers.get("host", "")
        if not (len(host) <= _LONGEST and self._host_allowed(host)):
            raise self._refuse("Host", host, "--allow-host")
        if origin is None or self._behind_gateway:
            return []
        exposed = ("Access-Control-Expose-Headers", "Mcp-Session-Id, Retry-After")
        return [("Access-Control-Allow-Origin", origin), ("Vary", "Origin"), exposed]

    def _refuse(self, header: str, value: str, option: str) -> HttpError:
        # Any client can cause this log line, so there is at most one each second.
        self._log.log(
            logging.WARNING, "refused a request: %s %r is not allowed by %s", header, value[:_LONGEST], option
        )
        text = f"this {header} is not allowed: {option} names those that are"
        return HttpError("403 Forbidden", jsonrpc.INVALID_REQUEST, text)

    def preflight(self, request: Request) -> Headers | None:
        """Return the headers for a CORS preflight; None for other requests, and behind the gateway."""
        if self._behind_gateway or request.method != "OPTIONS" or request.headers.get("origin") is None:
            return None
        return _PREFLIGHT

    def _allows_origin(self, origin: str) -> bool:
        if not self._origins and self._behind_gateway:
            return True
        if not _ORIGIN.fullmatch(origin):
            return False
        if self._origins:
            return _matches(origin.lower(), self._origins)
        return _is_loopback(_host_of(origin))

    def _allows_host(self, host: str) -> bool:
        if self._behind_gateway and not self._hosts:
            return True
        name = _host_of("//" + host)
        return _matches(name, self._hosts) or (not self._behind_gateway and _is_loopback(name))


def _host_of(url: str) -> str:
    try:
        name = urlsplit(url).hostname or ""
        return str(ipaddress.IPv6Address(name)) if ":" in name else name  # as the allow-list is written
    except ValueError:
        return ""


def _is_loopback(name: str) -> bool:
    # All names below `localhost` are (RFC 6761 §6.3). Desktop programs with web pages use such names.
    return name in _LOOPBACK_NAMES or name.endswith(".localhost")


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, text.lower().split("*"))), re.DOTALL)


def _matches(value: str, patterns: tuple[re.Pattern[str], ...]) -> bool:
    return any(pattern.fullmatch(value) for pattern in patterns)
