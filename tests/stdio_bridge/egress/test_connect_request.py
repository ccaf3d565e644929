"""What the egress proxy makes of a request, whatever tricks there are in it."""

from __future__ import annotations

import pytest

from stdio_bridge.egress.connect_request import Refusal, Target, parse_request
from stdio_bridge.egress.domains import Domains

DOMAINS = Domains(["api.github.com", "*.githubusercontent.com"])


def request(target: str, *, method: str = "CONNECT", version: str = "HTTP/1.1", fields: str = "") -> bytes:
    return f"{method} {target} {version}\r\n{fields}\r\n".encode()


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (request("api.github.com:443"), "api.github.com"),
        (request("api.github.com:443", version="HTTP/1.0"), "api.github.com"),
        (request("API.github.COM.:443"), "api.github.com"),
        (request("raw.githubusercontent.com:00443"), "raw.githubusercontent.com"),
        (request(f"{'a.' * 116}githubusercontent.com:443"), f"{'a.' * 116}githubusercontent.com"),
        # Only the request line says where.
        (request("api.github.com:443", fields="Host: evil.example:443\r\n"), "api.github.com"),
        (request("api.github.com:443", fields="Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), "api.github.com"),
    ],
)
def test_a_tunnel_leads_to_the_name_of_the_request_line(head: bytes, name: str) -> None:
    assert parse_request(head, DOMAINS) == Target(name, 443)


@pytest.mark.parametrize(
    "target",
    [
        "evil.example:443",
        "api.github.com.evil.example:443",
        "api.github.com@evil.example:443",
        "evil.example@api.github.com:443",
        "api.github.com:443@evil.example:443",
        "evilgithubusercontent.com:443",
        "githubusercontent.com:443",
        "api.github.com:80",
        "api.github.com:22",
        "api.github.com:0",
        "api.github.com:65979",  # 443, if it were cut to 16 bits
        "api.github.com:99999",
        "api.github.com:443443",
        "api.github.com:+443",
        "api.github.com:",
        "api.github.com",
        ":443",
        "140.82.121.6:443",
        "2356312678:443",
        "0x8c.82.121.6:443",
        "127.0.0.1:443",
        "[::1]:443",
        "[::ffff:127.0.0.1]:443",
        "[::ffff:10.0.0.1]:443",
        "::ffff:7f00:1:443",
        "[64:ff9b::a00:1]:443",
        "[2002:a00:1::1]:443",
        "[fe80::1%25eth0]:443",
        "api.github.com..:443",
        ".api.github.com:443",
        "*.githubusercontent.com:443",
        ".githubusercontent.com:443",
        f"{'a' * 64}.githubusercontent.com:443",
        f"{'a.' * 117}githubusercontent.com:443",
        "localhost:443",
        "https://api.github.com:443",
        "//api.github.com:443",
        "/",
        "*",
        "api.github.com:443/",
        "api.github.com%00.evil.example:443",
        "api.github.com:443#",
        "xn--pi-7lb.github.com:443",
    ],
)
def test_a_tunnel_leads_nowhere_else(target: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse_request(request(target), DOMAINS)
    assert refused.value.status == "403 Forbidden"


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "TRACE", "CONNECTED"])
def test_requests_are_not_passed_on_in_the_clear(method: str) -> None:
    with pytest.raises(Refusal, match="use https") as refused:
        parse_request(request("http://api.github.com/", method=method), DOMAINS)
    assert refused.value.status == "405 Method Not Allowed"


@pytest.mark.parametrize(
    "head",
    [
        b"\r\n\r\n",
        b"CONNECT api.github.com:443\r\n\r\n",
        b"CONNECT  api.github.com:443 HTTP/1.1\r\n\r\n",
        b"CONNECT api.github.com:443 HTTP/2\r\n\r\n",
        b"CONNECT api.github.com:443 HTTP/1.1 \r\n\r\n",
        b"CONNECT api.github.com:443 HTTP/1.1\nHost: x\r\n\r\n",
        b"CONNECT evil.example:443 api.github.com:443 HTTP/1.1\r\n\r\n",
        b"CONNECT api.github.com\x00:443 HTTP/1.1\r\n\r\n",
        b"connect api.github.com:443 HTTP/1.1\r\n\r\n",
        b" CONNECT api.github.com:443 HTTP/1.1\r\n\r\n",
        "CONNECT bücher.githubusercontent.com:443 HTTP/1.1\r\n\r\n".encode(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused(head: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        parse_request(head, DOMAINS)
    assert refused.value.status == "400 Bad Request"


def test_a_refusal_is_a_response_that_says_why() -> None:
    with pytest.raises(Refusal) as refused:
        parse_request(request("evil.example:443"), DOMAINS)
    head, _, body = refused.value.render().partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 403 Forbidden",
        b"Content-Type: text/plain",
        f"Content-Length: {len(body)}".encode(),
        b"Connection: close",
    ]
    assert body == b"evil.example is not in sandbox.network.domains of this server.\n"
