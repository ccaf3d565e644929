"""Callers that call as fast as they are answered."""

from __future__ import annotations

import select
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from .clients import ANSWER_SECONDS, Caller, Failed


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What some callers got in a while: valid answers per second, latencies in seconds, failures by kind."""

    per_second: float
    latencies: list[float]
    failures: Counter[str]


def drive(callers: Sequence[Caller], seconds: float) -> Measured:
    """Let every caller call for so long, each as soon as its last call is answered."""
    for caller in callers:
        caller.prepare()
    run = _Run(seconds)
    for caller in callers:
        run.call(caller)
    while run.open:
        run.turn()
    return run.measured()


@dataclass
class _Run:
    seconds: float
    open: dict[int, tuple[Caller, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._poll = select.epoll()
        self._latencies: list[float] = []
        self._failures: Counter[str] = Counter()

    def call(self, caller: Caller) -> None:
        began = time.perf_counter()
        if began >= self._start + self.seconds:
            return
        try:
            caller.call()
        except (Failed, OSError) as error:
            # One that cannot even ask is out for the rest of the run.
            self._failures[str(error)] += 1
            return
        fd = caller.fileno()
        self.open[fd] = caller, began
        self._poll.register(fd, select.EPOLLIN)

    def turn(self) -> None:
        for fd, _ in self._poll.poll(1.0):
            caller, began = self.open[fd]
            try:
                answered = caller.answered()
            except Failed as error:
                self._fail(fd, str(error))
                continue
            if answered:
                self._last = time.perf_counter()
                self._latencies.append(self._last - began)
                self._forget(fd)
                self.call(caller)
        late = time.perf_counter() - ANSWER_SECONDS
        for fd in [fd for fd, (_, began) in self.open.items() if began < late]:
            self._fail(fd, "no answer in time")

    def _fail(self, fd: int, reason: str) -> None:
        caller = self._forget(fd)
        self._failures[reason] += 1
        try:
            caller.restart()
        except OSError:
            return
        self.call(caller)

    def _forget(self, fd: int) -> Caller:
        # Before the next call, which may be on a new connection with the same number.
        self._poll.unregister(fd)
        return self.open.pop(fd)[0]

    def measured(self) -> Measured:
        self._poll.close()
        elapsed = max(self.seconds, self._last - self._start)
        return Measured(per_second=len(self._latencies) / elapsed, latencies=self._latencies, failures=self._failures)
