"""Which web pages a request may come from, and by which name it may call the bridge.

A page can make a browser send requests to any address, and can have its own name point to one ("DNS rebinding"), so
both are held to an allow-list (2026-07-28, "Security Warning").
"""

from __future__ import annotations

import fnmatch
import functools
import re
from urllib.parse import urlsplit

from . import jsonrpc
from .detach import Headers, Request
from .errors import Refusal
from .options import Options

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
# A DNS name has 253 characters at most; this bounds what is remembered too.
_LONGEST = 300
_REMEMBERED = 64
# Nothing but a scheme, a host and a port; or, of a page that has none, this word.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@,\s]+|null", re.IGNORECASE)
# `*` stands for every name but this one.
_PREFLIGHT: Headers = [
    ("Access-Control-Allow-Methods", "GET, POST, DELETE"),
    ("Access-Control-Allow-Headers", "*, Authorization"),
    ("Access-Control-Max-Age", "7200"),
]


class Access:
    """The allow-lists. Without any, loopback is allowed, and with an identity everything.

    With an identity the gateway has seen to it already: a page cannot make a browser send a bearer token. It also tells
    browsers what pages may do; without one that is told here.
    """

    def __init__(self, options: Options) -> None:
        self._behind_gateway = options.identity_key is not None
        otherwise = ("*",) if self._behind_gateway else _LOOPBACK_NAMES
        self._origins = tuple(origin.lower() for origin in options.allowed_origins)
        self._hosts = tuple(host.lower() for host in options.allowed_hosts) or otherwise
        self._origin_hosts = otherwise
        # Clients send the same two again and again.
        self._origin_allowed = functools.lru_cache(_REMEMBERED)(self._allows_origin)
        self._host_allowed = functools.lru_cache(_REMEMBERED)(self._allows_host)

    def check(self, request: Request) -> Headers:
        """Return the headers by which a browser lets its page see the response; none if no page asks.

        Raises Refusal, 403, on an Origin or a Host that is not allowed.
        """
        origin = request.header("ORIGIN")
        if origin is not None and not (len(origin) <= _LONGEST and self._origin_allowed(origin)):
            raise Refusal("403 Forbidden", jsonrpc.INVALID_REQUEST, "this Origin is not allowed")
        host = request.header("HOST") or ""
        if not (len(host) <= _LONGEST and self._host_allowed(host)):
            raise Refusal("403 Forbidden", jsonrpc.INVALID_REQUEST, "this Host is not allowed")
        if origin is None or self._behind_gateway:
            return []
        exposed = ("Access-Control-Expose-Headers", "Mcp-Session-Id, Retry-After")
        return [("Access-Control-Allow-Origin", origin), ("Vary", "Origin"), exposed]

    def preflight(self, request: Request) -> Headers | None:
        """Return what a page may send, if it is a browser that asks; behind the gateway nobody does."""
        if self._behind_gateway or request.method != "OPTIONS" or request.header("ORIGIN") is None:
            return None
        return _PREFLIGHT

    def _allows_origin(self, origin: str) -> bool:
        if not self._origins and self._behind_gateway:
            return True
        if not _ORIGIN.fullmatch(origin):
            return False
        if self._origins:
            return _matches(origin.lower(), self._origins)
        return _matches(_host_of(origin), self._origin_hosts)

    def _allows_host(self, host: str) -> bool:
        return _matches(_host_of("//" + host), self._hosts)


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _matches(value: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(value, pattern) for pattern in patterns)
