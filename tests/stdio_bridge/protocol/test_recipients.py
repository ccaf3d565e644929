"""Several clients of one server: each hears what is meant for it, and nothing of another user's."""

from __future__ import annotations

import pytest

from stdio_bridge.protocol import jsonrpc
from tests.stdio_bridge.recording_peer import Message, Peers, RecordingPeer

SAMPLING = frozenset({"sampling"})


class House(Peers):
    """A connection whose server is the test, with clients that have joined it."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        super().__init__(self.sent.append)

    def add(self, user: str, capabilities: frozenset[str] = frozenset()) -> RecordingPeer:
        client = RecordingPeer()
        self.connection.join(client, user=user, capabilities=capabilities)
        return client

    def ask(self, client: RecordingPeer, method: str = "tools/call", **params: object) -> RecordingPeer:
        reply = RecordingPeer()
        self.request(client, {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, reply)
        return reply

    def answer(self, **answer: object) -> None:
        """Answer what was asked last."""
        self.say(id=self.sent[-1]["id"], **(answer or {"result": {}}))

    def say(self, **message: object) -> None:
        self.do(self.connection.receive({"jsonrpc": "2.0", **message}, 1))

    def sample(self) -> Message | None:
        """Ask for sampling; return the refusal, if it is one."""
        before = len(self.sent)
        self.say(id=77, method="sampling/createMessage", params={})
        return self.sent[-1] if len(self.sent) > before else None


@pytest.fixture
def house() -> House:
    return House()


LOG = {"method": "notifications/message", "params": {"level": "info", "data": "secret"}}
UPDATED = {"method": "notifications/resources/updated", "params": {"uri": "a:1"}}


def test_a_log_line_in_the_only_call_goes_with_it_and_to_nobody_else(house: House) -> None:
    one, other = house.add("one"), house.add("other")
    reply = house.ask(one)
    house.say(**LOG)
    assert len(reply.received) == 1
    assert one.received == other.received == []


def test_a_log_line_that_may_be_of_either_of_two_users_reaches_neither(house: House) -> None:
    one, other = house.add("one"), house.add("other")
    house.say(**LOG)
    replies = [house.ask(one), house.ask(other)]
    house.say(**LOG)
    assert [client.received for client in (one, other, *replies)] == [[], [], [], []]
    assert len(house.dropped) == 2


def test_a_log_line_without_a_call_reaches_all_clients_of_one_user(house: House) -> None:
    clients = [house.add("same"), house.add("same")]
    house.say(**LOG)
    assert [len(client.received) for client in clients] == [1, 1]


def test_a_list_change_reaches_everyone_with_a_call_or_without(house: House) -> None:
    one, other = house.add("one"), house.add("other")
    reply = house.ask(one)
    house.say(method="notifications/tools/list_changed")
    assert (len(reply.received), len(one.received), len(other.received)) == (1, 0, 1)


def test_a_resource_update_reaches_those_who_subscribed_to_it_and_nobody_else(house: House) -> None:
    one, other = house.add("one"), house.add("other")
    house.ask(one, "resources/subscribe", uri="a:1")
    house.answer()
    house.ask(other, "resources/subscribe", uri="a:2")
    house.answer()
    house.say(**UPDATED)
    assert (len(one.received), other.received) == (1, [])


def test_a_subscription_that_the_server_refused_brings_nothing(house: House) -> None:
    one, _ = house.add("one"), house.add("other")
    house.ask(one, "resources/subscribe", uri="a:1")
    house.answer(error={"code": -32602, "message": "no such resource"})
    house.say(**UPDATED)
    assert one.received == []


@pytest.mark.parametrize("uri", [[], {}, None, 1])
def test_a_subscription_to_what_is_no_uri_is_answered_too(house: House, uri: object) -> None:
    reply = house.ask(house.add("one"), "resources/subscribe", uri=uri)
    house.answer(error={"code": -32602, "message": "not a uri"})
    assert reply.answers[0]["error"]["code"] == -32602


def test_unsubscribing_takes_nothing_from_others_who_subscribed_to_the_same(house: House) -> None:
    one, other = house.add("one"), house.add("other")
    for client in (one, other):
        house.ask(client, "resources/subscribe", uri="a:1")
        house.answer()
    asked = len(house.sent)
    first = house.ask(one, "resources/unsubscribe", uri="a:1")
    assert first.answers == [{"jsonrpc": "2.0", "id": 1, "result": {}}]
    assert len(house.sent) == asked
    house.say(**UPDATED)
    assert (one.received, len(other.received)) == ([], 1)
    house.ask(other, "resources/unsubscribe", uri="a:1")
    assert house.sent[-1]["method"] == "resources/unsubscribe"


def test_the_last_subscriber_who_leaves_unsubscribes(house: House) -> None:
    one, other = house.add("one"), house.add("other")
    for client in (one, other):
        house.ask(client, "resources/subscribe", uri="a:1")
        house.answer()
    asked = len(house.sent)
    house.do(house.connection.leave(one))
    assert len(house.sent) == asked
    house.do(house.connection.leave(other))
    assert house.sent[-1]["method"] == "resources/unsubscribe"


def test_a_request_goes_to_the_caller_if_it_has_declared_that_it_answers_such(house: House) -> None:
    able = house.add("one", SAMPLING)
    reply = house.ask(able)
    assert house.sample() is None
    assert reply.received[0]["method"] == "sampling/createMessage"


def test_a_request_is_never_answered_by_one_who_can_when_it_is_anothers_who_cannot(house: House) -> None:
    unable, able = house.add("one"), house.add("other", SAMPLING)
    reply = house.ask(unable)
    refusal = house.sample()
    assert refusal is not None
    assert "error" in refusal
    assert [client.received for client in (unable, able, reply)] == [[], [], []]


def test_a_request_that_may_be_of_either_of_two_users_is_refused(house: House) -> None:
    one, other = house.add("one", SAMPLING), house.add("other", SAMPLING)
    assert house.sample() is not None
    replies = [house.ask(one), house.ask(other)]
    assert house.sample() is not None
    assert [client.received for client in (one, other, *replies)] == [[], [], [], []]


def test_among_one_users_clients_a_request_goes_to_an_able_one_the_last_that_called_or_spoke(house: House) -> None:
    first, second, unable = house.add("same", SAMPLING), house.add("same", SAMPLING), house.add("same")
    house.do(house.connection.notify(first, jsonrpc.notification("notifications/roots/list_changed", {})))
    assert house.sample() is None
    assert [len(client.received) for client in (first, second, unable)] == [1, 0, 0]
    replies = [house.ask(client) for client in (first, second, unable)]
    assert house.sample() is None
    assert [len(reply.received) for reply in replies] == [0, 1, 0]


def test_a_client_that_leaves_has_its_calls_cancelled_and_failed_and_others_keep_theirs(house: House) -> None:
    leaving, staying = house.add("same"), house.add("same")
    gone, kept = house.ask(leaving), house.ask(staying)
    house.do(house.connection.leave(leaving))
    assert house.sent[-1]["method"] == "notifications/cancelled"
    assert "error" in gone.answers[0]
    assert kept.answers == []


def test_what_is_asked_of_a_server_that_has_ended_fails_at_once(house: House) -> None:
    client = house.add("one")
    house.do(house.connection.close("exited with status 3"))
    assert house.ask(client).answers[0]["error"]["message"] == "the MCP server exited with status 3"
    assert house.connection.unanswered == 0


def test_one_who_answers_no_question_takes_nobody_elses_share_of_them(house: House) -> None:
    silent, other = house.add("one", SAMPLING), house.add("other", SAMPLING)
    house.ask(silent)
    assert not any(house.sample() for _ in range(1000))
    refused = house.sample()
    assert refused is not None
    assert "unanswered" in refused["error"]["message"]
    house.do(house.connection.leave(silent))
    house.ask(silent := house.add("one", SAMPLING))
    assert not any(house.sample() for _ in range(1000))
    house.say(id=house.sent[-1]["id"], result={})
    house.ask(other)
    assert house.sample() is None


def test_a_client_subscribes_to_no_more_than_a_bound_and_to_more_after_it_has_unsubscribed(house: House) -> None:
    one, other = house.add("one"), house.add("other")
    large = [f"a:{number}" + "x" * 200_000 for number in range(6)]
    for uri in large[:5]:
        house.ask(one, "resources/subscribe", uri=uri)
        house.answer()
    before = len(house.sent)
    (refused,) = house.ask(one, "resources/subscribe", uri=large[5]).answers
    assert "too many resources" in refused["error"]["message"]
    assert len(house.sent) == before
    # Again is no more, and what others have does not count.
    house.ask(one, "resources/subscribe", uri=large[0])
    house.ask(other, "resources/subscribe", uri=large[5])
    assert len(house.sent) == before + 2
    house.ask(one, "resources/unsubscribe", uri=large[0])
    house.ask(one, "resources/subscribe", uri=large[5])
    house.answer(error={"code": -32602, "message": "no such resource"})
    house.ask(one, "resources/subscribe", uri=large[0])
    assert len(house.sent) == before + 5
