from __future__ import annotations

import pytest

from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.calls import CallOutcome, CallTimeouts, Purpose
from stdio_bridge.protocol.connection import Connection
from stdio_bridge.protocol.events import Answer, Closed, Notification, ServerRequest, ToServer
from tests.stdio_bridge.recording_peer import Message, Peers, RecordingPeer


class Conversation(Peers):
    """A connection whose server is the test."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        super().__init__(self.sent.append)

    def ask(self, client: RecordingPeer, request_id: int | str, token: str | None = None) -> RecordingPeer:
        params: Message = {"name": "t"} if token is None else {"_meta": {"progressToken": token}}
        reply = RecordingPeer()
        message = {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}
        self.request(client, message, reply)
        return reply

    def say(self, now: float = 1, **message: object) -> None:
        self.do(self.connection.receive({"jsonrpc": "2.0", **message}, now))


@pytest.fixture
def talk() -> Conversation:
    return Conversation()


def test_two_equal_ids_in_flight_each_get_their_own_answer(talk: Conversation) -> None:
    client = RecordingPeer()
    first, second = talk.ask(client, 1), talk.ask(client, 1)
    wire_first, wire_second = (message["id"] for message in talk.sent)
    talk.say(id=wire_second, result={"n": 2})
    talk.say(id=wire_first, result={"n": 1})
    assert first.answers == [{"jsonrpc": "2.0", "id": 1, "result": {"n": 1}}]
    assert second.answers == [{"jsonrpc": "2.0", "id": 1, "result": {"n": 2}}]


def test_an_answer_given_twice_or_to_nobody_is_dropped(talk: Conversation) -> None:
    reply = talk.ask(RecordingPeer(), "a")
    wire_id = talk.sent[0]["id"]
    talk.say(id=wire_id, result={})
    talk.say(id=wire_id, result={})
    talk.say(id=999, result={})
    assert len(reply.answers) == 1
    assert len(talk.dropped) == 2


def test_progress_reaches_the_call_whose_token_it_names_under_the_clients_own_token(
    talk: Conversation,
) -> None:
    client = RecordingPeer()
    first, second = talk.ask(client, 1, token="same"), talk.ask(client, 2, token="same")
    token = talk.sent[1]["params"]["_meta"]["progressToken"]
    talk.say(method="notifications/progress", params={"progressToken": token, "progress": 5})
    assert first.received == []
    assert second.received[0]["params"] == {"progressToken": "same", "progress": 5}


def test_progress_defers_the_timeout_but_never_past_the_total(talk: Conversation) -> None:
    reply = talk.ask(RecordingPeer(), 1, token="t")
    token = talk.sent[0]["params"]["_meta"]["progressToken"]
    for now in (9, 18):
        talk.say(now, method="notifications/progress", params={"progressToken": token})
        assert talk.expire(now + 1) == 0
    assert talk.expire(25) == 1
    assert reply.answers[0]["error"]["message"] == "the server did not answer in time"
    assert reply.outcomes == [CallOutcome.TIMEOUT]
    assert talk.sent[-1]["method"] == "notifications/cancelled"


def test_the_time_that_a_client_takes_to_answer_a_question_is_not_the_servers_but_is_bounded(
    talk: Conversation,
) -> None:
    client, other = RecordingPeer(), RecordingPeer()
    reply = talk.ask(client, 1)
    talk.say(id=0, method="elicitation/create", params={})
    talk.ask(other, 2)
    assert [talk.expire(now) for now in (9, 10, 12)] == [0, 1, 0]
    assert (len(reply.answers), len(other.answers)) == (0, 0)
    talk.do(talk.connection.respond(client, {"jsonrpc": "2.0", "id": reply.received[0]["id"], "result": {}}))
    assert [talk.expire(now) for now in (21, 22)] == [0, 1]
    asked_for_ever = talk.ask(client, 3)
    talk.say(id=1, method="elicitation/create", params={})
    assert [talk.expire(now) for now in (9, 18, 24, 25)] == [0, 0, 0, 1]
    assert "error" in asked_for_ever.answers[0]


def test_a_client_cancels_by_its_own_id_and_the_server_is_told_the_connections_id(talk: Conversation) -> None:
    client = RecordingPeer()
    reply = talk.ask(client, "mine")
    cancelled = jsonrpc.notification("notifications/cancelled", {"requestId": "mine"})
    talk.do(talk.connection.notify(client, cancelled))
    assert talk.sent[-1]["params"]["requestId"] == talk.sent[0]["id"]
    assert "error" in reply.answers[0]
    assert reply.outcomes == [CallOutcome.CANCELLED]


def test_a_client_cannot_cancel_anothers_call(talk: Conversation) -> None:
    reply = talk.ask(RecordingPeer(), "mine")
    talk.do(
        talk.connection.notify(RecordingPeer(), jsonrpc.notification("notifications/cancelled", {"requestId": "mine"}))
    )
    assert reply.answers == []
    assert len(talk.sent) == 1


def test_a_servers_request_goes_with_the_call_in_flight_and_its_answer_finds_back(talk: Conversation) -> None:
    client = RecordingPeer()
    reply = talk.ask(client, 1)
    talk.say(id=0, method="sampling/createMessage", params={})
    asked = reply.received[0]
    talk.do(talk.connection.respond(client, {"jsonrpc": "2.0", "id": asked["id"], "result": {"ok": True}}))
    assert talk.sent[-1] == {"jsonrpc": "2.0", "id": 0, "result": {"ok": True}}


def test_only_the_client_that_was_asked_can_answer(talk: Conversation) -> None:
    reply = talk.ask(RecordingPeer(), 1)
    talk.say(id=0, method="elicitation/create", params={})
    before = len(talk.sent)
    talk.do(talk.connection.respond(RecordingPeer(), {"jsonrpc": "2.0", "id": reply.received[0]["id"], "result": {}}))
    assert len(talk.sent) == before


def test_what_may_be_of_either_of_two_clients_reaches_neither(talk: Conversation) -> None:
    first, second = talk.ask(RecordingPeer(), 1), talk.ask(RecordingPeer(), 1)
    talk.say(method="notifications/message", params={"data": "whose?"})
    talk.say(id=7, method="roots/list")
    assert first.received == second.received == []
    assert talk.sent[-1]["id"] == 7
    assert "error" in talk.sent[-1]


def test_when_the_server_ends_every_call_fails_at_once_and_says_why(talk: Conversation) -> None:
    replies = [talk.ask(RecordingPeer(), number) for number in range(3)]
    talk.do(talk.connection.close("exited with status 3"))
    assert [reply.answers[0]["error"]["message"] for reply in replies] == ["the MCP server exited with status 3"] * 3
    assert [reply.outcomes for reply in replies] == [[CallOutcome.SERVER_EXIT]] * 3
    assert talk.connection.in_flight == 0


def test_a_call_after_the_server_has_ended_fails_at_once_too(talk: Conversation) -> None:
    talk.do(talk.connection.close("exited with status 3"))
    reply = talk.ask(RecordingPeer(), 1)
    assert reply.answers[0]["error"]["message"] == "the MCP server exited with status 3"
    assert talk.sent == []


def test_what_names_a_subscription_reaches_it_under_the_clients_id(talk: Conversation) -> None:
    client, replies = RecordingPeer(), [RecordingPeer(), RecordingPeer()]
    for reply in replies:
        message = {"jsonrpc": "2.0", "id": "mine", "method": "subscriptions/listen", "params": {}}
        talk.request(client, message, reply, now=0, purpose=Purpose.STREAM)
    meta = {"io.modelcontextprotocol/subscriptionId": talk.sent[1]["id"]}
    talk.say(method="notifications/tools/list_changed", params={"_meta": meta})
    assert replies[0].received == []
    assert replies[1].received[0]["params"] == {"_meta": {"io.modelcontextprotocol/subscriptionId": "mine"}}
    talk.say(id=talk.sent[1]["id"], result={"_meta": meta})
    assert replies[1].answers[0]["result"]["_meta"] == {"io.modelcontextprotocol/subscriptionId": "mine"}


def test_a_subscription_has_no_time_out_and_ends_well_when_the_server_takes_it_down(talk: Conversation) -> None:
    reply = RecordingPeer()
    message = {"jsonrpc": "2.0", "id": 4, "method": "subscriptions/listen", "params": {}}
    talk.request(RecordingPeer(), message, reply, now=0, purpose=Purpose.STREAM)
    assert talk.expire(10_000) == 0
    assert talk.connection.in_flight == 0
    talk.say(method="notifications/cancelled", params={"requestId": talk.sent[0]["id"]})
    assert reply.answers[0]["result"]["_meta"] == {"io.modelcontextprotocol/subscriptionId": 4}


def test_no_other_message_is_about_a_subscription_or_our_own_question(talk: Conversation) -> None:
    subscribed, called = RecordingPeer(), RecordingPeer()
    message = {"jsonrpc": "2.0", "id": 4, "method": "subscriptions/listen", "params": {}}
    talk.request(RecordingPeer(), message, subscribed, now=0, purpose=Purpose.STREAM)
    talk.do(talk.connection.ask("tools/list", {}, 0)[1])
    reply = talk.ask(called, 1)
    talk.say(method="notifications/message", params={"data": "x"})
    assert [message["params"]["data"] for message in reply.received] == ["x"]
    assert subscribed.received == []


def test_a_call_that_waits_for_its_client_is_given_time_anew(talk: Conversation) -> None:
    client = RecordingPeer()
    params: Message = {"_meta": {"progressToken": "t"}}
    message = {"jsonrpc": "2.0", "id": 4, "method": "tools/call", "params": params}
    call = talk.request(client, message, client, now=0)
    talk.connection.wait_until(call, 1000)
    talk.say(500, method="notifications/progress", params={"progressToken": talk.sent[0]["id"]})
    assert talk.expire(999) == 0
    talk.connection.restart_timeouts(call, 999)
    assert talk.expire(1008) == 0
    assert talk.expire(1009) == 1


def test_a_ping_of_the_server_is_answered_without_any_client(talk: Conversation) -> None:
    talk.say(id="p", method="ping")
    assert talk.sent == [{"jsonrpc": "2.0", "id": "p", "result": {}}]


@pytest.mark.parametrize(
    ("server_id", "token"), [("x" * 510, 1), (1, "x" * 510), ("x" * 256, "x" * 256), (1, ["x"] * 200)]
)
def test_a_question_with_a_long_id_or_progress_token_is_refused_and_not_kept(
    talk: Conversation, server_id: object, token: object
) -> None:
    client = RecordingPeer()
    talk.ask(client, 1)
    talk.say(id=server_id, method="roots/list", params={"_meta": {"progressToken": token}})
    assert client.received == []
    assert talk.sent[-1]["id"] == server_id
    assert "too long" in talk.sent[-1]["error"]["message"]
    assert talk.connection._asked == {}


def test_a_question_with_an_id_and_a_progress_token_of_some_length_is_asked(talk: Conversation) -> None:
    talk.ask(RecordingPeer(), 1)
    talk.say(id="x" * 250, method="roots/list", params={"_meta": {"progressToken": "y" * 250}})
    assert [asked.server_id for asked in talk.connection._asked.values()] == ["x" * 250]
    assert "error" not in talk.sent[-1]


def test_a_question_that_the_server_takes_back_is_taken_back_where_it_was_asked(talk: Conversation) -> None:
    client = RecordingPeer()
    reply = talk.ask(client, 1)
    talk.say(id=5, method="elicitation/create", params={})
    talk.say(method="notifications/cancelled", params={"requestId": 5, "reason": "never mind"})
    asked, taken_back = reply.received
    assert taken_back["params"] == {"requestId": asked["id"], "reason": "never mind"}
    assert client.received == []


@pytest.mark.parametrize(
    ("error", "sound"),
    [
        ({"code": -32602, "message": "no", "data": []}, {"code": -32602, "message": "no", "data": []}),
        ({"message": "no", "data": 1}, {"code": -32603, "message": "no", "data": 1}),
        ({"code": [], "message": "no"}, {"code": -32603, "message": "no"}),
        ({"code": True, "message": "no"}, {"code": -32603, "message": "no"}),
        ({"code": "ENOENT", "message": "no"}, {"code": -32603, "message": "no"}),
        ({"code": 7}, {"code": 7, "message": "the MCP server does not say why"}),
        ({"code": 7, "message": {}}, {"code": 7, "message": "the MCP server does not say why"}),
    ],
)
def test_an_error_always_has_a_code_and_a_text(talk: Conversation, error: Message, sound: Message) -> None:
    reply = talk.ask(RecordingPeer(), 1)
    talk.say(id=talk.sent[-1]["id"], error=error)
    assert reply.answers == [{"jsonrpc": "2.0", "id": 1, "error": sound}]


def test_each_input_is_answered_with_the_events_that_follow_from_it() -> None:
    connection = Connection(timeouts=CallTimeouts(idle=10, total=25))
    client = RecordingPeer()
    connection.join(client)
    message: Message = {"jsonrpc": "2.0", "id": "mine", "method": "tools/call", "params": {}}
    call, events = connection.request(client, message, now=0)
    assert events == [ToServer({**message, "id": 1})]
    asked: Message = {"jsonrpc": "2.0", "id": 5, "method": "roots/list"}
    assert connection.receive(asked, 0) == [ServerRequest(client, call, {**asked, "id": "s2"})]
    assert connection.respond(client, {"jsonrpc": "2.0", "id": "s2", "result": {}}) == [
        ToServer({"jsonrpc": "2.0", "id": 5, "result": {}})
    ]
    assert connection.receive({"jsonrpc": "2.0", "id": 1, "result": {}}, 0) == [
        Answer(call, {"jsonrpc": "2.0", "id": "mine", "result": {}})
    ]
    news = jsonrpc.notification("notifications/tools/list_changed", {})
    assert connection.receive(news, 0) == [Notification(client, None, news)]
    assert connection.close("exited with status 3") == [Closed("exited with status 3")]
