"""Server processes: each with its conversation, limits on their number, and some started ahead of need."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from stdio_bridge.http.identity import Identity
from stdio_bridge.io.child_process import Child, Exit, Limits, ServerProcess, SpawnError, Traffic
from stdio_bridge.io.event_loop import Loop, Timer
from stdio_bridge.io.log_handler import Allowance, LimitedLog
from stdio_bridge.io.metrics import Registry
from stdio_bridge.io.spawned_child import SpawnedChild
from stdio_bridge.io.unit_child import UnitChild
from stdio_bridge.options import Options
from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.calls import CallTimeouts
from stdio_bridge.protocol.errors import HttpError, stopping, unavailable
from stdio_bridge.protocol.jsonrpc import Message
from stdio_bridge.protocol.users import digest_of

from .dispatcher import Dispatcher
from .eviction import Bounds, Full, Occupant, find_victim
from .message_reader import MessageReader
from .start_limiter import StartLimiter, StartPermit
from .tool_gate import HiddenTools, ToolGate
from .warm_pool import WarmPool

if TYPE_CHECKING:
    from .user_credentials import Delivered, Question, UserCredentials

log = logging.getLogger(__name__)

_UNSENT_FACTOR = 4
# The limit on the log lines of all processes together: enough for a server's log, too little to displace other logs.
_LOGGED_BYTES_PER_SECOND = 4 * 1024
_LOGGED_BYTES_AT_ONCE = 256 * 1024
_LOGGED_CRASHES_PER_SECOND = 10
EVICTED = "it made room for another session"
_LOGGED_REFUSALS_PER_SECOND = 1
# A server that has written nothing for this long is waiting for something, and uses no core.
_LONGEST_START_SECONDS = 10.0
_FIRST_GUESS_SECONDS = 1.0
_NO_VARIABLES: Mapping[str, str] = MappingProxyType({})
_START_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Server:
    """One process of the server's command, and its dispatcher. What is written waits until the process may start.

    `user` is empty where it is for several. A spare process starts before a user needs it, and gets one by `adopt`.
    If users have credentials, a process for a user waits for the user's credentials before it asks to start.
    """

    def __init__(
        self, pool: ServerPool, on_end: Callable[[str], None], *, user: str | None, identity: Identity | None = None
    ) -> None:
        options = pool.options
        self.user = user
        self.occupant: Occupant | None = None
        self.stopping = False
        self.heard = False
        self.refusal: HttpError | None = None
        """Why it was not started, as its clients are to be told; None if it was, or they are told as of a crash."""
        timeouts = CallTimeouts(idle=options.call_timeout, total=options.call_timeout_total)
        self.dispatcher = Dispatcher(
            self._write,
            loop=pool.loop,
            timeouts=timeouts,
            note_dropped=pool.note_dropped,
            closed=self._closed,
        )
        self._reader = MessageReader(
            self.dispatcher,
            loop=pool.loop,
            max_line_bytes=options.max_message_bytes,
            skipped=pool.non_json_lines,
            log_skipped=self._log_non_json,
            on_message=self._hear,
        )
        if pool.hidden_tools is not None:
            self.dispatcher.gate = ToolGate(self.dispatcher, pool.hidden_tools)
        self._pool = pool
        self._on_end = on_end
        self._spare = user is None
        self._number = pool.number_next()
        self._process: ServerProcess | None = None
        self._unwritten: list[bytes] = []
        self._asked_at = pool.loop.clock()
        self._permit_timer: Timer | None = None
        self._permit: StartPermit | None = None
        self._environment = _NO_VARIABLES
        self._is_for_user = pool.credentials is not None and identity is not None
        self._due_at: float | None = None
        self._question: Question | None = None
        """The question for its user's credentials; None without one, and after the start."""
        if pool.credentials is not None and identity is not None:
            self._question = pool.credentials.ask(identity, self._take_credentials)
        else:
            self._ask_to_start()

    def adopt(self, user: str, on_end: Callable[[str], None], occupant: Occupant | None) -> None:
        """Assign it to a user. `on_end` gets the reason of its end; no limit or gauge counts it without an occupant."""
        self.user = user
        self.occupant = occupant
        self._on_end = on_end
        self._asked_at = self._pool.loop.clock()
        # What a process does with its user's credentials may be due to these, and not to the server.
        if not self._is_for_user:
            self._pool.asked_at = self._asked_at

    def _take_credentials(self, answer: Delivered | HttpError) -> None:
        if isinstance(answer, HttpError):
            self.refusal = answer
            log.info("%s was not started: %s", self._name, answer)
            self._end(f"was not started: {answer}")
            return
        self._environment = answer.environment
        if answer.good_for is not None:
            self._due_at = self._pool.loop.clock() + answer.good_for
        self._ask_to_start()

    def ask_again(self) -> bool:
        """Discard its user's credentials, and ask for them again before it starts.

        Returns False if it is not waiting to start with any, or has asked too often.
        """
        if self._question is None or self.stopping:
            return False
        again = self._question.repeat()
        if again is None:
            return False
        self._question = again
        self._environment, self._due_at = _NO_VARIABLES, None
        self._release_permit()
        return True

    def _ask_to_start(self) -> None:
        self._permit = self._pool.start_limiter.ask(self._begin, user=self.user)

    def is_due(self, now: float) -> bool:
        """Whether it should end once it is idle, as its user's credential is about to end."""
        return self._due_at is not None and now >= self._due_at

    @property
    def counted(self) -> bool:
        """Whether it runs for a client."""
        return self.occupant is not None

    @property
    def ending(self) -> bool:
        """Whether it is being ended, and takes no new calls."""
        return self.stopping or (self._process is not None and self._process.stopping)

    @property
    def running(self) -> bool:
        """Whether its process has been started and is not ending."""
        return self._process is not None and not self.ending

    def check_room(self, calls: int = 1) -> None:
        """Raise HttpError if it has too many unanswered calls, or too much unread input."""
        options = self._pool.options
        unread = self._process.unsent if self._process is not None else 0
        if self.dispatcher.gate is not None:
            unread += self.dispatcher.gate.held_bytes
        if (
            self.dispatcher.unanswered + calls > options.max_calls
            or unread > _UNSENT_FACTOR * options.max_message_bytes // 2
        ):
            raise unavailable("the MCP server has too many unanswered calls, or too much unread input")

    def stop(self, reason: str, *, at_once: bool = False) -> None:
        """End the process; what is still in flight fails when it is gone. `at_once` gives it no time to end itself."""
        if at_once and self._process is not None:
            self._process.kill(reason)
        if self.stopping:
            return
        self.stopping = True
        if self._question is not None:
            self._question.cancel()
        if self._process is not None:
            self._process.stop(reason)
        else:
            self._pool.loop.call_soon(lambda: self._end(f"was not started: {reason}"))

    def _begin(self) -> None:
        if self.stopping:
            return  # stopped in the same turn as its permit came; `_end`, which is due, gives that back
        pool = self._pool
        options = pool.options
        environment, self._environment = self._environment, _NO_VARIABLES
        self._question = None
        try:
            self._process = ServerProcess(
                pool.loop,
                lambda: pool.start_child(self.user or "", environment),
                name=lambda: self._name,
                limits=Limits(
                    max_line_bytes=options.max_message_bytes,
                    max_unsent_bytes=_UNSENT_FACTOR * options.max_message_bytes,
                    stop_seconds=options.stop_timeout,
                ),
                traffic=pool.traffic,
                allowance=pool.allowance,
                on_line=self._reader.take,
                on_skipped=self._reader.take_too_long,
                on_exit=self._exited,
                secrets=tuple(environment.values()),
            )
        except Exception as error:
            if isinstance(error, SpawnError):
                pool.crash_log.log(logging.ERROR, "%s: %s", self._name, error)
            else:
                log.exception("%s cannot be started", self._name)
            self.stopping = True
            self._note_failed_start()
            pool.crashes.add()
            pool.loop.call_soon(lambda: self._end("cannot be started"))
            return
        pool.spawns.add()
        # A spare process gets no message, so it answers none: it is assumed to start as fast as the last one did.
        silent = pool.typical_start if self._spare else _LONGEST_START_SECONDS
        self._permit_timer = pool.loop.call_later(silent, self._release_permit)
        unwritten, self._unwritten = self._unwritten, []
        for line in unwritten:
            self._process.write(line)

    def _note_failed_start(self) -> None:
        """Count it against the server's readiness, unless the reason may be the credentials of its user."""
        if not self._is_for_user:
            self._pool.failed_at = self._pool.loop.clock()

    def _release_permit(self) -> None:
        if self._permit_timer is not None:
            self._permit_timer.cancel()
        if self._permit is not None:
            self._permit.release()

    def _write(self, message: Message) -> None:
        line = jsonrpc.encode(message)
        if self._process is not None:
            self._process.write(line)
        elif not self.stopping:
            self._unwritten.append(line)

    def _log_non_json(self, problem: str, line: bytes) -> None:
        if self._process is not None:
            self._process.log_non_json(problem, line)

    def _hear(self, now: float) -> None:
        # Only a message counts, not a log line in JSON.
        if not self.heard:
            self._first_heard(now)
        self._pool.heard_at = now

    def _first_heard(self, now: float) -> None:
        self.heard = True
        self._release_permit()
        if self.counted:
            self._pool.note_start(now - self._asked_at, spare=self._spare)

    def _exited(self, exit_: Exit) -> None:
        if not self.stopping:
            self._pool.crashes.add()
            if not self.heard:
                self._note_failed_start()
            self._pool.crash_log.log(logging.WARNING, "%s: the server %s", self._name, exit_)
        self._end(str(exit_))

    def _end(self, reason: str) -> None:
        self.stopping = True
        self._release_permit()
        self._pool.forget(self)
        self.dispatcher.close(reason)

    def _closed(self, reason: str) -> None:
        self._on_end(reason)

    @property
    def _name(self) -> str:
        """What the log calls the process."""
        return f"process {self._number} of {self.user}" if self.user else f"process {self._number}"


