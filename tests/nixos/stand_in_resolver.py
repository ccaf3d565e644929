"""`stand-in-resolver`: a name server for which every name has the same address, but for names that say their own.

Such a name begins with an address with hyphens, the one of IPv6 in full: `10-1-1-1.addresses.example`.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import socket
import struct
import sys

_ANSWER, _RECURSION_AVAILABLE = 0x8000, 0x0080
_TYPE_A, _TYPE_AAAA, _CLASS_IN, _TTL = 1, 28, 1, 60
_POINTER_TO_QUESTION = 0xC00C
_HEADER_BYTES = 12


def main() -> int:
    """Answer until killed (RFC 1035, section 4)."""
    parser = argparse.ArgumentParser(prog="stand-in-resolver")
    parser.add_argument("--listen", required=True, help="address; the port is 53")
    parser.add_argument("--answer", required=True, type=ipaddress.IPv4Address)
    options = parser.parse_args()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((options.listen, 53))
        while True:
            query, client = server.recvfrom(512)
            server.sendto(_reply(query, options.answer), client)


def _reply(query: bytes, address: ipaddress.IPv4Address) -> bytes:
    identifier, flags = struct.unpack_from("!HH", query)
    end = query.index(b"\0", _HEADER_BYTES) + 5
    (kind,) = struct.unpack_from("!H", query, end - 4)
    found = _read_address(query[_HEADER_BYTES + 1 :][: query[_HEADER_BYTES]].decode("ascii", "replace")) or address
    answers = 1 if kind == (_TYPE_A if found.version == 4 else _TYPE_AAAA) else 0
    header = struct.pack("!HHHHHH", identifier, flags | _ANSWER | _RECURSION_AVAILABLE, 1, answers, 0, 0)
    size = len(found.packed)
    record = struct.pack("!HHHIH", _POINTER_TO_QUESTION, kind, _CLASS_IN, _TTL, size) + found.packed
    return header + query[_HEADER_BYTES:end] + record * answers


def _read_address(label: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    for separator in (".", ":"):
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(label.replace("-", separator))
    return None


if __name__ == "__main__":
    sys.exit(main())
