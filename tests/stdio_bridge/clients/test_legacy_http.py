"""Sessions of the legacy era over HTTP: what a server says while a call runs, and how streams end and are resumed."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.stdio_bridge.modern_client import ModernClient
from tests.stdio_bridge.running import KEY, SCRIPTED, Bridge, EventReader, assertion, rpc, signed
from tests.stdio_bridge.test_faults import eventually, metric

Step = dict[str, Any]
LOG: Step = {"notify": "notifications/message", "params": {"level": "info", "data": "working"}}
CHANGED: Step = {"notify": "notifications/tools/list_changed"}


@pytest.fixture(scope="module")
def bridge() -> Iterator[Bridge]:
    with Bridge(
        "--no-identity", "--max-sessions-per-user", "100", "--drain-timeout", "0.1", command=SCRIPTED
    ) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    key: Path = tmp_path_factory.mktemp("key") / "key"
    key.write_text(KEY)
    with Bridge("--require-identity", str(key), "--drain-timeout", "0.1", command=SCRIPTED) as running:
        yield running


class Session:
    """One session, and calls in it."""

    def __init__(self, bridge: Bridge, version: str = "2025-06-18", **headers: str) -> None:
        self._bridge = bridge
        self._headers = {"Mcp_Session_Id": bridge.initialize(version, **headers), **headers}

    def post(self, message: object) -> tuple[int, dict[str, str], bytes]:
        return self._bridge.request("POST", message, **self._headers)

    def get(self, last_event_id: str) -> tuple[int, dict[str, str], bytes]:
        return self._bridge.request("GET", **self._headers, Last_Event_ID=last_event_id)

    def call(self, *steps: Step, request_id: int | str = 1, token: str | None = None) -> list[Any]:
        """Make a call, and return what came: all messages, the answer last."""
        status, headers, content = self.post(call(*steps, request_id=request_id, token=token))
        assert status == 200, content
        if headers["content-type"] == "application/json":
            return [json.loads(content)]
        return [json.loads(line[6:]) for line in content.splitlines() if line.startswith(b"data: {")]

    def stream(self, *steps: Step, token: str | None = None) -> EventReader:
        return EventReader(self._bridge, "POST", call(*steps, token=token), **self._headers)

    def leave(self, *steps: Step) -> None:
        """Make a call with a progress token, and disconnect once it is under way."""
        connection = http.client.HTTPConnection("127.0.0.1", self._bridge.port, timeout=60)
        headers = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
        headers |= {name.replace("_", "-"): value for name, value in self._headers.items()}
        connection.request("POST", "/mcp", json.dumps(call(*steps, token="t")).encode(), headers)
        eventually(lambda: metric(self._bridge, "mcp_bridge_calls_in_flight") == 1)
        connection.close()

    def listen(self, last_event_id: str | None = None) -> EventReader:
        resumed = {} if last_event_id is None else {"Last_Event_ID": last_event_id}
        return EventReader(self._bridge, "GET", **self._headers, **resumed)


def call(*steps: Step, request_id: int | str = 1, token: str | None = None) -> dict[str, Any]:
    params: dict[str, Any] = {"name": "do", "arguments": {"steps": list(steps)}}
    if token is not None:
        params["_meta"] = {"progressToken": token}
    return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}


def brought(answer: Any) -> Any:
    """Return what the steps of a call brought."""
    return json.loads(answer["result"]["content"][0]["text"])


def notification(method: str, **params: object) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, "params": params}


# While a call runs


def test_progress_a_log_line_and_a_changed_list_come_before_the_answer_in_order(bridge: Bridge) -> None:
    *said, answer = Session(bridge).call({"progress": 1}, LOG, CHANGED, {"progress": 2}, token="mine")
    assert [message["method"] for message in said] == [
        "notifications/progress",
        "notifications/message",
        "notifications/tools/list_changed",
        "notifications/progress",
    ]
    assert [said[0]["params"], said[3]["params"]] == [
        {"progressToken": "mine", "progress": 1},
        {"progressToken": "mine", "progress": 2},
    ]
    assert answer["id"] == 1


@pytest.mark.parametrize("method", ["sampling/createMessage", "elicitation/create", "roots/list"])
def test_a_server_asks_in_the_middle_of_a_call_and_goes_on_with_the_answer(bridge: Bridge, method: str) -> None:
    session = Session(bridge)
    stream = session.stream({"ask": method, "params": {"why": "?"}}, LOG)
    asked = stream.next()
    assert (asked["method"], asked["params"]) == (method, {"why": "?"})
    assert session.post({"jsonrpc": "2.0", "id": asked["id"], "result": {"it": "is"}})[0] == 202
    *_, answer = stream.rest()
    assert brought(answer) == [{"result": {"it": "is"}}]


def test_a_client_that_refuses_what_it_is_asked_is_heard_too(bridge: Bridge) -> None:
    session = Session(bridge)
    stream = session.stream({"ask": "roots/list"})
    asked = stream.next()
    refusal = {"code": -32601, "message": "no roots here"}
    session.post({"jsonrpc": "2.0", "id": asked["id"], "error": refusal})
    assert brought(stream.rest()[-1]) == [{"error": refusal}]


def test_what_belongs_to_no_one_call_waits_for_the_get_stream(bridge: Bridge) -> None:
    session = Session(bridge)
    stream = session.stream({"progress": 1}, {"wait": "go"}, token="t")
    stream.next()
    session.call(CHANGED, {"release": "go"}, request_id="while two calls run")
    assert [message.get("method") for message in stream.rest()] == [None]
    listening = session.listen()
    assert listening.next()["method"] == "notifications/tools/list_changed"
    listening.close()


def test_two_calls_with_one_id_at_once_each_get_their_own_answer(bridge: Bridge) -> None:
    session = Session(bridge)
    first = session.stream({"progress": 1}, {"wait": "go"}, {"progress": 11}, token="t")
    assert first.next()["params"]["progress"] == 1
    second = session.stream({"progress": 2}, {"release": "go"}, {"progress": 22}, token="t")
    for stream, reports in ((second, [2, 22]), (first, [11])):
        *progress, answer = stream.rest()
        assert [report["params"] for report in progress] == [{"progressToken": "t", "progress": n} for n in reports]
        assert answer["id"] == 1


def test_a_cancelled_call_is_answered_and_the_server_hears_of_it_by_its_own_id(bridge: Bridge) -> None:
    session = Session(bridge)
    stream = session.stream(LOG, {"wait": "never"})
    stream.next()
    session.post(notification("notifications/cancelled", requestId=1, reason="enough"))
    (answer,) = stream.rest()
    assert (answer["id"], "error" in answer) == (1, True)
    heard = brought(session.call({"heard": True}, request_id=2)[-1])[0]
    (cancelled,) = [note for note in heard if note["method"] == "notifications/cancelled"]
    assert cancelled["params"]["reason"] == "enough"


def test_a_client_that_goes_away_cancels_nothing(bridge: Bridge) -> None:
    session = Session(bridge)
    stream = session.stream(LOG, {"wait": "the end"})
    stream.next()
    stream.close()
    heard = brought(session.call({"release": "the end"}, {"heard": True}, request_id=2)[-1])[0]
    assert [note["method"] for note in heard] == []


def test_what_a_client_is_asked_after_it_left_its_call_reaches_it_on_the_get_stream(bridge: Bridge) -> None:
    session = Session(bridge)
    # It leaves before there is a stream that it could resume.
    session.leave({"wait": "notifications/roots/list_changed"}, {"progress": 1}, LOG, {"ask": "elicitation/create"})
    listening = session.listen()
    assert session.post(notification("notifications/roots/list_changed"))[0] == 202
    assert listening.next()["method"] == "notifications/message"
    asked = listening.next()
    assert asked["method"] == "elicitation/create"
    assert session.post({"jsonrpc": "2.0", "id": asked["id"], "result": {}})[0] == 202
    # The answer of a call goes to no other stream than the call's, and here there is none.
    session.post(notification("notifications/roots/list_changed"))
    assert len(session.call(CHANGED, request_id=3)) == 2
    listening.close()


@pytest.mark.parametrize("method", ["tools/call", "Tools/Call", "ping", "Notifications/cancelled", ""])
@pytest.mark.parametrize("is_batch", [False, True])
def test_a_request_without_an_id_does_not_reach_the_server(bridge: Bridge, method: str, is_batch: bool) -> None:
    session = Session(bridge, "2025-03-26")
    body = notification(method, name="do", arguments={"steps": []})
    status, _, content = session.post([call(), body] if is_batch else body)
    assert (status, json.loads(content)["error"]["code"]) == (400, -32600)
    assert session.post(notification("notifications/anything"))[0] == 202
    heard = brought(session.call({"heard": True})[-1])[0]
    assert [note["method"] for note in heard] == ["notifications/anything"]


# Batches


def test_a_batch_of_2025_03_26_is_answered_on_one_stream(bridge: Bridge) -> None:
    session = Session(bridge, "2025-03-26")
    batch = [call(LOG, request_id="a"), notification("notifications/initialized"), call(request_id="b")]
    status, headers, content = session.post(batch)
    assert (status, headers["content-type"]) == (200, "text/event-stream")
    messages = [json.loads(line[6:]) for line in content.splitlines() if line.startswith(b"data: {")]
    assert sorted(message["id"] for message in messages if "id" in message) == ["a", "b"]


def test_a_batch_without_requests_is_accepted_without_a_body(bridge: Bridge) -> None:
    session = Session(bridge, "2025-03-26")
    assert session.post([notification("notifications/initialized")])[::2] == (202, b"")


@pytest.mark.parametrize("version", ["2024-11-05", "2025-06-18", "2025-11-25"])
def test_any_other_revision_has_no_batches(bridge: Bridge, version: str) -> None:
    status, _, content = Session(bridge, version).post([call(), call(request_id=2)])
    assert status == 400
    assert "2025-03-26" in json.loads(content)["error"]["message"]


# Resuming


def test_a_lost_stream_goes_on_after_the_last_event_seen_and_brings_no_other_streams_events(bridge: Bridge) -> None:
    session = Session(bridge)
    other = session.stream({"progress": 1}, {"wait": "other"}, token="other")
    other.next()
    lost = session.stream({"progress": 1}, {"progress": 2}, {"wait": "mine"}, token="mine")
    lost.next()
    seen = lost.last_id
    lost.close()
    session.call({"release": "mine"}, request_id=3)
    resumed = session.listen(seen)
    events = resumed.rest()
    assert [event["params"]["progress"] for event in events[:-1]] == [2]
    assert {event["params"]["progressToken"] for event in events[:-1]} == {"mine"}
    assert events[-1]["id"] == 1
    session.call({"release": "other"}, request_id=4)
    assert [message["id"] for message in other.rest()] == [1]


def test_a_client_of_2025_11_25_can_resume_before_the_first_message(bridge: Bridge) -> None:
    session = Session(bridge, "2025-11-25")
    stream = session.stream({"progress": 1}, {"wait": "later"}, token="t")
    stream.next()
    first = str(stream.last_id).partition("-")[0] + "-0"
    stream.close()
    session.call({"release": "later"}, request_id=2)
    assert [event.get("method") for event in session.listen(first).rest()] == ["notifications/progress", None]


def test_streams_that_have_ended_are_kept_within_a_bound_the_last_to_end_the_longest(bridge: Bridge) -> None:
    session = Session(bridge)
    longest = session.stream({"progress": 1}, {"wait": "notifications/end"}, token="t")
    longest.next()
    longest.close()
    shorter = []
    for number in range(6):
        stream = session.stream({"progress": 1}, {"flood": 16, "bytes": 64_000}, token=f"{number}")
        stream.rest()
        shorter.append(str(stream.last_id))
    session.post(notification("notifications/end"))
    eventually(lambda: metric(bridge, "mcp_bridge_calls_in_flight") == 0)
    # It began first, and yet what it brought in the end is there.
    assert session.listen(longest.last_id).rest()[-1]["id"] == 1
    assert session.listen(shorter[-1]).rest() == []
    status, _, content = session.get(shorter[0])
    assert (status, "names no stream" in content.decode()) == (400, True)


@pytest.mark.parametrize("event_id", ["99-0", "nonsense", "-1", "0"])
def test_resuming_from_an_event_that_never_was_is_refused(bridge: Bridge, event_id: str) -> None:
    session = bridge.initialize()
    headers = {"Mcp_Session_Id": session, "Last_Event_ID": event_id}
    status, _, content = bridge.request("GET", **headers)
    assert status == 400
    assert "Last-Event-ID" in json.loads(content)["error"]["message"]


def test_an_event_id_of_one_session_opens_nothing_in_another(bridge: Bridge) -> None:
    mine = Session(bridge)
    stream = mine.stream({"progress": 1}, token="t")
    stream.rest()
    other = bridge.initialize()
    assert bridge.request("GET", Mcp_Session_Id=other, Last_Event_ID=str(stream.last_id))[0] == 400


# How a stream ends


def test_a_stream_ends_when_its_token_expires_and_a_later_tokens_stream_lives_on(guarded: Bridge) -> None:
    session = guarded.initialize(X_Gateway_Identity=assertion("github:1"))
    short = EventReader(guarded, "GET", Mcp_Session_Id=session, X_Gateway_Identity=assertion("github:1", seconds=1))
    body = call({"progress": 1}, {"wait": "never"}, token="t")
    long = EventReader(guarded, "POST", body, Mcp_Session_Id=session, X_Gateway_Identity=assertion("github:1"))
    assert short.rest() == []
    assert long.next()["method"] == "notifications/progress"
    guarded.request(
        "POST",
        call({"release": "never"}, request_id=2),
        Mcp_Session_Id=session,
        X_Gateway_Identity=assertion("github:1"),
    )
    assert [message["id"] for message in long.rest()] == [1]


@pytest.mark.parametrize(("version", "told"), [("2025-06-18", False), ("2025-11-25", True)])
def test_who_loses_a_stream_with_the_token_is_told_when_to_come_back(guarded: Bridge, version: str, told: bool) -> None:
    identity = assertion("github:1", seconds=1)
    session = guarded.initialize(version, X_Gateway_Identity=identity)
    _, _, content = guarded.request("GET", Mcp_Session_Id=session, X_Gateway_Identity=identity)
    assert content.endswith(b"retry: 1000\n\n") == told


def test_a_call_that_is_not_yet_a_stream_outlives_its_token(guarded: Bridge) -> None:
    identity = assertion("github:1", seconds=1)
    session = guarded.initialize(X_Gateway_Identity=identity)
    waiting = EventReader(guarded, "GET", Mcp_Session_Id=session, X_Gateway_Identity=identity)
    with ThreadPoolExecutor() as pool:
        body = call({"wait": "release"})
        called = pool.submit(guarded.request, "POST", body, Mcp_Session_Id=session, X_Gateway_Identity=identity)
        assert waiting.rest() == []
        eventually(lambda: metric(guarded, "mcp_bridge_calls_in_flight") == 1)
        later = assertion("github:1")
        release = call({"release": "release"}, request_id=2)
        guarded.request("POST", release, Mcp_Session_Id=session, X_Gateway_Identity=later)
        status, _, content = called.result()
    assert status == 200
    assert json.loads(content)["id"] == 1


def test_a_call_that_is_not_yet_a_stream_ends_with_its_grant(guarded: Bridge) -> None:
    identity = assertion("github:1", "one")
    session = guarded.initialize(X_Gateway_Identity=identity)
    stream = EventReader(guarded, "GET", Mcp_Session_Id=session, X_Gateway_Identity=identity)
    with ThreadPoolExecutor() as pool:
        body = call({"wait": "never"})
        called = pool.submit(guarded.request, "POST", body, Mcp_Session_Id=session, X_Gateway_Identity=identity)
        eventually(lambda: metric(guarded, "mcp_bridge_calls_in_flight") == 1)
        assert guarded.request("POST", signed("revocation", {"sid": "one"}).encode(), path="/revocations")[0] == 204
        status, headers, content = called.result()
    assert status == 401, "so that the client logs in again"
    assert 'error="invalid_token"' in headers["www-authenticate"]
    assert "revoked" in json.loads(content)["error"]["message"]
    assert stream.rest() == []


def test_a_revocation_ends_the_grants_streams_and_no_other_grants(guarded: Bridge) -> None:
    streams = {}
    for grant in ("one", "two"):
        identity = assertion("github:1", grant)
        session = guarded.initialize(X_Gateway_Identity=identity)
        body = call({"progress": 1}, {"wait": grant}, token="t")
        streams[grant] = EventReader(guarded, "POST", body, Mcp_Session_Id=session, X_Gateway_Identity=identity)
        assert streams[grant].next()["method"] == "notifications/progress"
    revocation = signed("revocation", {"sid": "one"}).encode()
    assert guarded.request("POST", revocation, path="/revocations")[0] == 204
    assert streams["one"].rest() == []
    assert guarded.request("POST", signed("revocation", {"sid": "two"}).encode(), path="/revocations")[0] == 204
    assert streams["two"].rest() == []


def test_a_new_get_stream_takes_the_place_of_the_old_one(bridge: Bridge) -> None:
    session = Session(bridge)
    old = session.listen()
    new = session.listen()
    assert old.rest() == []
    new.close()


def test_a_client_that_reads_nothing_is_dropped_and_another_one_is_served_meanwhile() -> None:
    with Bridge(
        "--no-identity", "--max-message-bytes", "100000", "--drain-timeout", "0.1", command=SCRIPTED
    ) as running:
        stuck = Session(running).stream({"progress": 1}, {"flood": 300, "bytes": 90_000}, token="t")
        stuck.next()
        assert brought(Session(running).call()[-1]) == []
        running.wait_for_line("dropped a client")
        stuck.close()


def test_a_question_that_no_client_came_to_hear_is_refused_when_it_gives_way_to_others(bridge: Bridge) -> None:
    session = Session(bridge)
    session.leave({"wait": "notifications/roots/list_changed"}, {"ask": "elicitation/create"}, {"release": "answered"})
    session.post(notification("notifications/roots/list_changed"))
    # While there are two calls these are for the GET stream, too.
    news = [{"notify": "notifications/message", "params": {"level": "info", "data": "x" * 300_000}}] * 4
    assert len(session.call(*news, {"wait": "answered"}, request_id=2)) == 1


def test_params_that_are_null_are_no_params(bridge: Bridge) -> None:
    session = Session(bridge)
    assert session.post({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": None})[0] == 200
    assert session.post({"jsonrpc": "2.0", "method": "notifications/roots/list_changed", "params": None})[0] == 202
    heard = brought(session.call({"heard": True})[-1])[0]
    assert {"method": "notifications/roots/list_changed"} in heard
    assert session.post({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []})[0] == 400
    asked = session.stream({"say": {"method": "notifications/message", "params": None}}, {"progress": 1}, token="t")
    assert asked.next() == {"jsonrpc": "2.0", "method": "notifications/message"}
    asked.rest()


TOOLS = [
    {"name": "a", "inputSchema": {}},
    {"name": "b", "inputSchema": {}, "execution": {"taskSupport": "optional"}},
    {"name": "c", "inputSchema": {}, "execution": {"taskSupport": "required"}},
]


@pytest.mark.parametrize(("capabilities", "names"), [({}, ["a", "b"]), ({"tasks": {}}, ["a", "b", "c"])])
def test_tools_that_need_a_task_are_listed_for_clients_that_have_declared_tasks(
    bridge: Bridge, capabilities: dict[str, Any], names: list[str]
) -> None:
    info = {"name": "t", "version": "1"}
    params = {"protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": info, "tools": TOOLS}
    status, headers, content = bridge.request("POST", rpc("initialize", params))
    assert status == 200, content
    session = headers["mcp-session-id"]
    content = bridge.request("POST", rpc("tools/list", {}), Mcp_Session_Id=session)[2]
    assert [tool["name"] for tool in json.loads(content)["result"]["tools"]] == names


def test_tools_that_need_a_task_are_not_listed_for_modern_clients() -> None:
    with Bridge("--no-identity", "--server-era", "legacy", command=SCRIPTED) as bridge:
        answer = ModernClient(bridge).request("tools/list", {"tools": TOOLS})
        assert [tool["name"] for tool in answer.result["tools"]] == ["a", "b"]
