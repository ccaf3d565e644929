"""Events are delivered one at a time, and never into the middle of what led to them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from stdio_bridge.io.event_loop import Loop
from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.calls import Call, CallOutcome, CallTimeouts
from stdio_bridge.servers.dispatcher import Dispatcher
from tests.stdio_bridge.recording_peer import Message, RecordingPeer

LOG = {"jsonrpc": "2.0", "method": "notifications/message", "params": {}}


class Conversation:
    """A dispatcher whose server is the test."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.closed: list[str] = []
        self.loop = Loop()
        self.dispatcher = Dispatcher(
            self.sent.append,
            loop=self.loop,
            timeouts=CallTimeouts(idle=10, total=25),
            note_dropped=lambda _: None,
            closed=self.closed.append,
        )

    def ask(self, client: RecordingPeer, reply: RecordingPeer) -> Call:
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {}}
        return self.dispatcher.request(client, message, reply)

    def answer(self) -> None:
        self.dispatcher.receive({"jsonrpc": "2.0", "id": self.sent[-1]["id"], "result": {}})

    def turn(self) -> None:
        self.loop.stop()
        self.loop.turn()


class Acting(RecordingPeer):
    """A peer that does something when it is told something."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self._act = act

    def receive(self, message: Message) -> None:
        self.received.append(message)
        self._act()

    def finish(self, message: Message, outcome: CallOutcome | None = None) -> None:
        super().finish(message, outcome)
        self._act()


@pytest.fixture
def talk() -> Iterator[Conversation]:
    talk = Conversation()
    yield talk
    talk.loop.close()


def test_an_answer_that_is_there_at_once_comes_after_the_request_has_returned(talk: Conversation) -> None:
    talk.dispatcher.close("exited with status 3")
    reply = RecordingPeer()
    talk.ask(RecordingPeer(), reply)
    assert reply.answers == []
    talk.turn()
    assert [answer["error"]["message"] for answer in reply.answers] == ["the MCP server exited with status 3"]


def test_what_an_answer_leads_to_waits_until_it_has_been_delivered(talk: Conversation) -> None:
    order: list[str] = []
    other = Acting(lambda: order.append("other"))

    def act() -> None:
        talk.dispatcher.leave(other)
        order.append("first")

    reply = Acting(act)
    talk.ask(other, other)
    talk.ask(RecordingPeer(), reply)
    talk.answer()
    assert order == ["first", "other"]
    assert other.answers[0]["error"]["message"] == "the session was ended"


def test_a_call_that_is_cancelled_before_its_answer_is_delivered_gets_none(talk: Conversation) -> None:
    clients = [RecordingPeer(), RecordingPeer()]
    replies = [Acting(lambda: talk.dispatcher.cancel(calls[1])), RecordingPeer()]
    calls = [talk.ask(client, reply) for client, reply in zip(clients, replies, strict=True)]
    talk.dispatcher.close("exited with status 3")
    assert [len(reply.answers) for reply in replies] == [1, 0]
    assert talk.closed == ["exited with status 3"]


def test_the_end_of_the_server_comes_after_all_that_its_last_answers_led_to(talk: Conversation) -> None:
    last = Acting(lambda: talk.closed.append("answered"))

    def ask_again() -> None:
        talk.ask(RecordingPeer(), last)

    first = Acting(ask_again)
    talk.ask(RecordingPeer(), first)
    talk.dispatcher.close("exited with status 3")
    assert talk.closed == ["answered", "exited with status 3"]


def test_a_client_that_fails_keeps_nobody_else_from_hearing(
    talk: Conversation, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("a fault")

    clients = [Acting(fail), RecordingPeer()]
    for client in clients:
        talk.dispatcher.join(client, user="same")
    with caplog.at_level(logging.ERROR):
        talk.dispatcher.receive(LOG)
    assert [client.received for client in clients] == [[LOG], [LOG]]
    assert "a message could not be delivered" in caplog.text
    talk.dispatcher.receive(LOG)
    assert len(clients[1].received) == 2


def test_a_message_that_is_none_changes_nothing(talk: Conversation) -> None:
    reply = RecordingPeer()
    talk.ask(RecordingPeer(), reply)
    with pytest.raises(jsonrpc.InvalidMessage):
        talk.dispatcher.receive({"jsonrpc": "2.0", "id": talk.sent[-1]["id"]})
    assert reply.answers == []
    assert talk.dispatcher.in_flight == 1
