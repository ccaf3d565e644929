"""Delivers the events of a server's connection to the server's process and to the clients."""

from __future__ import annotations

import collections
import logging
from collections.abc import Callable, Iterable
from typing import Protocol, cast

from stdio_bridge.io.event_loop import Loop
from stdio_bridge.protocol.calls import Call, CallOutcome, CallTimeouts, Purpose
from stdio_bridge.protocol.connection import Connection
from stdio_bridge.protocol.events import (
    Answer,
    Closed,
    Dropped,
    Event,
    Notification,
    Progress,
    ServerRequest,
    ToServer,
    dropped,
)
from stdio_bridge.protocol.jsonrpc import Message

from .backend import Client, Reply

log = logging.getLogger(__name__)


class Gate(Protocol):
    """Checks the messages of clients on their way to a server, and changes its answers on their way back."""

    def admits(self, message: Message) -> bool:
        """Whether a client's message goes to the server now. If not, the gate answers, drops or later passes it on.

        A request has the connection's own id.
        """

    def change(self, method: str, answer: Message) -> Message:
        """Return the answer to a client's request as the client is to have it."""

    def hear(self, message: Message) -> None:
        """Note a message of the server."""

    @property
    def held_bytes(self) -> int:
        """How many bytes the messages have that the gate will pass on later."""


