"""What a client asks of the proxy, and how it is refused (RFC 9110, section 9.3.6)."""

from __future__ import annotations

import re
from typing import NamedTuple

from .domains import Domains, parse_name

HTTPS = 443
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"

_REQUEST_LINE = re.compile(rb"([A-Z]{1,20}) ([\x21-\x7e]+) HTTP/1\.[01]\r\n")
_TARGET = re.compile(r"([A-Za-z0-9.-]+):([0-9]{1,5})")


class Refusal(Exception):
    """A request that the proxy does not serve. Its text has nothing of the request but a name and a port."""

    def __init__(self, status: str, explanation: str) -> None:
        super().__init__(explanation)
        self.status = status

    def render(self) -> bytes:
        """Return the response."""
        body = f"{self}\n".encode()
        head = (
            f"HTTP/1.1 {self.status}",
            "Content-Type: text/plain",
            f"Content-Length: {len(body)}",
            "Connection: close",
        )
        return "".join(f"{line}\r\n" for line in (*head, "")).encode() + body


class Target(NamedTuple):
    """Where a tunnel leads."""

    name: str
    port: int


def parse_request(head: bytes, domains: Domains) -> Target:
    """Return where the client wants to go. Raises Refusal where it may not.

    Only the request line says where. The proxy reads none of the header fields, such as another name in `Host` or a
    length: all that follows the head belongs to the tunnel.
    """
    line = _REQUEST_LINE.match(head)
    if line is None:
        raise Refusal("400 Bad Request", "The egress proxy speaks HTTP/1.1, and this is no request of it.")
    method, text = line[1], line[2].decode("ascii")
    if method != b"CONNECT":
        raise Refusal("405 Method Not Allowed", "The egress proxy has CONNECT only: use https.")
    target = _TARGET.fullmatch(text)
    name = None if target is None else parse_name(target[1])
    if target is None or name is None:
        raise Refusal("403 Forbidden", "The egress proxy connects to names such as api.example.com:443 only.")
    port = int(target[2])
    if name not in domains:
        raise Refusal("403 Forbidden", f"{name} is not in sandbox.network.domains of this server.")
    if port != HTTPS:
        raise Refusal("403 Forbidden", f"{name}:{port}: the egress proxy connects to port {HTTPS} only.")
    return Target(name, port)
