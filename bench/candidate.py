"""One way to reach a server, and what is measured of it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from . import report
from .bridges import Running
from .calls import Server, waiting_call
from .clients import Caller, Connection, Failed, HttpCaller, PipeCaller, leave, open_session
from .load import drive

_WARM_SECONDS = 0.3
_OPENING_SECONDS = 30.0


@dataclass
class Figures:
    """What was measured. Lists have one value per round."""

    sequential: list[float] = field(default_factory=list)
    concurrent: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    memory_mib: dict[int, float] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)


class Candidate:
    """A bridge, or none, in front of a server, and its clients."""

    def __init__(self, name: str, server: Server, running: Running | None) -> None:
        self.name = name
        self.figures = Figures()
        self._server = server
        self._running = running
        self._callers: list[Caller] = []

    def connect(self, count: int) -> None:
        """Have so many clients, let them call, and take down the bridge's memory."""
        try:
            while len(self._callers) < count:
                self._callers.append(self._new_client())
        except (Failed, OSError) as error:
            self.figures.failures[f"client {len(self._callers) + 1}: {error}"] += 1
        self.figures.failures += drive(self._callers, _WARM_SECONDS).failures
        if self._running is not None:
            self.figures.memory_mib[count] = self._running.memory() / 2**20

    def _new_client(self) -> Caller:
        if self._running is None:
            return PipeCaller(self._server)
        return HttpCaller(self._running.site, self._server)

    def measure_sequential(self, seconds: float) -> None:
        """Let one client call."""
        measured = drive(self._callers[:1], seconds)
        self.figures.sequential.append(measured.per_second)
        self.figures.failures += measured.failures

    def measure_concurrent(self, seconds: float) -> None:
        """Let all clients call."""
        measured = drive(self._callers, seconds)
        self.figures.concurrent.append(measured.per_second)
        self.figures.p50_ms.append(1000 * report.percentile(measured.latencies, 50))
        self.figures.p99_ms.append(1000 * report.percentile(measured.latencies, 99))
        self.figures.failures += measured.failures

    def measure_first(self) -> None:
        """Take the time from asking for a session, or from starting the server, to its first answer."""
        since = time.perf_counter()
        try:
            if self._running is None:
                caller = PipeCaller(self._server)
                self.figures.first_ms.append(1000 * (time.perf_counter() - since))
                caller.close()
            else:
                connection = Connection(self._running.site())
                connection.initialize()
                self.figures.first_ms.append(1000 * (time.perf_counter() - since))
                leave(connection)
        except (Failed, OSError) as error:
            self.figures.failures[f"first: {error}"] += 1

    def close(self) -> None:
        """Stop all of it."""
        for caller in self._callers:
            caller.close()
        self._callers = []
        if self._running is not None:
            self._running.stop()


class Streams:
    """Open event streams of one bridge, with nothing to say.

    With `sessions`, they are calls that are never answered, shared out among so many sessions; without, each is the
    GET stream of a session of its own.
    """

    def __init__(self, running: Running, sessions: int) -> None:
        self._running = running
        self._sessions = [open_session(running.site()) for _ in range(sessions)]
        self._streams: list[Connection] = []
        self.failure = ""

    def open(self, count: int) -> int:
        """Have so many, and return how many there are; fewer when the bridge refuses or takes too long."""
        deadline = time.monotonic() + _OPENING_SECONDS
        while len(self._streams) < count and time.monotonic() < deadline:
            try:
                self._streams.append(self._open_one(len(self._streams)))
            except (Failed, OSError) as error:
                self.failure = str(error)
                break
        return len(self._streams)

    def _open_one(self, number: int) -> Connection:
        if self._sessions:
            session = self._sessions[number % len(self._sessions)].session
            stream = Connection(self._running.site(), session)
            message = waiting_call(number + 1)
        else:
            stream, message = open_session(self._running.site()), None
        try:
            stream.begin_stream(message)
        except (Failed, OSError):
            stream.close()
            raise
        return stream

    def close(self) -> None:
        """Leave all of them."""
        for connection in [*self._streams, *self._sessions]:
            connection.close()
