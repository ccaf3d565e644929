"""Fetch a URL that a stranger has chosen, from the public internet only.

All addresses of the host must be public, and the connection goes to one of them. TLS is verified against the host name.
One deadline bounds resolving, connecting and reading together. Redirects are not followed, no body is decompressed, and
no proxy of the environment is used. All of this also holds through a proxy of the settings, which receives the address
and never the name, unless the proxy is to look up names (`make_fetcher`).
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import h11

from auth_service.protocol.addresses import is_public
from auth_service.protocol.errors import ClientDocumentError
from auth_service.settings import ClientDocuments

from .egress_proxy import EgressProxy
from .name_lookup import NameLookups

DEADLINE_SECONDS: Final = 5.0
MAX_CONCURRENT: Final = 4
"""Per worker, and the same number again for known hosts, so that slow servers of strangers occupy neither all threads
nor the places for known hosts.
"""
MAX_ADDRESSES: Final = 3
"""How many of a host's addresses are tried."""
MAX_HEADER_BYTES: Final = 16 * 1024
HTTPS_PORT: Final = 443

Resolve = Callable[[str], Sequence[str]]
"""From a host name to all its addresses; raises OSError."""
Connect = Callable[[str, int, float], socket.socket]
"""From an address (or an unresolved name), port and timeout in seconds to a connected socket; raises OSError."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A 200 answer, or a 304 to a conditional request. Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def resolve_host(host: str) -> Sequence[str]:
    """Look up all addresses of a host with the system's resolver."""
    found = socket.getaddrinfo(host, HTTPS_PORT, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def connect_tcp(address: str, port: int, timeout: float) -> socket.socket:
    """Connect to an address, without any name lookup."""
    return socket.create_connection((address, port), timeout=timeout)


def make_fetcher(documents: ClientDocuments) -> SafeFetcher:
    """Return a fetcher that follows the settings.

    If the proxy resolves names, it alone can refuse names with internal addresses. Here, the name must have a public
    form, the port is 443, and no request is sent before the server has proved the name by its certificate.
    """
    if documents.proxy is None:
        return SafeFetcher()
    proxy = EgressProxy(documents.proxy)
    if documents.proxy_resolves_names:
        return SafeFetcher(resolve=None, connect=proxy.connect)
    return SafeFetcher(connect=proxy.connect)


class SafeFetcher:
    """Make GET requests, of which a limited number run at a time."""

    def __init__(
        self,
        *,
        resolve: Resolve | None = resolve_host,
        connect: Connect = connect_tcp,
        tls: ssl.SSLContext | None = None,
        deadline: float = DEADLINE_SECONDS,
    ) -> None:
        """`deadline`, in seconds, is for all steps together. Without `resolve`, `connect` receives the name."""
        self._resolve = resolve
        self._connect = connect
        self._tls = tls if tls is not None else ssl.create_default_context()
        self._tls.set_alpn_protocols(["http/1.1"])
        self._deadline = deadline
        self._slots = {is_known: threading.BoundedSemaphore(MAX_CONCURRENT) for is_known in (False, True)}
        self._lookups = {is_known: NameLookups[Sequence[str]](MAX_CONCURRENT) for is_known in (False, True)}

    def fetch(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        max_bytes: int,
        admit: Callable[[str, Sequence[str]], None],
        is_known: bool = False,
    ) -> Fetched:
        """GET an https URL whose form has been checked.

        `is_known` takes one of the places for known hosts. `admit` is called with the host and the addresses that may
        be tried (none if a proxy looks them up) before the connection, and may raise. Raises ClientDocumentError, whose
        reason does not say what the host resolved to or answered; its cause may, and is for the operator.
        """
        if not self._slots[is_known].acquire(blocking=False):
            raise ClientDocumentError("too many documents are being fetched", is_transient=True)
        try:
            until = time.monotonic() + self._deadline
            parts = urlsplit(url)
            host = parts.hostname or ""
            addresses = self._find_addresses(host, until, is_known=is_known)
            admit(host, addresses)
            target = f"{parts.path}?{parts.query}" if parts.query else parts.path
            request = h11.Request(
                method="GET",
                target=target,
                headers=[
                    ("Host", host),
                    ("Accept", "application/json"),
                    ("Accept-Encoding", "identity"),
                    ("User-Agent", "mcp-oauth-gateway"),
                    ("Connection", "close"),
                    *headers.items(),
                ],
            )
            with self._open(host, addresses, until) as connection:
                return _exchange(connection, request, max_bytes=max_bytes, until=until)
        except (OSError, h11.ProtocolError) as error:
            raise ClientDocumentError("it could not be fetched", is_transient=True) from error
        finally:
            self._slots[is_known].release()

    def _find_addresses(self, host: str, until: float, *, is_known: bool) -> Sequence[str]:
        if (resolve := self._resolve) is None:
            return ()
        try:
            addresses = self._lookups[is_known].run(lambda: resolve(host), timeout=_left(until))
        except (OSError, UnicodeError) as error:  # a TimeoutError is an OSError
            raise _not_found() from error
        # All of them: of a host with public and private addresses, the next look-up may return the private ones.
        if not addresses or not all(is_public(address) for address in addresses):
            # As for an unknown name, or an attacker could find out which names the internal network has.
            raise _not_found() from OSError("it has an address that is not public")
        return addresses[:MAX_ADDRESSES]

    def _open(self, host: str, addresses: Sequence[str], until: float) -> ssl.SSLSocket:
        failure: OSError = OSError("no address")
        for address in addresses or (host,):
            try:
                plain = self._connect(address, HTTPS_PORT, _left(until))
            except OSError as error:
                failure = error
                continue
            try:
                plain.settimeout(_left(until))
                return self._tls.wrap_socket(plain, server_hostname=host, suppress_ragged_eofs=False)
            except BaseException:
                plain.close()
                raise
        raise failure


def _not_found() -> ClientDocumentError:
    return ClientDocumentError("its host was not found on the public internet", is_transient=True)


def _exchange(connection: ssl.SSLSocket, request: h11.Request, *, max_bytes: int, until: float) -> Fetched:
    state = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER_BYTES)
    connection.settimeout(_left(until))
    connection.sendall((state.send(request) or b"") + (state.send(h11.EndOfMessage()) or b""))
    headers: dict[str, str] = {}
    status, body, received = 0, b"", 0
    while True:
        event = state.next_event()
        if event is h11.NEED_DATA:
            # Python applies the timeout to the whole TLS call, however slowly the bytes arrive.
            connection.settimeout(_left(until))
            data = connection.recv(4096)
            received += len(data)
            if received > MAX_HEADER_BYTES + 2 * max_bytes:
                raise ClientDocumentError("the answer is too large")
            state.receive_data(data)
        elif isinstance(event, h11.Response):
            status = event.status_code
            headers = _combine(event.headers)
            _check_head(status, headers, is_conditional=any(name == b"if-none-match" for name, _ in request.headers))
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
            if len(body) > max_bytes:
                raise ClientDocumentError(f"it is larger than {max_bytes} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return Fetched(status=status, headers=headers, body=body)
        elif not isinstance(event, h11.InformationalResponse):
            raise ClientDocumentError("it could not be fetched", is_transient=True)


def _combine(lines: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Join the lines of each header, so that `no-store` counts in any of them (RFC 9110 §5.3)."""
    headers: dict[str, str] = {}
    for name, value in lines:
        former = headers.get(name.decode("ascii"))
        text = value.decode("latin-1")
        headers[name.decode("ascii")] = text if former is None else f"{former}, {text}"
    return headers


def _check_head(status: int, headers: Mapping[str, str], *, is_conditional: bool) -> None:
    if status == 304 and is_conditional:
        return
    if status != 200:
        raise ClientDocumentError(
            "it cannot be fetched: the answer's status is not 200", is_transient=status >= 500, status=status
        )
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise ClientDocumentError("its content type is not application/json", status=status)
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise ClientDocumentError("it is compressed, although the request does not accept that", status=status)


def _left(until: float) -> float:
    """Return the seconds that are left; raises TimeoutError if none are."""
    if (left := until - time.monotonic()) <= 0:
        raise TimeoutError
    return left
