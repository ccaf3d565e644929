"""Connect through an HTTP proxy, for hosts that reach the internet only through one (RFC 9110 §9.3.6, CONNECT)."""

from __future__ import annotations

import socket
import time
from typing import Any, Final
from urllib.parse import urlsplit

import h11

from .name_lookup import NameLookups

MAX_HEAD_BYTES: Final = 16 * 1024
_MAX_LOOKUPS: Final = 4


class EgressProxy:
    """A proxy that the operator has named. It receives no data of users."""

    def __init__(self, url: str) -> None:
        """`url` is `http://HOST:PORT`."""
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 0
        self._lookups = NameLookups[list[tuple[Any, ...]]](_MAX_LOOKUPS)

    def connect(self, host: str, port: int, timeout: float) -> socket.socket:
        """Return a connection to an address, or to a name that the proxy looks up.

        `timeout`, in seconds, is for all steps together. Raises OSError, whose text is for the operator.
        """
        until = time.monotonic() + timeout
        connection = self._connect(until)
        try:
            _open_tunnel(connection, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", until)
        except h11.ProtocolError as error:
            connection.close()
            raise ConnectionError(f"the proxy's answer is not HTTP: {error}") from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _look_up(self) -> list[tuple[Any, ...]]:
        return list(socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM))

    def _connect(self, until: float) -> socket.socket:
        try:
            found = self._lookups.run(self._look_up, timeout=_left(until))
        except TimeoutError as error:
            raise TimeoutError("the proxy's name was not resolved in time") from error
        failure = OSError("the proxy has no address")
        for *_, address in found:
            try:
                return socket.create_connection((str(address[0]), self._port), timeout=_left(until))
            except OSError as error:
                failure = error
        raise failure


def _open_tunnel(connection: socket.socket, target: str, until: float) -> None:
    state = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
    request = h11.Request(method="CONNECT", target=target, headers=[("Host", target)])
    connection.settimeout(_left(until))
    connection.sendall((state.send(request) or b"") + (state.send(h11.EndOfMessage()) or b""))
    received = 0
    while not isinstance(event := state.next_event(), h11.Response):
        if event is h11.NEED_DATA:
            connection.settimeout(_left(until))
            data = connection.recv(4096)
            received += len(data)
            if received > MAX_HEAD_BYTES:
                raise ConnectionError("the proxy's answer is too large")
            state.receive_data(data)
        elif not isinstance(event, h11.InformationalResponse):
            raise ConnectionError("the proxy closed the connection")
    if not 200 <= event.status_code < 300:
        raise ConnectionError(f"the proxy refused with status {event.status_code}")
    if state.trailing_data[0]:  # behind a tunnel, the TLS client speaks first
        raise ConnectionError("the proxy sent more than its answer")


def _left(until: float) -> float:
    """Return the seconds that are left; raises TimeoutError if none are."""
    if (left := until - time.monotonic()) <= 0:
        raise TimeoutError("no time is left")
    return left
