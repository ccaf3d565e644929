"""The event loop of the one thread that does all I/O: sockets and pipes by epoll, and timers.

waitress' own loop asks every open connection at each turn what it waits for, which takes a millisecond with two
thousand idle streams. This loop asks only connections that had an event.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import select
import time
from collections.abc import Callable, Iterator, MutableMapping
from typing import Protocol

log = logging.getLogger(__name__)

_MAX_WAIT_SECONDS = 60.0


class Pollable(Protocol):
    """What the loop needs of a socket or pipe; waitress' dispatchers have the same five methods."""

    accepting: bool

    def readable(self) -> object: ...
    def writable(self) -> object: ...
    def handle_read_event(self) -> None: ...
    def handle_write_event(self) -> None: ...
    def handle_close(self) -> None: ...


class Timer:
    """A call that has not happened yet."""

    __slots__ = ("action", "when")

    def __init__(self, when: float, action: Callable[[], None]) -> None:
        self.when = when
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Cancel the call; does nothing if it has happened."""
        self.action = None


class Loop(MutableMapping[int, Pollable]):
    """A mapping of file descriptors to their handlers, and the loop that calls these.

    It is a mapping because waitress registers its sockets in one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._epoll = select.epoll()
        self._handlers: dict[int, Pollable] = {}
        self._registered: dict[int, int] = {}
        self._touched: set[int] = set()
        self._timers: list[tuple[float, int, Timer]] = []
        self._sequence = itertools.count()
        self._soon: list[Callable[[], None]] = []
        self._stopped = False

    def __getitem__(self, fd: int) -> Pollable:
        return self._handlers[fd]

    def __setitem__(self, fd: int, handler: Pollable) -> None:
        self._handlers[fd] = handler
        self._touched.add(fd)

    def __delitem__(self, fd: int) -> None:
        del self._handlers[fd]
        self._touched.discard(fd)
        if self._registered.pop(fd, 0):
            with contextlib.suppress(OSError):  # one that was closed before is not registered any more
                self._epoll.unregister(fd)

    def __iter__(self) -> Iterator[int]:
        return iter(self._handlers)

    def __len__(self) -> int:
        return len(self._handlers)

    def touch(self, fd: int | None) -> None:
        """Ask this descriptor's handler again what it waits for."""
        if fd is not None:
            self._touched.add(fd)

    def call_later(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Run `action` once, that many seconds from now."""
        timer = Timer(self.clock() + seconds, action)
        heapq.heappush(self._timers, (timer.when, next(self._sequence), timer))
        return timer

    def call_soon(self, action: Callable[[], None]) -> None:
        """Run `action` before the loop waits again."""
        self._soon.append(action)

    def stop(self) -> None:
        """Make `run` return after this turn."""
        self._stopped = True

    def run(self) -> None:
        """Run until `stop` is called."""
        while not self._stopped:
            self.turn()

    def close(self) -> None:
        """Release the descriptor, once nothing is registered any more."""
        self._epoll.close()

    def turn(self) -> None:
        """Wait for something to happen, once, and handle it."""
        self._run_due()
        self._update_interest()
        for fd, events in self._epoll.poll(self._seconds_to_wait()):
            handler = self._handlers.get(fd)
            if handler is not None:
                self._dispatch(fd, handler, events)
                self._touched.add(fd)

    def _dispatch(self, fd: int, handler: Pollable, events: int) -> None:
        try:
            if events & select.EPOLLIN:
                handler.handle_read_event()
            if events & select.EPOLLOUT:
                handler.handle_write_event()
            if events & (select.EPOLLHUP | select.EPOLLERR):
                handler.handle_close()
        except Exception:
            log.exception("a connection failed")
            self._close(fd, handler)

    def _close(self, fd: int, handler: Pollable) -> None:
        try:
            handler.handle_close()
        except Exception:
            log.exception("a connection that failed cannot be closed")
            # epoll would report it again at once, for ever.
            if self._handlers.get(fd) is handler:
                del self[fd]

    def _run_due(self) -> None:
        now = self.clock()
        while self._timers and self._timers[0][0] <= now:
            self._run(heapq.heappop(self._timers)[2].action)
        while self._soon:
            due, self._soon = self._soon, []
            for action in due:
                self._run(action)

    def _run(self, action: Callable[[], None] | None) -> None:
        if action is None:
            return
        try:
            action()
        except Exception:
            log.exception("a scheduled call failed")

    def _seconds_to_wait(self) -> float:
        if self._soon or self._stopped:
            return 0
        while self._timers and self._timers[0][2].action is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return _MAX_WAIT_SECONDS
        return min(_MAX_WAIT_SECONDS, max(0.0, self._timers[0][0] - self.clock()))

    def _update_interest(self) -> None:
        touched, self._touched = self._touched, set()
        for fd in touched:
            handler = self._handlers.get(fd)
            if handler is None:
                continue
            try:
                self._wait_for(fd, handler)
            except Exception:
                log.exception("a connection cannot be waited for")
                self._close(fd, handler)

    def _wait_for(self, fd: int, handler: Pollable) -> None:
        """Wait for what a handler wants of its descriptor. Raises OSError if epoll takes no such descriptor."""
        wanted = select.EPOLLIN if handler.readable() else 0
        if not handler.accepting and handler.writable():
            wanted |= select.EPOLLOUT
        current = self._registered.get(fd, 0)
        if wanted == current:
            return
        if not current:
            self._epoll.register(fd, wanted)
        elif not wanted:
            self._epoll.unregister(fd)
        else:
            self._epoll.modify(fd, wanted)
        self._registered[fd] = wanted
