"""Which web pages a request may come from, and by which name it may call the bridge.

A page can make a browser send requests to any address, and can have its own name point to one ("DNS rebinding"), so
both are held to an allow-list (2026-07-28, "Security Warning").
"""

from __future__ import annotations

import fnmatch
import functools
from urllib.parse import urlsplit

from . import jsonrpc
from .detach import Request
from .errors import Refusal
from .options import Options

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
# A DNS name has 253 characters at most; this bounds what is remembered too.
_LONGEST = 300
_REMEMBERED = 64


class Access:
    """The allow-lists. Without any, loopback is allowed, and with an identity everything.

    With an identity the gateway has seen to it already: a page cannot make a browser send a bearer token.
    """

    def __init__(self, options: Options) -> None:
        otherwise = ("*",) if options.identity_key is not None else _LOOPBACK_NAMES
        self._origins = tuple(origin.lower() for origin in options.allowed_origins)
        self._hosts = tuple(host.lower() for host in options.allowed_hosts) or otherwise
        self._origin_hosts = otherwise
        # Clients send the same two again and again.
        self._origin_allowed = functools.lru_cache(_REMEMBERED)(self._allows_origin)
        self._host_allowed = functools.lru_cache(_REMEMBERED)(self._allows_host)

    def check(self, request: Request) -> None:
        """Raise Refusal, 403, on an Origin or a Host that is not allowed."""
        origin = request.header("ORIGIN")
        if origin is not None and not (len(origin) <= _LONGEST and self._origin_allowed(origin)):
            raise Refusal("403 Forbidden", jsonrpc.INVALID_REQUEST, "this Origin is not allowed")
        host = request.header("HOST") or ""
        if not (len(host) <= _LONGEST and self._host_allowed(host)):
            raise Refusal("403 Forbidden", jsonrpc.INVALID_REQUEST, "this Host is not allowed")

    def _allows_origin(self, origin: str) -> bool:
        if self._origins:
            return _matches(origin.lower(), self._origins)
        return self._origin_hosts == ("*",) or _matches(_host_of(origin), self._origin_hosts)

    def _allows_host(self, host: str) -> bool:
        return _matches(_host_of("//" + host), self._hosts)


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _matches(value: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(value, pattern) for pattern in patterns)
