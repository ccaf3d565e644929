"""Running servers: a process and the conversation with it, and how many there may be."""

from __future__ import annotations

import logging
from collections.abc import Callable

from . import jsonrpc
from .calls import Patience
from .errors import Refusal, unavailable
from .jsonrpc import InvalidMessage, Message
from .link import Link
from .loop import Loop
from .metrics import Registry
from .options import Options
from .process import Exit, Limits, ServerProcess, SpawnError

log = logging.getLogger(__name__)

_UNSENT_FACTOR = 4
_RETRY_SECONDS = 5


class Server:
    """One process of the server's command, started for a user, and its link. What it serves is its starter's affair."""

    def __init__(self, servers: Servers, user: str, on_end: Callable[[str], None]) -> None:
        """Start the process. Raises SpawnError."""
        options = servers.options
        self.user = user
        self.stopping = False
        self._servers = servers
        self._on_end = on_end
        self.link = Link(self._write, patience=Patience(idle=options.call_timeout, total=options.call_timeout_total))
        self._process = ServerProcess(
            servers.loop,
            options.command,
            environment=options.environment,
            directory=options.directory,
            limits=Limits(
                max_line_bytes=options.max_message_bytes,
                max_unsent_bytes=_UNSENT_FACTOR * options.max_message_bytes,
                stop_seconds=options.stop_timeout,
            ),
            on_line=self._take_line,
            on_exit=self._ended,
        )

    def _write(self, message: Message) -> None:
        self._process.write(jsonrpc.encode(message))

    def _take_line(self, line: bytes) -> None:
        try:
            value = jsonrpc.parse_json(line)
            for message in value if isinstance(value, list) else [value]:
                self.link.receive(message, self._servers.loop.clock())
        except InvalidMessage as error:
            self._servers.noise.add()
            log.warning("skipped a line on the server's stdout: %s", error)

    def _ended(self, exit_: Exit) -> None:
        self.stopping = True
        self._servers.forget(self)
        self.link.close(str(exit_))
        self._on_end(str(exit_))

    def stop(self, reason: str) -> None:
        """End the process; what is still in flight fails when it is gone."""
        self.stopping = True
        self._process.stop(reason)


class Servers:
    """Every running server of one bridge."""

    def __init__(self, loop: Loop, options: Options, registry: Registry) -> None:
        self.loop = loop
        self.options = options
        self._servers: dict[Server, None] = {}
        self.spawns = registry.counter("mcp_bridge_spawns_total", "Server processes started")
        self.noise = registry.counter("mcp_bridge_skipped_lines_total", "Lines of stdout that were no message")
        self._timeouts = registry.counter("mcp_bridge_call_timeouts_total", "Calls that were not answered in time")
        registry.gauge("mcp_bridge_calls_in_flight", "Calls not answered yet", lambda: self.in_flight)

    def __len__(self) -> int:
        return len(self._servers)

    @property
    def in_flight(self) -> int:
        """How many calls are not answered yet."""
        return sum(server.link.in_flight for server in self._servers)

    def start(self, user: str, on_end: Callable[[str], None]) -> Server:
        """Start a server; `on_end` is told why it ended. Raises Refusal: too many run, or it cannot be started."""
        of_user = sum(server.user == user for server in self._servers)
        if len(self._servers) >= self.options.max_sessions or of_user >= self.options.max_sessions_per_user:
            raise unavailable("too many sessions are open", retry_seconds=_RETRY_SECONDS)
        try:
            server = Server(self, user, on_end)
        except SpawnError as error:
            log.error("%s", error)
            raise Refusal("502 Bad Gateway", jsonrpc.INTERNAL_ERROR, "the MCP server cannot be started") from error
        self.spawns.add()
        self._servers[server] = None
        return server

    def forget(self, server: Server) -> None:
        """Count a server that has ended no longer."""
        self._servers.pop(server, None)

    def tick(self, now: float) -> None:
        """Fail the calls whose time is up."""
        for server in list(self._servers):
            self._timeouts.add(server.link.expire(now))

    def stop(self, reason: str) -> None:
        """End them all, side by side."""
        for server in list(self._servers):
            server.stop(reason)
