"""A modern client in front of a legacy server that asks it for something in the middle of a call."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stdio_bridge.servers.legacy_for_modern import TRANSITIONS, State
from tests.stdio_bridge.modern_client import ALL, LEGACY_SERVER, Answer, ModernClient
from tests.stdio_bridge.running import KEY, SCRIPTED, Bridge, assertion
from tests.stdio_bridge.test_faults import eventually

ACCEPT = {"action": "accept", "content": {"name": "Ada"}}


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    key = tmp_path_factory.mktemp("keys") / "key"
    key.write_text(KEY)
    with Bridge("--require-identity", str(key), command=LEGACY_SERVER) as running:
        yield running


@pytest.fixture
def client(bridge: Bridge) -> ModernClient:
    return ModernClient(bridge, ALL, X_Gateway_Identity=assertion("github:1"))


def answers_to(asked: Answer, response: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a retry adds to the request."""
    assert asked.result["resultType"] == "input_required"
    given = dict.fromkeys(asked.result["inputRequests"], response or ACCEPT)
    return {"inputResponses": given, "requestState": asked.result["requestState"]}


def refused(answer: Answer, word: str) -> bool:
    return (answer.status, answer.error["code"]) == (400, -32602) and word in answer.error["message"]


def test_a_question_reaches_the_client_and_its_retry_finishes_the_same_call(client: ModernClient) -> None:
    asked = client.call("ask")
    (question,) = asked.result["inputRequests"].values()
    assert question["method"] == "elicitation/create"
    assert question["params"]["message"] == "Name?"
    assert client.call("ask", **answers_to(asked)).said == [ACCEPT]


def test_questions_one_after_the_other_take_a_retry_each(client: ModernClient) -> None:
    first = client.call("ask twice")
    second = client.call("ask twice", **answers_to(first))
    assert second.result["requestState"] != first.result["requestState"]
    assert client.call("ask twice", **answers_to(second, {"action": "decline"})).said == [ACCEPT, {"action": "decline"}]


def test_questions_asked_together_may_be_answered_apart(client: ModernClient) -> None:
    asked = client.call("ask all")
    methods: list[str] = []
    while asked.result["resultType"] == "input_required":
        key, question = next(iter(asked.result["inputRequests"].items()))
        methods.append(question["method"])
        responses = {key: {"n": len(methods)}, "unknown": {}}
        asked = client.call("ask all", inputResponses=responses, requestState=asked.result["requestState"])
    assert methods == ["elicitation/create", "sampling/createMessage", "roots/list"]
    assert sorted(answer["n"] for answer in asked.said) == [1, 2, 3]


def test_a_retry_without_the_answer_is_asked_again(client: ModernClient) -> None:
    asked = client.call("ask")
    again = client.call("ask", requestState=asked.result["requestState"])
    assert again.result["inputRequests"] == asked.result["inputRequests"]
    assert client.call("ask", **answers_to(again)).said == [ACCEPT]


def test_a_prompt_can_ask_too(client: ModernClient) -> None:
    asked = client.request("prompts/get", {"name": "p"})
    retried = client.request("prompts/get", {"name": "p", **answers_to(asked)})
    assert retried.said == [ACCEPT]


def test_the_other_calls_of_the_user_go_on_while_one_is_suspended(client: ModernClient) -> None:
    asked = client.call("ask")
    assert client.call("pid").status == 200
    assert client.call("ask", **answers_to(asked)).said == [ACCEPT]


def test_two_suspended_calls_each_get_their_own_answer(client: ModernClient) -> None:
    first, second = client.call("ask"), client.call("ask")
    yes, no = {"action": "accept", "content": {"name": "first"}}, {"action": "decline"}
    assert client.call("ask", **answers_to(second, no)).said == [no]
    assert client.call("ask", **answers_to(first, yes)).said == [yes]


def test_a_state_is_good_once(client: ModernClient) -> None:
    retry = answers_to(client.call("ask"))
    assert client.call("ask", **retry).status == 200
    assert refused(client.call("ask", **retry), "used already")


@pytest.mark.parametrize("place", [0, 10, -10, -1])
def test_a_tampered_state_is_refused_and_spends_nothing(client: ModernClient, place: int) -> None:
    retry = answers_to(client.call("ask"))
    good = retry["requestState"]
    bad = [*good]
    bad[place] = "A" if bad[place] != "A" else "B"
    assert refused(client.call("ask", **retry | {"requestState": "".join(bad)}), "requestState")
    assert client.call("ask", **retry).said == [ACCEPT]


@pytest.mark.parametrize("state", ["", "x", "a.b", 5, None, {"a": 1}])
def test_what_was_never_a_state_is_refused(client: ModernClient, state: object) -> None:
    assert refused(client.call("ask", inputResponses={}, requestState=state), "requestState")


def test_a_state_is_its_users_alone(bridge: Bridge, client: ModernClient) -> None:
    retry = answers_to(client.call("ask"))
    other = ModernClient(bridge, ALL, X_Gateway_Identity=assertion("github:2"))
    assert refused(other.call("ask", **retry), "another request")
    assert client.call("ask", **retry).said == [ACCEPT]


