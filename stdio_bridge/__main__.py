"""`mcp-stdio-bridge`: the command."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence

from .app import Bridge
from .detach import HttpServer
from .errors import UsageError
from .identity import load_verifier
from .loop import Loop
from .options import Options, parse_options
from .systemd import Notifier, take_socket

log = logging.getLogger("stdio_bridge")

_MAX_UNSENT_FACTOR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bridge until SIGTERM or SIGINT. Returns the exit status."""
    try:
        options = parse_options(sys.argv[1:] if arguments is None else arguments, os.environ)
        verifier = load_verifier(options.identity_key, now=time.time)
        listener = _listen(options)
    except UsageError as error:
        print(f"mcp-stdio-bridge: {error}", file=sys.stderr)  # noqa: T201 - the command's own output
        return 2
    logging.basicConfig(level=options.log_level, format="%(levelname)s %(message)s", stream=sys.stderr)
    loop = Loop()
    bridge = Bridge(loop, options, verifier)
    server = HttpServer(
        bridge,
        loop,
        listener,
        max_body_bytes=options.max_message_bytes,
        max_unsent_bytes=_MAX_UNSENT_FACTOR * options.max_message_bytes,
        max_connections=options.max_connections,
    )
    notifier = Notifier(os.environ)

    def drain() -> None:
        notifier.tell("STOPPING=1")
        bridge.drain(server)

    def stop(_signal: int, _frame: object) -> None:
        loop.call_soon(drain)
        server.wake()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    _keep_watchdog_quiet(loop, notifier)
    log.info("serving http://%s/mcp", _name_of(listener))
    notifier.tell("READY=1")
    loop.run()
    server.close()
    loop.close()
    return 0


def _listen(options: Options) -> socket.socket:
    inherited = take_socket(os.environ)
    if inherited is not None and options.listen is not None:
        raise UsageError("--listen: systemd hands over a socket already: leave it out")
    if inherited is not None:
        return inherited
    if options.listen is None:
        raise UsageError("--listen HOST:PORT is missing, and systemd hands over no socket")
    host, port = options.listen
    try:
        return socket.create_server((host, port), family=_family_of(host))
    except OSError as error:
        raise UsageError(f"--listen {host}:{port}: {error.strerror or error}") from error


def _family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _name_of(listener: socket.socket) -> str:
    name = listener.getsockname()
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name)


def _keep_watchdog_quiet(loop: Loop, notifier: Notifier) -> None:
    if notifier.watchdog_seconds is None:
        return
    notifier.tell("WATCHDOG=1")
    loop.call_later(notifier.watchdog_seconds / 3, lambda: _keep_watchdog_quiet(loop, notifier))


if __name__ == "__main__":
    sys.exit(main())
