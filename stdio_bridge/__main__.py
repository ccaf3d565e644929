"""`mcp-stdio-bridge`: the command."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence

from .app import Bridge
from .http.body_budget import BodyBudget
from .http.identity import IDENTITY_HEADER, Verifier, load_verifier
from .http.json_errors import render_error
from .http.listener import Listener, make_room, open_listener
from .http.server import HttpServer
from .io.event_loop import Loop
from .io.log_handler import StderrHandler
from .io.metrics import Registry
from .io.record_writer import open_destination
from .io.secrecy import forbid_core_dumps
from .io.systemd import HandedOver, Notifier
from .options import Options, parse_options
from .protocol.errors import HttpError, UsageError
from .protocol.tool_lock import InvalidLockError, render_lock
from .servers.pool import ServerPool
from .servers.survey import Offers, SurveyError, Surveys

log = logging.getLogger("stdio_bridge")

_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
# Limits in multiples of the largest message: unread output of one client and of all, request bodies of one user and of
# all.
_MAX_UNSENT_FACTOR = 2
_MAX_UNSENT_IN_ALL_FACTOR = 16
_MAX_BODIES_OF_ONE_FACTOR = 4
_MAX_BODIES_FACTOR = 16
_POLL_SECONDS = 0.02


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bridge until a signal stops it. Returns the exit status."""
    try:
        options = parse_options(sys.argv[1:] if arguments is None else arguments, os.environ)
        if options.print_tools_lock:
            return _print_tools_lock(options)
        handed_over = HandedOver(os.environ)
        verifier = load_verifier(
            options.identity_key,
            take_file=handed_over.take_file,
            now=time.time,
            keep_assertions=bool(options.credentials_urls),
        )
        if options.credentials_urls:
            forbid_core_dumps()
        call_records = open_destination(options.call_records, identifier="mcp-call")
        listener = open_listener(options, handed_over)
    except UsageError as error:
        print(f"mcp-stdio-bridge: {error}", file=sys.stderr)  # noqa: T201 - the command's own output
        return 2
    logging.basicConfig(level=options.log_level.upper(), handlers=[StderrHandler()])
    loop = Loop()
    bridge = Bridge(loop, options, verifier, call_records=call_records)
    _serve(loop, bridge, _make_server(loop, bridge, options, verifier, listener), listener)
    return 0


def _make_server(loop: Loop, bridge: Bridge, options: Options, verifier: Verifier, listener: Listener) -> HttpServer:
    return HttpServer(
        bridge,
        loop,
        listener.socket,
        max_body_bytes=options.max_message_bytes,
        max_unsent_bytes=_MAX_UNSENT_FACTOR * options.max_message_bytes,
        max_unsent_bytes_in_all=_MAX_UNSENT_IN_ALL_FACTOR * options.max_message_bytes,
        body_budget=_make_body_budget(options, verifier),
        max_connections=make_room(options),
        render_error=render_error,
    )


def _serve(loop: Loop, bridge: Bridge, server: HttpServer, listener: Listener) -> None:
    """Serve until a signal, or until the bridge is idle for long enough, and release everything."""
    notifier = Notifier(os.environ)

    def drain() -> None:
        notifier.tell("STOPPING=1")
        if listener.inherited:
            server.stop_accepting()  # the next process accepts later connections
        bridge.drain()

    def fall_asleep() -> None:
        if server.is_awaited:
            return
        log.info("asleep: the next request starts the bridge")
        # From here on the bridge accepts no connection. Later ones wait in the socket, for which systemd starts the
        # next process.
        server.stop_accepting()
        notifier.tell("STOPPING=1")
        loop.stop()

    def stop(_signal: int, _frame: object) -> None:
        loop.call_soon(drain)
        server.wake()

    bridge.flushed = lambda: server.flushed
    bridge.fall_asleep = fall_asleep
    # nohup starts it with SIGHUP ignored, and that must stay so.
    stopping = [number for number in _STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    for number in stopping:
        signal.signal(number, stop)
    _keep_watchdog_quiet(loop, notifier)
    log.info("serving %s", listener.url)
    notifier.tell("READY=1")
    # Collect the garbage of parsing the command line, and exempt all remaining objects from later collections.
    gc.collect()
    gc.freeze()
    loop.run()
    # The interpreter puts default handlers back before it ends: a second signal would change the exit status.
    for number in stopping:
        signal.signal(number, signal.SIG_IGN)
    server.close()
    bridge.close()
    listener.remove()
    loop.close()


def _print_tools_lock(options: Options) -> int:
    """Ask the server for its tools, and print their lock file. Returns the exit status."""
    logging.basicConfig(level=options.log_level.upper(), handlers=[StderrHandler()])
    loop = Loop()
    pool = ServerPool(loop, options, Registry())
    texts: list[str] = []

    def take(result: Offers | SurveyError) -> None:
        try:
            if isinstance(result, SurveyError):
                raise result
            texts.append(render_lock(result.lists["tools"]))
        except (SurveyError, InvalidLockError) as error:
            print(f"mcp-stdio-bridge: {error}", file=sys.stderr)  # noqa: T201 - the command's own output
        pool.stop("its tools were listed")

    def wait() -> None:
        if pool.closed and not len(pool):
            loop.stop()
        else:
            loop.call_later(_POLL_SECONDS, wait)

    Surveys(loop, pool, options.versions, ()).begin(take)
    wait()
    loop.run()
    loop.close()
    sys.stdout.write("".join(texts))
    return 0 if texts else 1


def _make_body_budget(options: Options, verifier: Verifier) -> BodyBudget:
    def owner_of(headers: Mapping[str, str]) -> str | None:
        try:
            return verifier.identify(headers.get(IDENTITY_HEADER)).user
        except HttpError:
            return None  # such requests are refused once they are read, and share one budget

    in_all = _MAX_BODIES_FACTOR * options.max_message_bytes
    # Without identities all clients are one user, whom the limit for one user must not restrict.
    of_one = _MAX_BODIES_OF_ONE_FACTOR * options.max_message_bytes if options.identity_key else in_all
    return BodyBudget(max_bytes=in_all, max_bytes_of_one=of_one, owner_of=owner_of)


def _keep_watchdog_quiet(loop: Loop, notifier: Notifier) -> None:
    if notifier.watchdog_seconds is None:
        return
    notifier.tell("WATCHDOG=1")
    loop.call_later(notifier.watchdog_seconds / 3, lambda: _keep_watchdog_quiet(loop, notifier))


if __name__ == "__main__":
    sys.exit(main())
