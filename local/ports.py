"""Ports of 127.0.0.1 for programs that are about to listen."""

from __future__ import annotations

import errno
import itertools
import random
import socket
from collections.abc import Sequence

# Below those that Linux gives to connections and to servers that ask for any port: one of these could take the port
# before the program listens.
_PORTS: Sequence[int] = range(20_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Return free ports, each of which no other process gets from here while this one runs. Raises OSError."""
    found = list(itertools.islice(filter(_take, random.sample(_PORTS, len(_PORTS))), count))
    if len(found) < count:
        raise OSError(errno.EADDRINUSE, "no free port is left")
    return found


def free_port() -> int:
    """Return one such port."""
    return free_ports(1)[0]


def _take(port: int) -> bool:
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0mcp-oauth-gateway-port-{port}")
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        claim.close()
        return False
    claim.detach()  # it stays open until this process ends
    return True
