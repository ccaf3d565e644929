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
    """Events with ids. They are kept until they are delivered, and then for resuming, up to `max_bytes`.

    An event's id is `STREAM-NUMBER`, where numbers count from 0; it is unique within the session. Beyond `max_bytes`
    the oldest events are dropped. `add` returns the server's requests that are dropped before a client has got them, as
    the server would wait for their answers for ever.
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
        """Append a message, and send it if a client is connected. `data` is the encoded message, if there is one.

        Returns the requests of the server that it displaces and that no client has seen.
        """
        request = message if "method" in message and "id" in message else None
        data = jsonrpc.encode(message) if data is None else data
        return self._append(sse_event(data, self._event_id(self._next)), request)

    def give_up(self, request: Message) -> bool:
        """Remove a server's request. Returns False if a client has got it already."""
        for position, (number, data, kept) in enumerate(self._events):
            if kept is request and number > self._sent:
                del self._events[position]
                self._size -= len(data)
                return True
        return False

    def prime(self) -> None:
        """Append an event without data, so that the client has an id to resume from."""
        self._append(sse_priming_event(self._event_id(self._next)), None)

    def end(self) -> None:
        """End the stream: there will be no more events."""
        self.ended = True
        if self.wire is not None:
            wire, self.wire = self.wire, None
            wire.finish()

    def attach(self, wire: Wire, after: int | None = None) -> None:
        """Continue the stream on this connection, with the events after that number, or those not sent yet."""
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
        """Note that this connection is gone."""
        if self.wire is wire:
            self.wire = None

    def _append(self, data: bytes, request: Message | None) -> list[Message]:
        self._events.append((self._next, data, request))
        self._size += len(data)
        surplus = 0
        while self._size > self.max_bytes and surplus < len(self._events) - 1:
            self._size -= len(self._events[surplus][1])
            surplus += 1
        dropped, self._events[:surplus] = self._events[:surplus], []
        last_sent = self._sent
        if self.wire is not None:
            self._sent = self._next
            self.wire.write(data)
        self._next += 1
        return [request for number, _, request in dropped if request is not None and number > last_sent]

    def _event_id(self, number: int) -> str:
        return f"{self.number}-{number}"


def parse_event_id(event_id: str) -> tuple[int, int] | None:
    """Split an event id into the numbers of its stream and event; None if it cannot be one of ours."""
    stream, dash, event = event_id.partition("-")
    if not dash or not stream.isdecimal() or not event.isdecimal() or len(event_id) > 40:
        return None
    return int(stream), int(event)
