"""Readiness: whether the server answers, known from its recent messages or found out by a request."""

from __future__ import annotations

from stdio_bridge.http.exchange import Response
from stdio_bridge.http.json_errors import JSON_HEADERS
from stdio_bridge.io.event_loop import Loop, Timer
from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.errors import HttpError, stopping
from stdio_bridge.protocol.mcp import UNSUPPORTED_VERSION

from .handshake import EraCache, Failed, Handshake, Outcome, own_initialize
from .pool import Server, ServerPool

_PROBE_SECONDS = 30.0
_PING_SECONDS = 5.0
# How long one answer is taken for valid. It is doubled with each further answer, as a probe of an idle bridge starts a
# process.
_FIRST_BELIEF_SECONDS = 30.0
_LAST_BELIEF_SECONDS = 600.0
# The error codes of a modern-only server to `initialize`. It has answered, so it is ready.
_MODERN_ONLY = frozenset({jsonrpc.METHOD_NOT_FOUND, UNSUPPORTED_VERSION})


class Readiness:
    """Answers readiness probes. Probes that come while the server is being asked share its answer."""

    def __init__(self, loop: Loop, pool: ServerPool) -> None:
        self._loop = loop
        self._pool = pool
        self._waiting: list[Response] = []
        self._starting: Server | None = None
        self._ping_timer: Timer | None = None
        self._belief = _FIRST_BELIEF_SECONDS
        self._answered_at = -float("inf")

    def answer(self, response: Response) -> None:
        """Reply 200 if the server answers, 503 if it does not. Raises HttpError while the bridge stops.

        If users provide credentials, no process can be started for a probe, and a failure of a user's process may be
        due to that user's credentials. Then the bridge is ready as long as it runs.
        """
        if self._pool.closed:
            raise stopping()
        if self._pool.credentials is not None or self._believes():
            response.reply("200 OK", JSON_HEADERS, b'{"status":"ready"}')
            return
        self._waiting.append(response)
        if len(self._waiting) > 1:
            return
        server = self._pool.find_heard()
        if server is not None:
            self._ping(server)
        elif self._starting is not None:
            self._loop.call_later(_PROBE_SECONDS, self._give_up)
        else:
            self._probe()

    def describe(self) -> bytes:
        """Return, as JSON, how many seconds ago a server last answered, was last needed, and ended before it answered.

        null means: not since the bridge was started. This starts no process, so that it can be asked often.
        """
        now = self._loop.clock()
        times = {
            "answered": max(self._pool.heard_at, self._answered_at),
            "needed": self._pool.asked_at,
            "failed": self._pool.failed_at,
        }
        ages = {name: round(now - when, 1) if when > -float("inf") else None for name, when in times.items()}
        return jsonrpc.encode({"mcp-stdio-bridge": ages})

    def _believes(self) -> bool:
        now, pool = self._loop.clock(), self._pool
        answered = max(pool.heard_at, self._answered_at)
        if pool.failed_at >= answered:
            self._belief = _FIRST_BELIEF_SECONDS
            return False
        return now - pool.heard_at < _FIRST_BELIEF_SECONDS or now - self._answered_at < self._belief

    def _ping(self, server: Server) -> None:
        """Ask a running server, and another one if it is too busy to say anything."""
        timer = self._ping_timer = self._loop.call_later(_PING_SECONDS, self._give_up_ping)
        server.dispatcher.ask("ping", {}, lambda _: self._pinged(timer))

    def _pinged(self, timer: Timer) -> None:
        # Any answer to this ping counts, also an error. An answer to an earlier ping is too late.
        if self._ping_timer is timer:
            self._ping_timer = None
            timer.cancel()
            self._done(ready=True)

    def _give_up_ping(self) -> None:
        self._ping_timer = None
        self._probe()

    def _probe(self) -> None:
        """Start a server to ask it. A later probe waits for the same server if it takes long to start."""

        def ended(_: str) -> None:
            """Do nothing: the handshake gets an error."""

        def answered(outcome: Outcome) -> None:
            self._starting = None
            alive = server.running
            server.stop("the readiness probe is done")
            self._done(ready=alive and _shows_life(outcome))

        try:
            server = self._pool.start_probe(ended)
        except HttpError:
            self._done(ready=False)
            return
        self._starting = server
        era_cache = EraCache(versions=self._pool.options.versions)  # a new one, which is not kept
        initialize = own_initialize(None, era_cache.versions)
        Handshake(server.dispatcher, self._loop, era_cache, initialize, answered).begin_only()
        self._loop.call_later(_PROBE_SECONDS, self._give_up)

    def _give_up(self) -> None:
        """Answer the probes that wait for a server that is still starting."""
        if self._starting is not None:
            self._done(ready=False)

    def _done(self, *, ready: bool) -> None:
        if ready:
            self._answered_at = self._loop.clock()
            self._belief = min(2 * self._belief, _LAST_BELIEF_SECONDS)
        waiting, self._waiting = self._waiting, []
        for response in waiting:
            if ready:
                response.reply("200 OK", JSON_HEADERS, b'{"status":"ready"}')
            else:
                response.reply("503 Service Unavailable", JSON_HEADERS, b'{"status":"the MCP server does not answer"}')


def _shows_life(outcome: Outcome) -> bool:
    if isinstance(outcome, Failed):
        return outcome.message["error"].get("code") in _MODERN_ONLY
    return True
