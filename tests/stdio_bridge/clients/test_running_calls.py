"""The limit of unanswered calls of one user: it is reached by each call that begins, and left by each way to end."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stdio_bridge.modern_client import ALL, LEGACY_SERVER, MODERN_SERVER, ModernClient
from tests.stdio_bridge.running import KEY, Bridge, rpc, signed
from tests.stdio_bridge.user_client import Client, Said

Message = dict[str, Any]

LIMIT = "the limit of unanswered calls to this server is 2 per user"


def bridge_of(server: str, folder: Path, *options: str) -> Bridge:
    (folder / "key").write_text(KEY)
    command = LEGACY_SERVER if server.startswith("legacy") else MODERN_SERVER
    own = ("--require-identity", str(folder / "key"), "--max-calls-per-user", "2", "--drain-timeout", "0.1")
    return Bridge(*own, *options, command=command)


@pytest.fixture(scope="module", params=["legacy server", "modern server"])
def bridge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    with bridge_of(request.param, tmp_path_factory.mktemp("running")) as running:
        yield running


@pytest.fixture(params=["legacy client", "modern client"])
def client(bridge: Bridge, request: pytest.FixtureRequest) -> Client:
    return Client(bridge, str(request.param.split()[0]), user=str(request.node.name))


class Posted:
    """A request that has been sent, and whose answer is read later or never."""

    def __init__(self, client: Client, body: Message | list[Message]) -> None:
        headers = {**client.headers}
        if client.era == "modern":
            assert isinstance(body, dict)
            body = client.modern.message(body["method"], body["params"])
            headers |= client.modern.headers_for(body)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        common = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
        self._connection = http.client.HTTPConnection("127.0.0.1", client.bridge.port, timeout=60)
        self._connection.request("POST", "/mcp", json.dumps(body).encode(), common | given)

    def read(self) -> tuple[int, bytes]:
        response = self._connection.getresponse()
        with contextlib.closing(self._connection):
            return response.status, response.read()

    def leave(self) -> None:
        self._connection.close()


def call(name: str, number: int = 1, **more: object) -> Message:
    return rpc("tools/call", {"name": name, **more}, number)


def until(client: Client, status: int, body: Message | list[Message] | None = None) -> Said:
    """Call until the answer is of that status: what is told on another connection comes when it comes."""
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        said = client.call("pid") if body is None else client.post(body)
        if said.status == status:
            return said
    raise AssertionError(f"no answer was {status}")


@pytest.fixture
def hanging(client: Client) -> Iterator[list[Posted]]:
    """Two calls that the server does not answer."""
    calls = [Posted(client, call("hang", number)) for number in (11, 12)]
    until(client, 429)
    yield calls
    for each in calls:
        each.leave()


def test_a_call_over_the_limit_is_429_and_reaches_no_server(client: Client, hanging: list[Posted]) -> None:
    said = client.call("calls")
    assert said.status == 429
    assert said.headers["retry-after"] == "5"
    assert said.message["error"] == {
        "code": -32000,
        "message": f"too many calls: {LIMIT}; try again when one has been answered",
    }
    # Nothing else is a call, and other users have a limit of their own.
    assert "result" in client.send("tools/list").message
    assert Client(client.bridge, client.era, user=f"other than {client.user}").call("pid").status == 200
    # It holds for both eras together.
    other_era = {"legacy": "modern", "modern": "legacy"}[client.era]
    assert Client(client.bridge, other_era, user=client.user).call("pid").status == 429


def test_answers_and_errors_make_room(client: Client) -> None:
    for _ in range(4):
        assert client.call("pid").status == 200
        assert "error" in client.send("resources/read", {"uri": "memo://none"}).message
        assert "error" in client.call("reserved").message


def test_a_call_that_is_cancelled_makes_room(client: Client, hanging: list[Posted]) -> None:
    if client.era == "modern":
        hanging[0].leave()
    else:
        note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 11}}
        assert client.post(note).status == 202
    until(client, 200)


def test_a_server_that_ends_makes_room(bridge: Bridge, client: Client) -> None:
    other = Client(bridge, client.era, user=client.user)
    hanging = Posted(other, call("hang", 11))
    dying = Posted(other, call("die", 12))
    assert dying.read()[0] in (200, 404)
    hanging.read()
    until(Client(bridge, client.era, user=client.user), 200)
    for _ in range(3):
        assert client.call("pid").status in (200, 404)


def test_the_end_of_a_session_makes_room(bridge: Bridge) -> None:
    user = "ends its session"
    ending, other = Client(bridge, "legacy", user=user), Client(bridge, "legacy", user=user)
    hanging = [Posted(ending, call("hang", number)) for number in (11, 12)]
    until(other, 429)
    assert bridge.request("DELETE", **ending.headers)[0] == 204
    until(other, 200)
    assert other.call("pid").status == 200
    for each in hanging:
        each.leave()


def test_a_legacy_client_that_leaves_makes_no_room_until_the_server_has_answered(bridge: Bridge) -> None:
    client = Client(bridge, "legacy", user="leaves")
    for number in (11, 12):
        Posted(client, call("hang", number)).leave()
    # That is no cancellation: the server goes on.
    until(client, 429)
    assert client.call("pid").status == 429


def test_a_revoked_grant_makes_room_where_that_ends_the_call(bridge: Bridge) -> None:
    client = Client(bridge, "modern", user="revoked")
    hanging = [Posted(client, call("hang", number)) for number in (11, 12)]
    until(client, 429)
    notice = signed("revocation", {"sid": "g"})
    assert bridge.request("POST", notice.encode(), path="/revocations")[0] == 204
    assert [each.read()[0] for each in hanging] == [401, 401]
    until(client, 200)


def test_a_call_whose_time_is_up_makes_room(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    for server in ("legacy", "modern"):
        with bridge_of(server, tmp_path, "--call-timeout", "2") as bridge:
            clients = [Client(bridge, era, user=era) for era in ("legacy", "modern")]
            said = [[Posted(client, call("hang", number)) for number in (11, 12, 13)] for client in clients]
            for client, calls in zip(clients, said, strict=True):
                assert sorted(each.read()[0] for each in calls)[:2] == [200, 200]
                until(client, 200)


def test_a_call_that_waits_for_its_client_is_not_running_and_its_retry_is(bridge: Bridge) -> None:
    user = Client(bridge, "modern", user="asked")
    modern = ModernClient(bridge, ALL, **user.headers)
    asked = [modern.call("ask").result for _ in range(4)]
    assert {each["resultType"] for each in asked} == {"input_required"}
    hanging = [Posted(user, call("hang", number)) for number in (11, 12)]
    until(user, 429)
    given = {key: {"action": "accept", "content": {}} for key in asked[0]["inputRequests"]}
    retry = {"name": "ask", "arguments": {}, "requestState": asked[0]["requestState"], "inputResponses": given}
    assert modern.request("tools/call", retry).status == 429
    for each in hanging:
        each.leave()
    until(user, 200)
    # The state has not been used up by the refusal.
    assert modern.request("tools/call", retry).result["resultType"] == "complete"


def test_a_batch_counts_what_it_passes_on(bridge: Bridge) -> None:
    client = Client(bridge, "legacy", user="batches")
    client.headers["Mcp_Session_Id"] = bridge.initialize("2025-03-26", **client.identity("read", ""))
    said = client.post([call("pid", number) for number in (1, 2, 3)])
    assert (said.status, "retry-after" in said.headers) == (400, False)
    assert said.message["error"]["message"] == f"the batch is too large: {LIMIT}"
    assert client.post([call("pid", 1), call("pid", 2), rpc("tools/list", {}, 3)]).status == 200
    hanging = Posted(client, call("hang", 11))
    other = Client(bridge, "legacy", user="batches")
    until(client, 429, [call("pid", 1), call("pid", 2)])
    assert client.post([call("pid", 1), rpc("tools/list", {}, 3)]).status == 200
    assert other.call("pid").status == 200
    hanging.leave()


def test_what_is_refused_for_another_reason_takes_no_room(tmp_path: Path) -> None:
    (tmp_path / "bridge.json").write_text(json.dumps({"tools": {"rules": {"hang": {"deny": True}}}}))
    with bridge_of("legacy", tmp_path, "--config", str(tmp_path / "bridge.json")) as bridge:
        client = Client(bridge, "legacy")
        client.headers["Mcp_Session_Id"] = bridge.initialize("2025-03-26", **client.identity("read", ""))
        for _ in range(3):
            assert "error" in client.call("hang").message
            answers = client.post([call("pid", 1), *[call("hang", number) for number in range(2, 9)], call("pid", 9)])
            assert (answers.status, len(answers.messages)) == (200, 9)


def test_with_no_identity_all_clients_are_one_user() -> None:
    options = ("--no-identity", "--max-calls-per-user", "1", "--drain-timeout", "0.1")
    with Bridge(*options, command=LEGACY_SERVER) as bridge:
        first, second = (Client(bridge, "legacy", user=user) for user in "ab")
        hanging = Posted(first, call("hang", 11))
        until(second, 429)
        hanging.leave()
