"""Fetching through a proxy: the same rules for what is reached, and a proxy that misbehaves."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from auth_service.oauth.egress_proxy import EgressProxy
from auth_service.oauth.safe_fetch import SafeFetcher, make_fetcher
from auth_service.protocol.errors import ClientDocumentError
from auth_service.settings import ClientDocuments
from local.ports import free_port
from tests.connect_proxy import ConnectProxy, connect_proxy
from tests.internet import PUBLIC_ADDRESS, Internet, internet, respond

HOST = "client.example.com"
URL = f"https://{HOST}/client.json"
PUBLIC_IPV6 = "2606:2800:21f:cb07::1"
DOCUMENT = b'{"a": 1}'


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Internet]:
    with internet(tmp_path, HOST) as made:
        made.pages["/client.json"] = respond(DOCUMENT)
        yield made


@pytest.fixture
def proxy(net: Internet) -> Iterator[ConnectProxy]:
    with connect_proxy(net.port) as made:
        yield made


def admit_all(_host: str, _addresses: Sequence[str]) -> None:
    """Limit nothing."""


def fetch(fetcher: SafeFetcher) -> bytes:
    return fetcher.fetch(URL, headers={}, max_bytes=5120, admit=admit_all).body


def through(proxy: ConnectProxy, net: Internet, *, deadline: float = 5.0) -> SafeFetcher:
    return SafeFetcher(
        resolve=net.resolve,
        connect=EgressProxy(proxy.url).connect,
        tls=net.authority.client_context(),
        deadline=deadline,
    )


def fault(fetcher: SafeFetcher) -> ClientDocumentError:
    with pytest.raises(ClientDocumentError) as caught:
        fetch(fetcher)
    return caught.value


@pytest.mark.parametrize(
    ("address", "target"), [(PUBLIC_ADDRESS, f"{PUBLIC_ADDRESS}:443"), (PUBLIC_IPV6, f"[{PUBLIC_IPV6}]:443")]
)
def test_the_proxy_is_told_the_address_that_was_checked_and_tls_verifies_the_name(
    net: Internet, proxy: ConnectProxy, address: str, target: str
) -> None:
    net.addresses[HOST] = (address,)
    assert fetch(through(proxy, net)) == DOCUMENT
    assert proxy.targets == [target]
    assert HOST.encode() not in proxy.heads[0]
    assert b"\r\nHost: client.example.com\r\n" in net.requests[0]


@pytest.mark.parametrize(
    "addresses", [("10.0.0.1",), (PUBLIC_ADDRESS, "127.0.0.1"), ("169.254.169.254",), ("::1",), ()]
)
def test_no_address_that_is_not_public_is_named_to_the_proxy(
    net: Internet, proxy: ConnectProxy, addresses: Sequence[str]
) -> None:
    net.addresses[HOST] = addresses
    fault(through(proxy, net))
    assert proxy.heads == []


def test_another_hosts_certificate_is_refused_through_the_proxy_too(net: Internet, proxy: ConnectProxy) -> None:
    net.tls = net.authority.server_context("other.example.com")
    fault(through(proxy, net))
    assert proxy.targets == [f"{PUBLIC_ADDRESS}:443"]
    assert net.requests == []


def test_a_proxy_that_resolves_names_is_told_the_name_and_tls_still_verifies_it(
    net: Internet, proxy: ConnectProxy
) -> None:
    connect = EgressProxy(proxy.url).connect
    admitted = []
    fetcher = SafeFetcher(resolve=None, connect=connect, tls=net.authority.client_context())
    fetched = fetcher.fetch(URL, headers={}, max_bytes=5120, admit=lambda *each: admitted.append(each))
    assert fetched.body == DOCUMENT
    assert proxy.targets == [f"{HOST}:443"]
    assert net.resolved == []
    assert admitted == [(HOST, ())]
    net.tls = net.authority.server_context("other.example.com")
    fault(fetcher)
    assert len(net.requests) == 1  # nothing is asked of a host that does not prove the name


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "status 403"),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "status 407"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n", "status 302"),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000 + b"\r\n", "not HTTP|too large"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 5000, "too large"),
        (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n", "more than its answer"),
    ],
)
def test_a_proxy_that_opens_no_tunnel_fails_the_fetch_and_the_operator_is_told_why(
    net: Internet, proxy: ConnectProxy, answer: bytes, text: str
) -> None:
    proxy.answer = answer
    error = fault(through(proxy, net))
    assert error.is_transient
    assert any(part in str(error.__cause__) for part in text.split("|"))
    assert not any(part in error.reason for part in ("proxy", "status"))
    assert net.requests == []


def test_a_proxy_that_says_nothing_is_left_at_the_deadline(net: Internet, proxy: ConnectProxy) -> None:
    proxy.answer = b""
    assert fault(through(proxy, net, deadline=0.3)).is_transient


def test_a_proxy_that_cannot_be_reached_or_found_fails_the_fetch() -> None:
    with pytest.raises(OSError, match="refused"):
        EgressProxy(f"http://127.0.0.1:{free_port()}").connect(PUBLIC_ADDRESS, 443, 5)
    with pytest.raises(OSError):  # noqa: PT011 - the resolver's own text
        EgressProxy("http://proxy.invalid:3128").connect(PUBLIC_ADDRESS, 443, 5)


def test_the_settings_say_who_resolves_names(proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **how: resolve("10.0.0.1" if host == HOST else host, *rest, **how)
    )
    by_proxy = make_fetcher(ClientDocuments(proxy=proxy.url, proxy_resolves_names=True))
    fault(by_proxy)  # the test's authority is not the system's
    assert proxy.targets == [f"{HOST}:443"]
    assert "not found on the public internet" in fault(make_fetcher(ClientDocuments(proxy=proxy.url))).reason
    assert len(proxy.targets) == 1
