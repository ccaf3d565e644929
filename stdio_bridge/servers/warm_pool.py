"""Servers started ahead of need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from stdio_bridge.io.event_loop import Loop

_FIRST_RETRY_SECONDS = 1.0
_LAST_RETRY_SECONDS = 60.0


class Spare(Protocol):
    """A server that is started ahead of need."""

    @property
    def running(self) -> bool:
        """Whether its process has been started and is not ending."""


_Spare = TypeVar("_Spare", bound=Spare)


class WarmPool(Generic[_Spare]):
    """Keeps `count` servers started, and replaces those that are used or die.

    After each server that dies unused, it waits longer before it starts the next, so that a broken server does not keep
    a core busy.
    """

    def __init__(self, loop: Loop, count: int, begin: Callable[[Callable[[str], None]], _Spare]) -> None:
        self._loop = loop
        self._count = count
        self._begin = begin
        self._warm: dict[_Spare, None] = {}
        self._dead = 0
        self._retry = _FIRST_RETRY_SECONDS
        self._closed = False
        loop.call_soon(self._fill)

    def __len__(self) -> int:
        return sum(spare.running for spare in self._warm)

    def take(self) -> _Spare | None:
        """Take a running spare process out and return it."""
        spare = next((spare for spare in self._warm if spare.running), None)
        if spare is not None:
            del self._warm[spare]
            self._retry = _FIRST_RETRY_SECONDS
            self._loop.call_soon(self._fill)
        return spare

    def close(self) -> None:
        """Start no more."""
        self._closed = True

    def _fill(self) -> None:
        while not self._closed and len(self._warm) + self._dead < self._count:
            self._add()

    def _add(self) -> None:
        spare = self._begin(lambda _: self._lose(spare))
        self._warm[spare] = None

    def _lose(self, spare: _Spare) -> None:
        del self._warm[spare]
        self._dead += 1
        self._loop.call_later(self._retry, self._replace)
        self._retry = min(2 * self._retry, _LAST_RETRY_SECONDS)

    def _replace(self) -> None:
        self._dead -= 1
        self._fill()
