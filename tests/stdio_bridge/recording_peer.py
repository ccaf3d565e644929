"""What is at the other ends of a connection, in tests without a process or a socket."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol, cast

from stdio_bridge.protocol.calls import Call, CallOutcome, CallTimeouts, Purpose
from stdio_bridge.protocol.connection import Connection
from stdio_bridge.protocol.events import Answer, Closed, Dropped, Event, Progress, ToServer

Message = dict[str, Any]


class RecordingPeer:
    """A client, or a reply, that remembers what it was told."""

    def __init__(self) -> None:
        self.received: list[Message] = []
        self.answers: list[Message] = []
        self.outcomes: list[CallOutcome | None] = []

    def receive(self, message: Message) -> None:
        self.received.append(message)

    send = receive

    def finish(self, message: Message, outcome: CallOutcome | None = None) -> None:
        self.answers.append(message)
        self.outcomes.append(outcome)


class Reply(Protocol):
    def send(self, message: Message) -> None: ...
    def finish(self, message: Message, outcome: CallOutcome | None = None) -> None: ...


class Peers:
    """A connection whose events go to the peers of a test, and to `write`, which is the server."""

    def __init__(self, write: Callable[[Message], None]) -> None:
        self.connection = Connection(timeouts=CallTimeouts(idle=10, total=25))
        self.dropped: list[str] = []
        self.closed: list[str] = []
        self._write = write
        self._replies: dict[Call, Reply] = {}

    def request(
        self, client: Hashable, message: Message, reply: Reply, now: float = 0, purpose: Purpose = Purpose.CALL
    ) -> Call:
        call, events = self.connection.request(client, message, now, purpose)
        self._replies[call] = reply
        self.do(events)
        return call

    def expire(self, now: float) -> int:
        """Return how many calls had to end."""
        return sum(isinstance(event, Answer) for event in self.do(self.connection.expire(now)))

    def do(self, events: list[Event]) -> list[Event]:
        for event in events:
            if isinstance(event, ToServer):
                self._write(event.message)
            elif isinstance(event, Answer):
                self._replies.pop(event.call).finish(event.message, event.outcome)
            elif isinstance(event, Dropped):
                self.dropped.append(event.reason)
            elif isinstance(event, Closed):
                self.closed.append(event.reason)
            elif isinstance(event, Progress) or event.call is not None:
                self._replies[cast("Call", event.call)].send(event.message)
            else:
                cast("RecordingPeer", event.client).receive(event.message)
        return events
