"""Quotas of calls, in front of servers and for clients of both eras, and the ways round them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stdio_bridge.clients.policy import Access, Policy
from stdio_bridge.clients.quotas import Quotas
from stdio_bridge.http.identity import Identity
from stdio_bridge.protocol.errors import HttpError
from stdio_bridge.protocol.policy import ResourceRules, Rule, Rules
from stdio_bridge.protocol.quotas import Quota
from tests.stdio_bridge.modern_client import ALL, MODERN_SERVER, ModernClient
from tests.stdio_bridge.running import KEY, Bridge, rpc
from tests.stdio_bridge.user_client import Client, Said

Message = dict[str, Any]

OFFERED = {"tools": ["look", "make_a", "make_b", "seen"], "prompts": ["hello"], "resources": ["memo://a/1"]}
QUOTAS = {
    "calls-per-minute": 6,
    "tools": {"rules": {"make_*": {"calls-per-minute": 2}, "secret": {"scopes": ["s"], "calls-per-minute": 1}}},
    "prompts": {"rules": {"hello": {"calls-per-minute": 1}}},
    "resources": {"rules": {"memo://a/*": {"calls-per-minute": 1}}},
}


@pytest.fixture(scope="module", params=["legacy server", "modern server"])
def bridge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    folder: Path = tmp_path_factory.mktemp("quotas")
    (folder / "key").write_text(KEY)
    (folder / "bridge.json").write_text(json.dumps({**QUOTAS, "require-identity": str(folder / "key")}))
    options = ("--config", str(folder / "bridge.json"), "--isolation", "shared", "--drain-timeout", "0.1")
    server = str(Path(__file__).parents[1] / "offering_server.py")
    with Bridge(*options, command=(sys.executable, server, request.param.split()[0], json.dumps(OFFERED))) as running:
        yield running


@pytest.fixture(params=["legacy client", "modern client"])
def era(request: pytest.FixtureRequest) -> str:
    return str(request.param.split()[0])


@pytest.fixture
def user(request: pytest.FixtureRequest) -> str:
    """A user for each test, as the bridge is shared."""
    return str(request.node.name)


def reached(bridge: Bridge) -> list[Message]:
    """What has reached the server, asked by a user who has quotas of its own."""
    said = Client(bridge, "modern", user=f"asks {next(NUMBERS)}").call("seen").message
    told: list[Message] = json.loads(said["result"]["content"][0]["text"])
    return [each for each in told if each["params"].get("name") != "seen"]


NUMBERS = iter(range(10**6))


def assert_over(said: Said, limit: str, request_id: object) -> None:
    assert said.status == 429
    seconds = int(said.headers["retry-after"])
    assert 1 <= seconds <= 60
    assert said.message == {
        "jsonrpc": "2.0",
        "id": request_id,
        "error": {
            "code": -32000,
            "message": f"over quota: the limit of calls to {limit} per minute and user; try again in {seconds} s",
        },
    }


def test_a_call_over_the_quota_of_the_server_is_429_and_says_when_to_try_again(
    bridge: Bridge, era: str, user: str
) -> None:
    client = Client(bridge, era, user=user)
    for _ in range(6):
        assert client.call("look").status == 200
    before = reached(bridge)
    for said in (client.call("look"), client.send("prompts/get", {"name": "other"})):
        assert_over(said, "this server is 6", 1 if era == "legacy" else 7)
    assert reached(bridge) == before
    assert Client(bridge, era, user=f"{user} 2").call("look").status == 200


def test_clients_and_sessions_of_one_user_share_its_quota(bridge: Bridge, user: str) -> None:
    for era in ("legacy", "modern"):
        for _ in range(3):
            assert Client(bridge, era, user=user).call("look").status == 200
    assert Client(bridge, "legacy", user=user).call("look").status == 429
    assert Client(bridge, "modern", user=user).call("look").status == 429


def test_a_pattern_counts_all_that_it_matches_together(bridge: Bridge, era: str, user: str) -> None:
    client = Client(bridge, era, user=user)
    assert [client.call(name).status for name in ("make_a", "make_b", "make_c", "look")] == [200, 200, 429, 200]
    assert_over(client.call("make_a"), "tools that match make_* is 2", 1 if era == "legacy" else 7)


def test_prompts_and_resources_have_quotas_too(bridge: Bridge, era: str, user: str) -> None:
    client = Client(bridge, era, user=user)
    for method, params, limit in (
        ("prompts/get", {"name": "hello"}, "prompt hello is 1"),
        ("resources/read", {"uri": "memo://a/1"}, "resources that match memo://a/* is 1"),
    ):
        assert "result" in client.send(method, params).message
        assert_over(client.send(method, params), limit, 1 if era == "legacy" else 7)
    # Another spelling of what the same rule decides about.
    assert client.send("resources/read", {"uri": "MEMO://a/1"}).status == 429


def test_only_calls_count(bridge: Bridge, era: str, user: str) -> None:
    client = Client(bridge, era, user=user)
    for _ in range(8):
        assert client.names("tools/list", "tools", "name")
        assert "result" in client.send("acme/status").message
    if era == "legacy":
        for _ in range(8):
            assert "result" in client.send("ping").message
            note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 99}}
            assert client.post(note).status == 202
            assert client.send("resources/subscribe", {"uri": "memo://a/1"}).status == 200
    assert [client.call("look").status for _ in range(7)] == [200] * 6 + [429]


def test_what_is_refused_for_another_reason_does_not_count(bridge: Bridge, era: str, user: str) -> None:
    client = Client(bridge, era, user=user)
    for _ in range(8):
        assert "error" in client.call("secret").message
    client.set_scopes("read", "s")
    for _ in range(8):
        assert client.call("secret").status == 403
    client.set_scopes("read s")
    assert [client.call("secret").status for _ in range(2)] == [200, 429]
    # A missing scope is said before a quota.
    client.set_scopes("read", "s")
    assert client.call("secret").status == 403


def test_what_belongs_to_a_task_does_not_count(bridge: Bridge, user: str) -> None:
    client = Client(bridge, "legacy", user=user)
    assert client.send("tools/call", {"name": "make_a", "task": {"ttl": 1000}}).status == 200
    for _ in range(8):
        assert "result" in client.send("tasks/get", {"taskId": "task of make_a"}).message
        assert "result" in client.send("tasks/result", {"taskId": "task of make_a"}).message
    assert client.send("tools/call", {"name": "make_b", "task": {"ttl": 1000}}).status == 200
    assert client.send("tools/call", {"name": "make_a", "task": {"ttl": 1000}}).status == 429


@pytest.mark.parametrize("name", ["Tools/Call", " tools/call", "TOOLS/CALL "])
def test_another_spelling_of_a_method_gets_round_no_quota(name: str) -> None:
    access = access_of(calls_per_minute=1)
    access.admit([rpc(name, {"name": "x"})])
    with pytest.raises(HttpError, match="this server is 1"):
        access.admit([rpc("tools/call", {"name": "x"})])


# Batches


def batch_client(bridge: Bridge, user: str) -> Client:
    client = Client(bridge, "legacy", user=user)
    client.headers["Mcp_Session_Id"] = bridge.initialize("2025-03-26", **client.identity("read", ""))
    return client


def calls(*names: str) -> list[Message]:
    return [rpc("tools/call", {"name": name}, number) for number, name in enumerate(names)]


def test_a_batch_of_which_a_part_is_over_a_quota_reaches_the_server_in_no_part_and_does_not_count(
    bridge: Bridge, user: str
) -> None:
    client = batch_client(bridge, user)
    assert client.post(calls("make_a")).status == 200
    before = reached(bridge)
    assert_over(client.post(calls("look", "make_a", "make_b")), "tools that match make_* is 2", 0)
    assert reached(bridge) == before
    assert client.post(calls("look", "make_b", "look", "look", "look")).status == 200
    assert_over(client.post(calls("look")), "this server is 6", 0)


def test_a_batch_that_no_minute_has_room_for_is_not_told_to_come_back(bridge: Bridge, user: str) -> None:
    client = batch_client(bridge, user)
    said = client.post(calls(*["look"] * 7))
    assert (said.status, said.message["error"]["code"], "retry-after" in said.headers) == (400, -32600, False)
    assert (
        said.message["error"]["message"]
        == "the batch is too large: the limit of calls to this server is 6 per minute and user"
    )
    assert client.post(calls(*["look"] * 6)).status == 200


def test_what_a_batch_is_refused_of_does_not_count(bridge: Bridge, user: str) -> None:
    client = batch_client(bridge, user)
    for _ in range(3):
        answers = client.post(calls("secret", "make_a")).messages if _ < 2 else client.post(calls("secret")).messages
        assert answers[0]["error"]["message"] == "Unknown tool: secret"
    assert client.post(calls("make_a")).status == 429


# Calls that wait for input


@pytest.fixture(params=["legacy server", "modern server"])
def asking(request: pytest.FixtureRequest) -> Iterator[ModernClient]:
    server = (*MODERN_SERVER[:-1], request.param.split()[0])
    with Bridge("--no-identity", "--calls-per-minute", "2", command=server) as bridge:
        yield ModernClient(bridge, ALL)


def ask(client: ModernClient, state: object = None, **arguments: object) -> Message:
    params: Message = {"name": "ask twice", "arguments": arguments}
    if state is not None:
        params |= {"requestState": state, "inputResponses": {}}
    return client.request("tools/call", params).last


def answered(client: ModernClient, message: Message) -> Message:
    """Answer what was asked, and return what is said then."""
    given = {key: {"action": "accept", "content": {}} for key in message["result"]["inputRequests"]}
    state = message["result"]["requestState"]
    params = {"name": "ask twice", "arguments": {}, "requestState": state, "inputResponses": given}
    return client.request("tools/call", params).last


def test_a_call_that_is_repeated_with_what_the_server_asked_for_is_one_call(asking: ModernClient) -> None:
    for _ in range(2):
        first = ask(asking)
        second = answered(asking, first)
        assert second["result"]["resultType"] == "input_required"
        assert answered(asking, second)["result"]["resultType"] == "complete"
    assert "over quota" in ask(asking)["error"]["message"]


def test_a_retry_that_the_server_has_not_asked_for_is_a_call(asking: ModernClient) -> None:
    said = [ask(asking, state=json.dumps([number])) for number in range(3)]
    assert "over quota" in said[2]["error"]["message"]
    assert all("over quota" not in each.get("error", {}).get("message", "") for each in said[:2])


# With a clock that stands still


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def access_of(
    *,
    calls_per_minute: int | None = None,
    tools: dict[str, Rule] | None = None,
    resources: dict[str, Rule] | None = None,
    clock: Callable[[], float] = lambda: 1000.0,
) -> Access:
    policy = Policy(
        tools=None if tools is None else Rules(default=Rule(), rules=tools),
        prompts=None,
        resources=None if resources is None else ResourceRules(default=Rule(), rules=resources),
        quotas=Quotas(calls_per_minute=calls_per_minute, clock=clock),
        clock=clock,
    )
    return policy.access_of(Identity(user="u"))


def test_the_time_that_is_told_is_the_time_after_which_a_call_passes() -> None:
    clock = Clock()
    access = access_of(calls_per_minute=1, clock=clock)
    access.admit(calls("x"))
    clock.now += 12.3
    with pytest.raises(HttpError, match="try again in 48 s") as refused:
        access.admit(calls("x"))
    assert refused.value.status == "429 Too Many Requests"
    assert refused.value.headers == (("Retry-After", "48"),)
    clock.now += 47
    with pytest.raises(HttpError, match="try again in 1 s"):
        access.admit(calls("x"))
    clock.now += 1
    access.admit(calls("x"))


def test_a_repetition_is_free_once_for_each_answer_and_only_with_the_same_arguments() -> None:
    access = access_of(calls_per_minute=1)
    call = rpc("tools/call", {"name": "ask", "arguments": {"a": 1, "b": 2}})
    asked = {"jsonrpc": "2.0", "id": 1, "result": {"resultType": "input_required", "requestState": "s"}}
    access.admit([call])
    access.answered(call, asked)

    def refused(by: Access, *messages: Message) -> None:
        with pytest.raises(HttpError, match="over quota"):
            by.admit(messages)

    def retry(arguments: Message, *, name: str = "ask", **more: object) -> Message:
        return rpc("tools/call", {"name": name, "arguments": arguments, "inputResponses": {}, **more})

    same = {"b": 2, "a": 1}
    for other in ({"a": 1, "b": 3}, {"a": 1}, {}):
        refused(access, retry(other, requestState="s"))
    refused(access, retry(same, requestState="s", name="other"))
    # The state is the server's own: the bridge only knows which one it has given.
    for state in ("t", None, ["s"]):
        refused(access, retry(same, requestState=state))
    refused(access, retry(same))
    refused(access, call)
    other_user = access.policy.access_of(Identity(user="v"))
    other_user.admit([call])
    refused(other_user, retry(same, requestState="s"))
    refused(access, retry(same, requestState="s"), retry(same, requestState="s"))
    access.admit([retry(same, requestState="s")])
    refused(access, retry(same, requestState="s"))


def test_a_repetition_of_a_call_whose_answer_has_no_state_needs_none() -> None:
    access = access_of(calls_per_minute=1)
    call = rpc("tools/call", {"name": "ask"})
    access.admit([call])
    access.answered(call, {"jsonrpc": "2.0", "id": 1, "result": {"resultType": "input_required"}})
    access.admit([rpc("tools/call", {"name": "ask", "inputResponses": {}})])
    with pytest.raises(HttpError, match="over quota"):
        access.admit([rpc("tools/call", {"name": "ask", "inputResponses": {}})])


def test_an_answer_that_asks_nothing_frees_no_repetition() -> None:
    access = access_of(calls_per_minute=1)
    call = rpc("tools/call", {"name": "ask", "requestState": "s"})
    access.admit([call])
    for result in ({}, {"resultType": "complete"}, {"resultType": ["input_required"]}):
        access.answered(call, {"jsonrpc": "2.0", "id": 1, "result": result})
    with pytest.raises(HttpError, match="over quota"):
        access.admit([call])


@pytest.mark.parametrize("bound", ["_MAX_REPETITIONS", "_MAX_REPETITIONS_PER_USER"])
def test_repetitions_that_are_expected_are_bounded(monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    monkeypatch.setattr(f"stdio_bridge.clients.quotas.{bound}", 2)
    access = access_of(calls_per_minute=3)
    asked = {"jsonrpc": "2.0", "id": 1, "result": {"resultType": "input_required"}}
    asking = [rpc("tools/call", {"name": name, "inputResponses": {}}) for name in "abc"]
    for call in asking:
        access.admit([call])
        access.answered(call, asked)
    access.admit([asking[1], asking[2]])
    with pytest.raises(HttpError, match="over quota"):
        access.admit([asking[0]])


def test_one_user_does_not_push_out_what_another_may_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stdio_bridge.clients.quotas._MAX_REPETITIONS", 3)
    access = access_of(calls_per_minute=1)
    asked = {"jsonrpc": "2.0", "id": 1, "result": {"resultType": "input_required"}}
    call = rpc("tools/call", {"name": "ask", "inputResponses": {}})
    access.admit([call])
    access.answered(call, asked)
    other_user = access.policy.access_of(Identity(user="v"))
    for name in "abcdef":
        other_user.answered(rpc("tools/call", {"name": name}), asked)
    access.admit([call])
    with pytest.raises(HttpError, match="over quota"):
        access.admit([call])


def test_a_resource_that_two_rules_decide_about_counts_for_both_and_once_for_one() -> None:
    as_written, normal = (Quota(name=name, calls_per_minute=2) for name in ("as written", "normal form"))
    access = access_of(resources={"memo://a/%*": Rule(quota=as_written), "memo://a/*": Rule(quota=normal)})
    access.admit([rpc("resources/read", {"uri": "memo://a/%31"})])
    access.admit([rpc("resources/read", {"uri": "memo://a/1"})])
    with pytest.raises(HttpError, match="normal form is 2"):
        access.admit([rpc("resources/read", {"uri": "memo://a/1"})])


def test_without_a_quota_nothing_is_kept() -> None:
    access = access_of(tools={"x": Rule(scopes=frozenset())})
    for _ in range(100):
        access.admit(calls("x", "y"))
    assert len(access.policy.quotas.rates) == 0
