"""Call an identity provider: in bounded time, without redirects. Every failure raises ServiceUnavailable."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from auth_service.protocol.errors import ServiceUnavailable

CONNECT_SECONDS: Final = 5
READ_SECONDS: Final = 10
"""How long each read may take."""
_MAX_BYTES: Final = 1 << 20
SESSION_SECONDS: Final = 25
"""How long all calls of a session may take, as each byte of an answer may take its own time-out."""

_entered = threading.local()


class Session(requests.Session):
    """A session that cuts its connections when its time is over, even within an answer.

    For one thread. A session that is entered within another has at most the time that is left of the outer one.
    """

    def __init__(self, *, seconds: float | None = None) -> None:
        """`seconds` is how long all calls may take, and each read, if not the usual times."""
        super().__init__()
        self._seconds = seconds
        self._sockets: list[socket.socket] = []
        self._outer: Session | None = None
        self.until = 0.0
        for scheme in ("https://", "http://"):
            self.mount(scheme, _Adapter())

    def __enter__(self) -> Self:
        self._outer = getattr(_entered, "session", None)
        _entered.session = self
        self.until = time.monotonic() + (SESSION_SECONDS if self._seconds is None else self._seconds)
        if self._outer is not None:
            self.until = min(self.until, self._outer.until)
        self._timer = threading.Timer(max(self.until - time.monotonic(), 0), self._cut)
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._timer.cancel()
        _entered.session = self._outer
        super().__exit__(*args)

    @property
    def read_seconds(self) -> float:
        """How long each read may take."""
        return READ_SECONDS if self._seconds is None else self._seconds

    @property
    def is_over(self) -> bool:
        """Whether the time is over, so that the last answer may be incomplete."""
        return time.monotonic() >= self.until

    def watch(self, connection: socket.socket) -> None:
        """Also cut this connection when the time is over."""
        self._sockets.append(connection)
        if self.is_over:
            self._cut()

    def _cut(self) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(each, socket.SHUT_RDWR)  # SSLSocket.shutdown would go on without TLS


class _Connection(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _entered.session.watch(self.sock)


class _TLSConnection(HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        _entered.session.watch(self.sock)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


_POOLS: Final = {"http": _Pool, "https": _TLSPool}


class _Adapter(HTTPAdapter):
    """Connect by connections that can be cut."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer of a provider."""

    provider: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    def document(self) -> dict[str, Any]:
        """Return the JSON object of the body. Raises ServiceUnavailable if the body is none."""
        try:
            document = json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise ServiceUnavailable(self.provider) from error
        if not isinstance(document, dict):
            raise ServiceUnavailable(self.provider)
        return document


class _BearerToken(requests.auth.AuthBase):
    """Set the header without `requests`, which would prefer the password of a `.netrc`."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _NoAuth(requests.auth.AuthBase):
    """Send no credentials, whatever a `.netrc` says."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


def call(
    session: Session,
    method: str,
    url: str,
    *,
    provider: str,
    token: str | None = None,
    basic: tuple[str, str] | None = None,
    data: Mapping[str, str] | None = None,
) -> Answer:
    """Make one request; `provider` is the name in errors. Raises ServiceUnavailable without a complete answer."""
    auth: requests.auth.AuthBase = _NoAuth()
    if token is not None:
        auth = _BearerToken(token)
    elif basic is not None:
        auth = requests.auth.HTTPBasicAuth(*basic)
    if session.is_over:
        raise ServiceUnavailable(provider)
    try:
        with session.request(
            method,
            url,
            data=data,
            auth=auth,
            headers={"Accept": "application/json", "User-Agent": "mcp-oauth-gateway"},
            timeout=(CONNECT_SECONDS, session.read_seconds),
            allow_redirects=False,
            stream=True,
        ) as response:
            body = response.raw.read(_MAX_BYTES + 1, decode_content=True)
            if len(body) > _MAX_BYTES or session.is_over:
                raise ServiceUnavailable(provider)
            return Answer(provider=provider, status=response.status_code, headers=response.headers, body=body)
    except (requests.RequestException, OSError, HTTPError) as error:
        raise ServiceUnavailable(provider) from error