class ServerPool:
    """Every running server of one bridge, and those that wait to be started."""

    def __init__(
        self, loop: Loop, options: Options, registry: Registry, *, credentials: UserCredentials | None = None
    ) -> None:
        """With `credentials`, each process for a user starts with what that user has given for this server."""
        self.loop = loop
        self.credentials = credentials
        self.options = options
        self.start_limiter = StartLimiter(options.starts_at_once)
        self.allowance = Allowance(loop.clock, per_second=_LOGGED_BYTES_PER_SECOND, at_once=_LOGGED_BYTES_AT_ONCE)
        self.crash_log = LimitedLog(log, loop.clock, per_second=_LOGGED_CRASHES_PER_SECOND, allowance=self.allowance)
        self.typical_start = _FIRST_GUESS_SECONDS
        self.heard_at = -float("inf")
        self.failed_at = -float("inf")
        self.asked_at = -float("inf")
        self.hidden_tools = None
        if options.tools_lock is not None:
            self.hidden_tools = HiddenTools(options.tools_lock, loop, registry)
        self._numbered = 0
        self._servers: dict[Server, None] = {}
        self._warm_pool = WarmPool(loop, options.warm_spares, self._begin_spare)
        self.closed = False
        counter, gauge = registry.counter, registry.gauge
        self.spawns = counter("mcp_bridge_spawns_total", "Server processes started")
        self.crashes = counter("mcp_bridge_crashes_total", "Server processes that crashed or could not be started")
        self._evicted = counter(
            "mcp_bridge_evicted_total", "Sessions and processes that the bridge ended to make room for others"
        )
        self._refusals = LimitedLog(log, loop.clock, per_second=_LOGGED_REFUSALS_PER_SECOND)
        self.non_json_lines = counter("mcp_bridge_skipped_lines_total", "Lines on stdout that were not a message")
        self._dropped = counter(
            "mcp_bridge_dropped_messages_total", "Messages that were dropped because nothing waited for them"
        )
        self._timeouts = counter("mcp_bridge_call_timeouts_total", "Calls that were not answered in time")
        self.traffic = Traffic(
            to_server=counter("mcp_bridge_to_server_bytes_total", "Bytes written to the servers' stdin"),
            from_server=counter("mcp_bridge_from_server_bytes_total", "Bytes read from the servers' stdout"),
        )
        self._starts = registry.histogram(
            "mcp_bridge_start_seconds", "From asking for a server until it first answered", _START_BOUNDS
        )
        gauge("mcp_bridge_processes", "Running server processes, without the spare ones", self._count_running)
        gauge("mcp_bridge_spare_processes", "Processes started ahead of need", lambda: len(self._warm_pool))
        gauge("mcp_bridge_start_queue", "Server processes that wait to be started", lambda: self.start_limiter.waiting)
        gauge("mcp_bridge_calls_in_flight", "Calls not answered yet", lambda: self.in_flight)

    def __len__(self) -> int:
        return len(self._servers)

    @property
    def in_flight(self) -> int:
        """How many calls are not answered yet."""
        return sum(server.dispatcher.in_flight for server in self._servers if server.counted)

    def _count_running(self) -> int:
        return sum(server.counted and server.running for server in self._servers)

    def start(self, occupant: Occupant, on_end: Callable[[str], None], identity: Identity | None = None) -> Server:
        """Start a server for an occupant, or take a spare. Raises HttpError when too many run.

        Where users have credentials, it starts with those of the user of `identity`.
        """
        user, options = occupant.user, self.options
        bounds = Bounds(in_all=options.max_sessions, of_user=options.max_sessions_per_user)
        ending = [server.user for server in self._servers if server.counted and server.ending]
        # A process that is being ended does not count: its successor need not wait for it. There may be as many of
        # these again, so that opening and ending sessions in turn does not fill the memory.
        if len(ending) >= bounds.in_all or ending.count(user) >= bounds.of_user:
            self._refusals.log(logging.WARNING, "refused a session: %d processes are being ended", len(ending))
            raise unavailable("too many processes are being ended", retry_seconds=math.ceil(options.stop_timeout))
        running = [s.occupant for s in self._servers if s.occupant is not None and not s.ending]
        self.make_room(running, user, bounds, "--max-sessions")
        if self.credentials is not None and (identity is None or identity.user != user):
            raise unavailable("the bridge does not know whose credentials the process needs")
        return self._take(user, on_end, occupant, identity)

    def number_next(self) -> int:
        """Return the number of another process, by which the log knows it."""
        self._numbered += 1
        return self._numbered

    def start_child(self, user: str, credentials: Mapping[str, str]) -> Child:
        """Start a server process for a user in the way that the options ask for. Raises SpawnError.

        `credentials` are variables for its environment alone.
        """
        options = self.options
        environment = {**options.environment, **credentials}
        if options.server_socket is not None:
            return UnitChild(options.server_socket, environment=environment, user=digest_of(user))
        return SpawnedChild(
            options.command,
            environment=environment,
            directory=options.directory,
            open_files=options.open_files,
        )

    def start_probe(self, on_end: Callable[[str], None]) -> Server:
        """Start a server for the bridge's own question, which no limit and no gauge counts. It has no credentials."""
        return self._take("", on_end, None, None)

    def _take(
        self, user: str, on_end: Callable[[str], None], occupant: Occupant | None, identity: Identity | None
    ) -> Server:
        if self.closed:
            raise stopping()
        server = self._warm_pool.take() or Server(self, on_end, user=user, identity=identity)
        self._servers[server] = None
        server.adopt(user, on_end, occupant)
        return server

    def make_room(self, occupants: Iterable[Occupant], user: str, bounds: Bounds, option: str) -> None:
        """End what has to make room for one more of the user's. Raises HttpError; `option` sets the bounds."""
        try:
            victim = find_victim(occupants, user, bounds)
        except Full as full:
            bound, option = (bounds.of_user, f"{option}-per-user") if full.of_user else (bounds.in_all, option)
            text = "refused a session of %r: each of the %d that %s allows has a running call or an open stream"
            self._refusals.log(logging.WARNING, text, user, bound, option)
            text = (
                f"too many sessions are open: each of the {bound} that are allowed has a running call or an open stream"
            )
            raise unavailable(text, retry_seconds=full.retry_seconds) from full
        if victim is not None:
            self._evicted.add()
            log.debug("ended the least recently used session of %r to make room for %r", victim.user, user)
            victim.evict()

    def find_heard(self) -> Server | None:
        """Return a server that has answered before and runs, if there is one."""
        return next((server for server in self._servers if server.heard and server.running), None)

    def note_dropped(self, reason: str) -> None:
        """Count a dropped message of a server or a client."""
        self._dropped.add()
        log.debug("dropped %s", reason)

    def note_start(self, seconds: float, *, spare: bool) -> None:
        """Record how long a server took to start."""
        self._starts.observe(seconds)
        if not spare:
            self.typical_start = min(seconds, _LONGEST_START_SECONDS)

    def _begin_spare(self, on_end: Callable[[str], None]) -> Server:
        server = Server(self, on_end, user=None)
        self._servers[server] = None
        return server

    def end_at_once(self, user: str, reason: str) -> None:
        """End all processes of a user, even those that are being ended already, as the user's credentials have changed.

        Those that have not started ask for the credentials again, or are not started.
        """
        for server in list(self._servers):
            if server.user == user and not server.ask_again():
                if not server.running and not server.ending:
                    server.refusal = unavailable(reason, retry_seconds=1)
                server.stop(reason, at_once=True)

    def forget(self, server: Server) -> None:
        """Forget a server that has ended."""
        self._servers.pop(server, None)

    def tick(self, now: float) -> None:
        """Fail the calls whose time is up."""
        for server in list(self._servers):
            self._timeouts.add(server.dispatcher.expire())

    def stop(self, reason: str) -> None:
        """End all servers at the same time, and start no more."""
        self.closed = True
        self._warm_pool.close()
        for server in list(self._servers):
            server.stop(reason)
