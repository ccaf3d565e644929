"""Server-sent event streams that outlive their connections, within bounds. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from . import jsonrpc
from .framing import sse_event, sse_priming_event
from .jsonrpc import Message


class Wire(Protocol):
    """An open event stream's connection."""

    def write(self, data: bytes) -> None: ...
    def finish(self) -> None: ...


@dataclass(eq=False, slots=True, kw_only=True)
class EventStream:
    """Events with ids, kept until delivered and then for resuming, the oldest dropped beyond the bound of bytes.

    An event's id is `STREAM-NUMBER`, numbers counting from 0, unique within the session. What adds an event returns the
    requests that are dropped for it before anybody was connected to hear them: who asked would wait for ever.
    """

    number: int
    max_bytes: int
    wire: Wire | None = None
    ended: bool = False
    # A deque takes 760 bytes before it holds anything, of each of thousands of streams.
    _events: list[tuple[int, bytes, Message | None]] = field(default_factory=list)
    _size: int = 0
    _next: int = 0
    _sent: int = -1

    @property
    def size(self) -> int:
        """How many bytes are kept."""
        return self._size

    def add(self, message: Message, data: bytes | None = None) -> list[Message]:
        """Append a message, encoded as `data` if it is already, and send it if a client is connected."""
        asks = message if "method" in message and "id" in message else None
        data = jsonrpc.encode(message) if data is None else data
        return self._append(sse_event(data, self._event_id(self._next)), asks)

    def give_up(self, request: Message) -> bool:
        """Take a server's request back. Returns False if it was sent to a client already."""
        for position, (number, data, asks) in enumerate(self._events):
            if asks is request and number > self._sent:
                del self._events[position]
                self._size -= len(data)
                return True
        return False

    def prime(self) -> None:
        """Append an event without data, so that the client has an id to resume from."""
        self._append(sse_priming_event(self._event_id(self._next)), None)

    def end(self) -> None:
        """There will be no more events."""
        self.ended = True
        if self.wire is not None:
            wire, self.wire = self.wire, None
            wire.finish()

    def attach(self, wire: Wire, after: int | None = None) -> None:
        """Go on over this connection, with the events after that number, or those never sent."""
        if self.wire is not None:
            self.wire.finish()
        self.wire = wire
        first = self._sent if after is None else after
        for number, data, _ in list(self._events):
            if number > first:
                wire.write(data)
                self._sent = max(self._sent, number)
        if self.ended:
            self.end()

    def detach(self, wire: Wire) -> None:
        """That connection is gone."""
        if self.wire is wire:
            self.wire = None

    def _append(self, data: bytes, asks: Message | None) -> list[Message]:
        self._events.append((self._next, data, asks))
        self._size += len(data)
        surplus = 0
        while self._size > self.max_bytes and surplus < len(self._events) - 1:
            self._size -= len(self._events[surplus][1])
            surplus += 1
        dropped, self._events[:surplus] = self._events[:surplus], []
        unheard = self._sent
        if self.wire is not None:
            self._sent = self._next
            self.wire.write(data)
        self._next += 1
        return [asked for number, _, asked in dropped if asked is not None and number > unheard]

    def _event_id(self, number: int) -> str:
        return f"{self.number}-{number}"


def parse_event_id(event_id: str) -> tuple[int, int] | None:
    """Split an event id into stream and event number; None on what was never issued."""
    stream, dash, event = event_id.partition("-")
    if not dash or not stream.isdecimal() or not event.isdecimal() or len(event_id) > 40:
        return None
    return int(stream), int(event)
