"""Fetching what strangers name: where connections go, and what hostile servers can not do."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from auth_service.oauth.safe_fetch import MAX_CONCURRENT, Fetched, SafeFetcher
from auth_service.protocol.addresses import is_public
from auth_service.protocol.errors import ClientDocumentError
from tests.internet import PUBLIC_ADDRESS, Answer, Internet, drip, internet, respond, send, silence

HOST = "client.example.com"
URL = f"https://{HOST}/client.json"
MAX_BYTES = 5120
DOCUMENT = b'{"a": 1}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("internet")


@pytest.fixture
def net(directory: Path) -> Iterator[Internet]:
    with internet(directory, HOST) as made:
        yield made


def admit_all(_host: str, _addresses: Sequence[str]) -> None:
    """Limit nothing."""


def fetch(fetcher: SafeFetcher, url: str = URL, *, etag: str | None = None) -> Fetched:
    headers = {"If-None-Match": etag} if etag else {}
    return fetcher.fetch(url, headers=headers, max_bytes=MAX_BYTES, admit=admit_all)


def fault(net: Internet, *, deadline: float = 5.0) -> ClientDocumentError:
    with pytest.raises(ClientDocumentError) as caught:
        fetch(net.fetcher(deadline=deadline))
    return caught.value


@pytest.mark.parametrize(
    "answer",
    [
        respond(DOCUMENT),
        respond(DOCUMENT, content_type="application/client-metadata+json; charset=utf-8"),
        respond(DOCUMENT, content_type="Application/JSON"),
        send(
            HEAD
            + b"Transfer-Encoding: chunked\r\n\r\n3\r\n"
            + DOCUMENT[:3]
            + b"\r\n5\r\n"
            + DOCUMENT[3:]
            + b"\r\n0\r\n\r\n"
        ),
        send(b"HTTP/1.1 103 Early Hints\r\n\r\n" + HEAD + b"Content-Length: 8\r\n\r\n" + DOCUMENT),
        send(HEAD + b"\r\n" + DOCUMENT),
    ],
)
def test_a_document_is_fetched_over_tls_from_the_address_that_was_checked(net: Internet, answer: Answer) -> None:
    net.pages["/client.json"] = answer
    assert fetch(net.fetcher()).body == DOCUMENT
    assert net.connected == [(PUBLIC_ADDRESS, 443)]
    assert net.resolved == [HOST]
    assert b"\r\nHost: client.example.com\r\n" in net.requests[0]


def test_a_document_of_the_largest_size_is_fetched_and_one_byte_more_is_refused(net: Internet) -> None:
    net.pages["/client.json"] = respond(b" " * MAX_BYTES)
    assert len(fetch(net.fetcher()).body) == MAX_BYTES
    net.pages["/client.json"] = respond(b" " * (MAX_BYTES + 1))
    assert "larger than" in fault(net).reason


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (respond(b"", status="301 Moved", location=f"https://{HOST}/elsewhere"), "status is not 200"),
        (respond(DOCUMENT, status="302 Found", location="http://169.254.169.254/"), "status is not 200"),
        (respond(b"", status="307 Temporary Redirect", location=f"https://{HOST}/elsewhere"), "status is not 200"),
        (respond(DOCUMENT, status="201 Created"), "status is not 200"),
        (respond(DOCUMENT, status="206 Partial Content"), "status is not 200"),
        (respond(b"", status="304 Not Modified"), "status is not 200"),
        (respond(DOCUMENT, status="404 Not Found"), "status is not 200"),
        (respond(DOCUMENT, status="500 Oops"), "status is not 200"),
        (respond(DOCUMENT, content_type="text/html"), "content type"),
        (respond(DOCUMENT, content_type="text/json"), "content type"),
        (respond(DOCUMENT, content_type=""), "content type"),
        (respond(DOCUMENT, Content_Type="text/html"), "content type"),
        (respond(DOCUMENT, content_encoding="gzip"), "compressed"),
        (respond(DOCUMENT, content_encoding="gzip", Content_Encoding="identity"), "compressed"),
        (send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"400\r\n" + b" " * 1024 + b"\r\n" * 9), "could not be"),
        (send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + (b"400\r\n" + b" " * 1024 + b"\r\n") * 9), "larger than"),
        (send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 40_000), "too large"),
        (send(HEAD + b"\r\n" + b" " * 9000), "larger than"),
        (send(HEAD + b"Content-Length: 100\r\n\r\n{}"), "could not be"),
        (send(HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}"), "could not be"),
        (send(HEAD + b"X: " + b"y" * 24_000 + b"\r\n\r\n{}"), "could not be"),
        (send(HEAD + b"X: y\r\n" * 5000 + b"\r\n{}"), "could not be"),
        (send(b"HTTP/1.1 100 Continue\r\n\r\n" * 5000), "too large"),
        (send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), "could not be"),
        (send(b"\x00\xff garbage\r\n\r\n"), "could not be"),
        (send(b""), "could not be"),
    ],
)
def test_anything_but_a_small_json_answer_with_status_200_is_refused(
    net: Internet, answer: Answer, reason: str
) -> None:
    net.pages["/client.json"] = answer
    assert reason in fault(net).reason
    assert net.asked_for == ["/client.json"]  # no redirect was followed


@pytest.mark.parametrize(
    "answer", [silence(), drip(b"H"), drip(HEAD + b"X: y"), drip(HEAD + b"Content-Length: 5000\r\n\r\n{")]
)
def test_a_server_that_only_dawdles_is_left_at_the_deadline(net: Internet, answer: Answer) -> None:
    net.pages["/client.json"] = answer
    assert fault(net, deadline=0.3).is_transient


def test_a_server_that_never_finishes_the_handshake_is_left_at_the_deadline(net: Internet) -> None:
    waiting = threading.Event()

    class Mute:
        def wrap_socket(self, plain: object, *, server_side: bool) -> object:
            waiting.wait(60)
            raise OSError

    net.tls = Mute()  # type: ignore[assignment]
    assert fault(net, deadline=0.3).is_transient
    waiting.set()


def test_a_name_that_never_resolves_is_left_at_the_deadline(net: Internet) -> None:
    waiting = threading.Event()

    def resolve(_host: str) -> Sequence[str]:
        waiting.wait(60)
        return ()

    fetcher = SafeFetcher(resolve=resolve, connect=net.connect, deadline=0.2)
    with pytest.raises(ClientDocumentError, match="host was not found"):
        fetch(fetcher)
    waiting.set()


def test_names_that_never_resolve_hold_up_no_known_one(net: Internet) -> None:
    waiting = threading.Event()

    def resolve(host: str) -> Sequence[str]:
        if host != HOST:
            waiting.wait(60)
        return net.resolve(host)

    fetcher = SafeFetcher(resolve=resolve, connect=net.connect, tls=net.authority.client_context(), deadline=1.5)
    net.pages["/client.json"] = respond(DOCUMENT)
    request: dict[str, Any] = {"headers": {}, "max_bytes": MAX_BYTES, "admit": admit_all}
    with ThreadPoolExecutor(MAX_CONCURRENT) as pool:
        urls = [f"https://tarpit{number}.example.com/client.json" for number in range(MAX_CONCURRENT)]
        held = [pool.submit(fetcher.fetch, url, **request) for url in urls]
        assert all(isinstance(each.exception(), ClientDocumentError) for each in held)
    with pytest.raises(ClientDocumentError, match="host was not found"):
        fetcher.fetch(URL, **request)
    assert fetcher.fetch(URL, is_known=True, **request).body == DOCUMENT
    waiting.set()


def test_304_counts_only_as_the_answer_to_a_conditional_request(net: Internet) -> None:
    net.pages["/client.json"] = respond(b"", status="304 Not Modified", content_length="")
    assert fetch(net.fetcher(), etag='"1"').status == 304
    assert b'\r\nIf-None-Match: "1"\r\n' in net.requests[0]


def test_the_certificate_must_be_valid_for_the_host_name_and_from_a_trusted_authority(
    net: Internet, directory: Path
) -> None:
    net.pages["/client.json"] = respond(DOCUMENT)
    net.tls = net.authority.server_context("other.example.com")
    assert fault(net).is_transient
    net.tls = net.authority.server_context(HOST, days=-1)
    assert fault(net).is_transient
    with internet(directory, HOST) as stranger:
        stranger.pages["/client.json"] = respond(DOCUMENT)
        fetcher = SafeFetcher(resolve=net.resolve, connect=stranger.connect, tls=net.authority.client_context())
        with pytest.raises(ClientDocumentError):
            fetch(fetcher)
        assert stranger.requests == []
    assert net.requests == []


SPECIAL_ADDRESSES = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.1.2.3", "168.63.129.16"),
    *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1"),
    *("198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:7f00:1", "64:ff9b::7f00:1"),
    *("64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:53aa:64c::1", "2001:db8::1", "2002:7f00:1::1"),
    *("2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1"),
    *("ff02::1", "2606:2800::1%1"),
    *("", "localhost", "0x7f.1", "2130706433", "127.1", "017700000001", "8.8.8.8 ", "\uff18.8.8.8"),
]


def test_a_name_of_an_internal_network_is_answered_like_an_unknown_name(net: Internet) -> None:
    answers = []
    for addresses in ((), ("10.11.12.13",), (PUBLIC_ADDRESS, "::1"), None):
        if addresses is None:
            del net.addresses[HOST]
        else:
            net.addresses[HOST] = addresses
        found = fault(net)
        answers.append((str(found), found.reason, found.is_transient, found.status))
    assert len(set(answers)) == 1


@pytest.mark.parametrize("address", SPECIAL_ADDRESSES)
def test_no_connection_is_made_when_one_address_of_the_host_is_not_public(net: Internet, address: str) -> None:
    net.addresses[HOST] = (PUBLIC_ADDRESS, address)
    assert "not found on the public internet" in fault(net).reason
    assert net.connected == []


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.215.14", "2606:4700::6810:1", "2a00:1450:4001::200e"])
def test_ordinary_addresses_are_public(address: str) -> None:
    assert is_public(address)


def test_a_name_that_changes_its_address_after_the_check_gains_nothing(net: Internet) -> None:
    answers = iter([(PUBLIC_ADDRESS,), ("127.0.0.1",)])
    net.pages["/client.json"] = respond(DOCUMENT)
    fetcher = SafeFetcher(resolve=lambda _host: next(answers), connect=net.connect, tls=net.authority.client_context())
    assert fetch(fetcher).body == DOCUMENT
    assert net.connected == [(PUBLIC_ADDRESS, 443)]
    with pytest.raises(ClientDocumentError):
        fetch(fetcher)


def test_the_next_address_is_tried_where_one_does_not_connect(net: Internet) -> None:
    net.addresses[HOST] = ("8.8.4.4", PUBLIC_ADDRESS)
    net.pages["/client.json"] = respond(DOCUMENT)

    def connect(address: str, port: int, timeout: float) -> object:
        if address == "8.8.4.4":
            raise ConnectionRefusedError
        return net.connect(address, port, timeout)

    fetcher = SafeFetcher(resolve=net.resolve, connect=connect, tls=net.authority.client_context())  # type: ignore[arg-type]
    assert fetch(fetcher).body == DOCUMENT


def test_a_proxy_of_the_environment_is_not_used(net: Internet, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    net.pages["/client.json"] = respond(DOCUMENT)
    assert fetch(net.fetcher()).body == DOCUMENT


def test_a_refused_address_is_not_connected_to(net: Internet) -> None:
    def refuse(host: str, addresses: Sequence[str]) -> None:
        assert (host, list(addresses)) == (HOST, [PUBLIC_ADDRESS])
        raise ClientDocumentError("too often")

    with pytest.raises(ClientDocumentError, match="too often"):
        net.fetcher().fetch(URL, headers={}, max_bytes=MAX_BYTES, admit=refuse)
    assert net.connected == []


def test_slow_servers_hold_a_few_threads_and_never_all(net: Internet) -> None:
    net.pages["/client.json"] = silence()
    fetcher = net.fetcher(deadline=20)

    def attempt() -> None:
        with pytest.raises(ClientDocumentError):
            fetch(fetcher)

    threads = [threading.Thread(target=attempt, daemon=True) for _ in range(MAX_CONCURRENT)]
    for thread in threads:
        thread.start()
    while len(net.requests) < MAX_CONCURRENT:
        threading.Event().wait(0.01)
    with pytest.raises(ClientDocumentError, match="too many documents"):
        fetch(fetcher)
    net.close()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
