"""`stand-in-resolver`: a name server for which every name has the same address."""

from __future__ import annotations

import argparse
import ipaddress
import socket
import struct
import sys

_ANSWER, _RECURSION_AVAILABLE = 0x8000, 0x0080
_TYPE_A, _CLASS_IN, _TTL = 1, 1, 60
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
    answers = 1 if kind == _TYPE_A else 0
    header = struct.pack("!HHHHHH", identifier, flags | _ANSWER | _RECURSION_AVAILABLE, 1, answers, 0, 0)
    record = struct.pack("!HHHIH", _POINTER_TO_QUESTION, _TYPE_A, _CLASS_IN, _TTL, 4) + address.packed
    return header + query[_HEADER_BYTES:end] + record * answers


if __name__ == "__main__":
    sys.exit(main())