class Dispatcher:
    """One server's conversation, for the backend that speaks with it.

    `write` sends a message to the server. `note_dropped` gets the reason why a message was dropped, `closed` the reason
    why the server is gone.

    Events are delivered one at a time. A delivery may cause another input: the connection takes it at once, and its
    events wait until their turn. Nothing is delivered before `request` returns.
    """

    def __init__(
        self,
        write: Callable[[Message], None],
        *,
        loop: Loop,
        timeouts: CallTimeouts,
        note_dropped: Callable[[str], None],
        closed: Callable[[str], None],
    ) -> None:
        self._connection = Connection(timeouts=timeouts)
        self._write = write
        self._loop = loop
        self._note_dropped = note_dropped
        self._closed = closed
        self._replies: dict[Call, Reply] = {}
        self._events: collections.deque[Event] = collections.deque()
        self._delivering = False
        self.gate: Gate | None = None

    # What clients do.

    def join(self, client: Client, *, user: object = "", capabilities: frozenset[str] | None = None) -> None:
        """Add a client of this user, so that it gets messages of the server that name no call.

        The server may ask it only for what its `capabilities` declare; None allows any request.
        """
        self._connection.join(client, user=user, capabilities=capabilities)

    def leave(self, client: Client) -> None:
        """Remove a client: cancel its calls, and answer the server's requests to it with an error."""
        self._take(self._connection.leave(client))

    def request(self, client: Client, message: Message, reply: Reply, purpose: Purpose = Purpose.CALL) -> Call:
        """Pass a client's request on; its answer goes to `reply`."""
        call, events = self._connection.request(client, message, self._loop.clock(), purpose)
        return self._expect(call, reply, events, self.gate)

    def ask(self, method: str, params: Message, answered: Callable[[Message], None]) -> Call:
        """Send a request of the bridge itself to the server, past the gate."""
        call, events = self._connection.ask(method, params, self._loop.clock())
        return self._expect(call, _AnswerTo(answered), events, gate=None)

    def _expect(self, call: Call, reply: Reply, events: list[Event], gate: Gate | None) -> Call:
        self._replies[call] = reply
        self._queue(events, gate)
        if self._events:
            self._loop.call_soon(self._deliver_all)
        return call

    def pass_on(self, message: Message) -> None:
        """Write a client's message that the gate has held back."""
        self._write(message)

    def answer(self, response: Message, outcome: CallOutcome) -> None:
        """Answer a client's request in the server's place. Does nothing if it is over."""
        self._take(self._connection.answer(response, outcome))

    def tell(self, method: str) -> None:
        """Send a notification of the bridge itself to the server."""
        self._write({"jsonrpc": "2.0", "method": method})

    def notify(self, client: Client, message: Message) -> None:
        """Pass a client's notification on."""
        self._take(self._connection.notify(client, message))

    def respond(self, client: Client, message: Message) -> None:
        """Pass a client's answer on. An answer to no request that this client was sent is dropped."""
        self._take(self._connection.respond(client, message))

    def refuse(self, client: Client, request: Message, text: str) -> None:
        """Answer a request of the server with an error, in place of the client that it was sent to."""
        self._take(self._connection.refuse(client, request, text))

    def cancel(self, call: Call, reason: object = None) -> None:
        """Cancel a call: tell the server, and drop the answer if it still comes."""
        self._replies.pop(call, None)
        self._take(self._connection.cancel(call, reason))

    def drop(self, message: Message, reason: str) -> None:
        """Drop a message of the server."""
        self._take([dropped(message, reason)])

    # Time, and what the server does.

    def wait_until(self, call: Call, deadline: float) -> None:
        """Set the deadline of a call that waits for its client."""
        self._connection.wait_until(call, deadline)

    def restart_timeouts(self, call: Call) -> None:
        """Restart a call's time-outs after it has waited for its client."""
        self._connection.restart_timeouts(call, self._loop.clock())

    def expire(self) -> int:
        """Fail the calls whose time is up, and return how many there were."""
        events = self._connection.expire(self._loop.clock())
        self._take(events)
        return sum(isinstance(event, Answer) for event in events)

    def receive(self, message: Message) -> None:
        """Take a message of the server. Raises InvalidMessage, and then nothing has changed."""
        events = self._connection.receive(message, self._loop.clock())
        if self.gate is not None:
            self.gate.hear(message)
        self._take(events)

    def fail(self, wire_id: int, text: str) -> None:
        """Fail a call whose answer cannot be passed on, if it is in flight."""
        self._take(self._connection.fail(wire_id, text))

    def close(self, reason: str) -> None:
        """Note that the server is gone: every call in flight fails with this reason, and so does each later one."""
        self._take(self._connection.close(reason))

    # The state.

    @property
    def ended(self) -> bool:
        """Whether the server is gone."""
        return self._connection.ended

    @property
    def in_flight(self) -> int:
        """How many calls the server has not answered, without subscriptions and the bridge's own requests."""
        return self._connection.in_flight

    @property
    def unanswered(self) -> int:
        """How many requests of any kind the server has not answered."""
        return self._connection.unanswered

    @property
    def idle(self) -> bool:
        """Whether no call and no request of the server is unanswered. Subscriptions do not count here."""
        return self._connection.idle

    def has_calls_of(self, client: Client) -> bool:
        """Whether a call of this client is in flight."""
        return self._connection.has_calls_of(client)

    def waits_for(self, client: Client) -> bool:
        """Whether a request of the server to this client is unanswered."""
        return self._connection.waits_for(client)

    # Delivery.

    def _take(self, events: Iterable[Event]) -> None:
        self._queue(events, self.gate)
        self._deliver_all()

    def _queue(self, events: Iterable[Event], gate: Gate | None) -> None:
        for event in events:
            if isinstance(event, ToServer):
                if gate is None or gate.admits(event.message):
                    self._write(event.message)
            else:
                self._events.append(event)

    def _deliver_all(self) -> None:
        if self._delivering:
            return
        self._delivering = True
        while self._events:
            try:
                self._deliver(self._events.popleft())
            except Exception:
                # The failure concerns one client. All others must still get their messages.
                log.exception("a message could not be delivered")
        self._delivering = False

    def _deliver(self, event: Event) -> None:
        if isinstance(event, Answer):
            reply = self._replies.pop(event.call, None)
            if reply is not None:
                gate = self.gate if event.call.purpose is Purpose.CALL else None
                message = event.message if gate is None else gate.change(event.call.method, event.message)
                reply.finish(message, event.outcome)
        elif isinstance(event, Progress):
            reply = self._replies.get(event.call)
            if reply is not None:
                reply.send(event.message)
        elif isinstance(event, ServerRequest | Notification):
            reply = None if event.call is None else self._replies.get(event.call)
            if reply is not None:
                reply.send(event.message)
            else:
                cast("Client", event.client).receive(event.message)
        elif isinstance(event, Dropped):
            self._note_dropped(event.reason)
        elif isinstance(event, Closed) and self._events:
            self._events.append(event)  # after the events that the last answers have caused
        elif isinstance(event, Closed):
            self._closed(event.reason)


class _AnswerTo:
    """Passes an answer to a function, and ignores messages before it."""

    def __init__(self, answered: Callable[[Message], None]) -> None:
        self._answered = answered

    def send(self, message: Message) -> None:
        """Ignore it."""

    def finish(self, message: Message, outcome: CallOutcome | None = None) -> None:
        """Pass the answer on."""
        self._answered(message)