def test_a_state_is_good_for_its_request_alone(client: ModernClient) -> None:
    retry = answers_to(client.call("ask"))
    assert refused(client.call("ask", {"other": "arguments"}, **retry), "another request")
    assert refused(client.call("ask twice", **retry), "another request")
    assert refused(client.request("prompts/get", {"name": "ask", **retry}), "another request")


@pytest.mark.parametrize("responses", [[], "x", {"key": "no object"}])
def test_responses_that_are_no_results_are_refused_and_spend_nothing(client: ModernClient, responses: object) -> None:
    retry = answers_to(client.call("ask"))
    assert refused(client.call("ask", **retry | {"inputResponses": responses}), "inputResponses")
    assert client.call("ask", **retry).said == [ACCEPT]


@pytest.mark.parametrize(
    ("tool", "declared", "missing"),
    [
        ("ask", {}, {"elicitation": {"form": {}}}),
        ("ask", {"elicitation": {"url": {}}}, {"elicitation": {"form": {}}}),
        ("sample", {"elicitation": {}}, {"sampling": {}}),
    ],
)
def test_what_the_client_has_not_declared_fails_the_call(
    bridge: Bridge, tool: str, declared: dict[str, Any], missing: dict[str, Any]
) -> None:
    client = ModernClient(bridge, declared, X_Gateway_Identity=assertion("github:1"))
    answer = client.call(tool)
    assert (answer.status, answer.error["code"]) == (400, -32021)
    assert answer.error["data"] == {"requiredCapabilities": missing}
    assert "notifications/cancelled" in client.call("seen").said


def test_a_server_is_initialized_with_what_the_client_declares(bridge: Bridge, client: ModernClient) -> None:
    info = {"name": "it", "version": "9"}
    other = ModernClient(bridge, {"sampling": {}}, X_Gateway_Identity=assertion("github:7"))
    seen = other.call("initialize", meta={"io.modelcontextprotocol/clientInfo": info}).said
    assert seen["capabilities"] == {"sampling": {}}
    assert seen["clientInfo"] == info
    assert client.call("initialize").said["capabilities"] == ALL


def test_the_server_sees_no_metadata_of_the_other_era(client: ModernClient) -> None:
    seen = client.call("params", meta={"traceparent": "00-1-2-01"}).said
    assert seen == {"name": "params", "arguments": {}, "_meta": {"traceparent": "00-1-2-01"}}


def test_a_link_to_visit_first_becomes_a_question_and_the_retry_a_new_call(bridge: Bridge) -> None:
    client = ModernClient(bridge, {"elicitation": {"url": {}}}, X_Gateway_Identity=assertion("github:3"))
    asked = client.call("link").result
    (question,) = asked["inputRequests"].values()
    assert question["params"] == {"mode": "url", "url": "https://example.com/", "message": "Visit"}
    assert "requestState" not in asked
    accepted = {key: {"action": "accept"} for key in asked["inputRequests"]}
    assert client.call("link", inputResponses=accepted).said == "linked"


def test_codes_that_mean_something_else_now_are_changed(client: ModernClient) -> None:
    assert client.call("reserved").error["code"] == -32603
    assert client.request("resources/read", {"uri": "x:y"}).error["code"] == -32602


def test_a_call_that_nobody_comes_back_for_is_cancelled(tmp_path: Path) -> None:
    with Bridge("--no-identity", "--input-timeout", "0.2", command=LEGACY_SERVER) as running:
        client = ModernClient(running, ALL)
        retry = answers_to(client.call("ask"))
        deadline = time.monotonic() + 60
        while "notifications/cancelled" not in client.call("seen").said:
            assert time.monotonic() < deadline
        assert refused(client.call("ask", **retry), "expired")


def test_a_crash_while_suspended_is_told_to_the_retry(client: ModernClient) -> None:
    retry = answers_to(client.call("ask"))
    client.call("die")
    assert "exited with status 4" in client.call("ask", **retry).error["message"]


def test_sigterm_waits_for_no_suspended_call_and_ends_subscriptions_well() -> None:
    with Bridge("--no-identity", "--drain-timeout", "100", command=LEGACY_SERVER) as running:
        client = ModernClient(running, ALL)
        client.call("ask")
        with client.stream("subscriptions/listen", {"notifications": {"toolsListChanged": True}}) as messages:
            next(messages)
            running.process.terminate()
            ended = next(messages)
        assert ended["id"] == 7
        assert ended["result"]["_meta"] == {"io.modelcontextprotocol/subscriptionId": 7}
        assert running.stop() == 0


def test_a_question_that_the_server_did_not_wait_for_is_answered_and_keeps_no_process() -> None:
    with Bridge("--no-identity", "--idle-timeout", "1", command=SCRIPTED) as running:
        client = ModernClient(running, ALL)
        question = {"id": 900, "method": "elicitation/create", "params": {"message": "Name?"}}
        asked = client.call("do", {"steps": [{"say": question}, {"wait": "notifications/go"}]})
        client.call("do", {"steps": [{"release": "notifications/go"}]})
        retry = client.call("do", {"steps": [{"say": question}, {"wait": "notifications/go"}]}, **answers_to(asked))
        assert retry.result["content"]
        eventually(lambda: running.children() == [])


def test_every_state_of_a_call_can_be_reached_and_left() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {State.NEW, *(following for row in TRANSITIONS.values() for following in row.values())} == set(State)
    assert TRANSITIONS[State.OVER] == {}
