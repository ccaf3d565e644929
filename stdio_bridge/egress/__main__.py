"""`mcp-egress-proxy`: the command, which systemd starts at the first connection to its socket."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import sys
import time
from collections.abc import Sequence

from stdio_bridge.io.log_handler import Allowance, LimitedLog, StderrHandler
from stdio_bridge.io.systemd import HandedOver
from stdio_bridge.protocol.errors import UsageError

from .domains import Domains, InvalidDomainError
from .proxy import EgressProxy
from .upstream import Upstream

_NAME = "mcp-egress-proxy"
_DOMAIN = "--domain"
# Of what is refused. Servers decide how often that is, and others share the journal.
_LINES_PER_SECOND = 10
_BYTES_PER_SECOND = 1024
_BYTES_AT_ONCE = 64 * 1024

log = logging.getLogger("stdio_bridge.egress")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until nobody is connected for a while. Returns the exit status."""
    parser = argparse.ArgumentParser(prog=_NAME, description="HTTP proxy for CONNECT to port 443 of certain names.")
    parser.add_argument(
        _DOMAIN,
        action="append",
        required=True,
        metavar="NAME",
        help="a name that may be reached, or *.NAME for all names below it; can be repeated",
    )
    parser.add_argument(
        "--idle-exit", type=float, default=60.0, metavar="SECONDS", help="end after so long without a connection"
    )
    options = parser.parse_args(arguments)
    try:
        domains = Domains(options.domain)
        listener = _take_listener()
    except InvalidDomainError as error:
        print(f"{_NAME}: {_DOMAIN}: {error} is not a name such as api.example.com or *.example.com", file=sys.stderr)  # noqa: T201 - the command's own output
        return 2
    except UsageError as error:
        print(f"{_NAME}: {error}", file=sys.stderr)  # noqa: T201 - the command's own output
        return 2
    logging.basicConfig(level=logging.INFO, handlers=[StderrHandler()])
    asyncio.run(_serve(domains, listener, options.idle_exit))
    return 0


def _take_listener() -> socket.socket:
    listener = HandedOver(os.environ).take_socket()
    if listener is None:
        raise UsageError("systemd hands over no socket: start it by its socket unit")
    return listener


async def _serve(domains: Domains, listener: socket.socket, idle_seconds: float) -> None:
    allowance = Allowance(time.monotonic, per_second=_BYTES_PER_SECOND, at_once=_BYTES_AT_ONCE)
    refusals = LimitedLog(log, time.monotonic, per_second=_LINES_PER_SECOND, allowance=allowance)
    with Upstream() as upstream:
        await EgressProxy(domains, refusals, connect=upstream.connect).serve(listener, idle_seconds=idle_seconds)


if __name__ == "__main__":
    sys.exit(main())
