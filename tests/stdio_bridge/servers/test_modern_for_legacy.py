"""A legacy client in front of a server that knows requests that stand alone, and nothing else."""

from __future__ import annotations

import contextlib
import http.client
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stdio_bridge.io.event_loop import Loop
from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.calls import CallOutcome, CallTimeouts
from stdio_bridge.servers.dispatcher import Dispatcher
from stdio_bridge.servers.modern_for_legacy import TRANSITIONS, EmulatedSession, State
from tests.stdio_bridge.modern_client import MODERN_SERVER, PREFIX, VERSION, Message, ModernClient
from tests.stdio_bridge.running import Bridge, rpc

CAPABILITIES = {"elicitation": {}, "sampling": {}, "roots": {"listChanged": True}}


class Session:
    """A legacy session that can hear while it is asked."""

    def __init__(self, bridge: Bridge, capabilities: Message, version: str = "2025-11-25", name: str = "old") -> None:
        self.bridge = bridge
        info = {"name": name, "version": "1"}
        params = {"protocolVersion": version, "capabilities": capabilities, "clientInfo": info}
        status, headers, content = bridge.request("POST", rpc("initialize", params))
        assert status == 200, content
        self.id = headers["mcp-session-id"]
        self.initialized: Message = json.loads(content)["result"]
        assert self.post({"jsonrpc": "2.0", "method": "notifications/initialized"}) == []

    def post(self, message: Message) -> list[Message]:
        _, _, content = self.bridge.request("POST", message, Mcp_Session_Id=self.id)
        if content.startswith(b"{"):
            return [json.loads(content)]
        return [json.loads(line[6:]) for line in content.splitlines() if line.startswith(b"data: {")]

    def call(self, tool: str, **params: Any) -> Message:
        return self.post(rpc("tools/call", {"name": tool, **params}))[-1]

    @contextlib.contextmanager
    def stream(self, method: str, message: Message | None = None) -> Iterator[Iterator[Message]]:
        headers = {"Accept": "application/json, text/event-stream", "Mcp-Session-Id": self.id}
        headers["Content-Type"] = "application/json"
        connection = http.client.HTTPConnection("127.0.0.1", self.bridge.port, timeout=60)
        connection.request(method, "/mcp", None if message is None else json.dumps(message).encode(), headers)
        response = connection.getresponse()
        yield (json.loads(line[6:]) for line in response if line.startswith(b"data: {"))
        response.close()
        connection.close()


def said(answer: Message) -> Any:
    return json.loads(answer["result"]["content"][0]["text"])


@pytest.fixture(scope="module", params=["auto", "modern"])
def bridge(request: pytest.FixtureRequest) -> Iterator[Bridge]:
    with Bridge("--no-identity", "--server-era", request.param, command=MODERN_SERVER) as running:
        yield running


@pytest.fixture
def session(bridge: Bridge) -> Session:
    return Session(bridge, CAPABILITIES)


def test_a_session_opens_with_what_discovery_tells(session: Session) -> None:
    assert session.initialized["protocolVersion"] == "2025-11-25"
    assert session.initialized["serverInfo"] == {"name": "era", "version": "7"}
    assert session.initialized["capabilities"]["tools"] == {"listChanged": True}
    assert "tasks" not in session.initialized["capabilities"]


def test_the_client_gets_the_revision_that_it_asks_for_or_the_latest_of_its_era(bridge: Bridge) -> None:
    assert Session(bridge, {}, "2024-11-05").initialized["protocolVersion"] == "2024-11-05"
    assert Session(bridge, {}, "2019-01-01").initialized["protocolVersion"] == "2025-11-25"


def test_each_request_carries_what_the_client_said_when_it_began(session: Session) -> None:
    meta = said(session.call("params", _meta={"own": 1}))["_meta"]
    assert meta.pop("own") == 1
    assert meta == {
        PREFIX + "protocolVersion": VERSION,
        PREFIX + "clientInfo": {"name": "old", "version": "1"},
        PREFIX + "clientCapabilities": CAPABILITIES,
        PREFIX + "logLevel": "info",
    }


def test_results_have_nothing_that_the_client_does_not_know(session: Session) -> None:
    (listed,) = session.post(rpc("tools/list", {}))
    assert listed["result"].keys() == {"tools"}


def test_ping_is_answered_and_a_log_level_is_kept(session: Session) -> None:
    assert session.post(rpc("ping", {})) == [{"jsonrpc": "2.0", "id": 1, "result": {}}]
    assert session.post(rpc("logging/setLevel", {"level": "error"}))[0]["result"] == {}
    assert said(session.call("params"))["_meta"][PREFIX + "logLevel"] == "error"
    assert session.post(rpc("logging/setLevel", {"level": "loud"}))[0]["error"]["code"] == -32602


def test_a_question_comes_on_the_stream_of_its_call_and_the_answer_finishes_it(session: Session) -> None:
    with session.stream("POST", rpc("tools/call", {"name": "ask"}, 5)) as messages:
        question = next(messages)
        assert question["method"] == "elicitation/create"
        session.post({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept"}})
        answer = next(messages)
    assert answer["id"] == 5
    assert said(answer) == [{"action": "accept"}]


def test_questions_of_several_rounds_and_several_at_once_are_all_asked(session: Session) -> None:
    for tool, expected in (("ask twice", 2), ("ask all", 3)):
        with session.stream("POST", rpc("tools/call", {"name": tool}, 5)) as messages:
            for number in range(expected):
                question = next(messages)
                session.post({"jsonrpc": "2.0", "id": question["id"], "result": {"n": number}})
            assert len(said(next(messages))) == expected


def test_an_error_of_the_client_cancels_an_elicitation_and_fails_a_sampling(session: Session) -> None:
    error = {"code": -1, "message": "no"}
    with session.stream("POST", rpc("tools/call", {"name": "ask"}, 5)) as messages:
        session.post({"jsonrpc": "2.0", "id": next(messages)["id"], "error": error})
        assert said(next(messages)) == [{"action": "cancel"}]
    with session.stream("POST", rpc("tools/call", {"name": "sample"}, 6)) as messages:
        session.post({"jsonrpc": "2.0", "id": next(messages)["id"], "error": error})
        assert "sampling/createMessage" in next(messages)["error"]["message"]


def test_a_client_that_cannot_be_asked_gets_a_clear_error(bridge: Bridge) -> None:
    answer = Session(bridge, {}).call("ask")
    assert "elicitation" in answer["error"]["message"]


def test_only_the_session_that_was_asked_can_answer(bridge: Bridge, session: Session) -> None:
    other = Session(bridge, CAPABILITIES)
    with session.stream("POST", rpc("tools/call", {"name": "ask"}, 5)) as messages:
        question = next(messages)
        other.post({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}})
        session.post({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept"}})
        assert said(next(messages)) == [{"action": "accept"}]


def test_a_call_that_waits_for_its_client_can_be_cancelled(session: Session) -> None:
    with session.stream("POST", rpc("tools/call", {"name": "ask"}, 5)) as messages:
        next(messages)
        session.post({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}})
        assert "cancelled" in next(messages)["error"]["message"]


def test_changes_and_watched_resources_come_on_the_get_stream(session: Session) -> None:
    assert session.post(rpc("resources/subscribe", {"uri": "file:///a"}))[0]["result"] == {}
    with session.stream("GET") as messages:
        session.call("change")
        brought = [next(messages), next(messages)]
        assert {message["method"] for message in brought} == {
            "notifications/tools/list_changed",
            "notifications/resources/updated",
        }
        assert all("_meta" not in message.get("params", {}) for message in brought)
        session.post(rpc("resources/unsubscribe", {"uri": "file:///a"}))
        session.call("change")
        assert next(messages)["method"] == "notifications/tools/list_changed"
        session.call("change")
        assert next(messages)["method"] == "notifications/tools/list_changed"


def test_codes_of_the_other_era_are_changed(session: Session) -> None:
    assert session.call("reserved")["error"]["code"] == -32603


@pytest.mark.parametrize("era", ["auto", "legacy"])
def test_a_legacy_servers_refusal_never_passes_for_a_modern_servers(era: str) -> None:
    refusing = (
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    request = json.loads(line)\n"
        "    code = -32022 if request['method'] == 'initialize' else -32601\n"
        "    error = {'code': code, 'message': 'not like this'}\n"
        "    print(json.dumps({'jsonrpc': '2.0', 'id': request['id'], 'error': error}), flush=True)\n"
    )
    with Bridge("--no-identity", "--server-era", era, command=(sys.executable, "-c", refusing)) as running:
        _, headers, content = running.request("POST", rpc("initialize", {"protocolVersion": "2025-11-25"}))
        assert json.loads(content)["error"] == {"code": -32603, "message": "not like this"}
        assert "mcp-session-id" not in headers
        assert running.stop() == 0


def test_a_server_of_no_version_that_the_bridge_knows_refuses_to_be_initialized() -> None:
    of_the_future = (
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    found = {'supportedVersions': ['2030-01-01'], 'capabilities': {}}\n"
        "    print(json.dumps({'jsonrpc': '2.0', 'id': json.loads(line)['id'], 'result': found}), flush=True)\n"
    )
    with Bridge("--no-identity", "--server-era", "modern", command=(sys.executable, "-c", of_the_future)) as running:
        _, headers, content = running.request("POST", rpc("initialize", {"protocolVersion": "2025-11-25"}))
        text = "the MCP server serves no version of MCP that the bridge knows"
        assert json.loads(content) == {"jsonrpc": "2.0", "id": 1, "error": {"code": -32603, "message": text}}
        assert "mcp-session-id" not in headers


def test_a_call_that_waits_for_its_client_fails_when_the_server_ends() -> None:
    with Bridge("--no-identity", "--server-era", "modern", command=MODERN_SERVER) as running:
        session = Session(running, CAPABILITIES)
        with session.stream("POST", rpc("tools/call", {"name": "ask"}, 5)) as messages:
            next(messages)
            session.post(rpc("tools/call", {"name": "die"}, 6))
            (ended,) = messages
        assert ended["id"] == 5
        assert "exited with status 4" in ended["error"]["message"]


def test_modern_clients_are_served_beside_it(bridge: Bridge, session: Session) -> None:
    assert ModernClient(bridge).call("pid").said != said(session.call("pid"))


@pytest.mark.parametrize("isolation", ["per-user", "shared"])
def test_sessions_that_share_a_process_each_speak_for_their_own_client(isolation: str) -> None:
    with Bridge("--no-identity", "--isolation", isolation, command=MODERN_SERVER) as bridge:
        mute, able = Session(bridge, {}, name="mute"), Session(bridge, CAPABILITIES, name="able")
        for session, name, capabilities in ((mute, "mute", {}), (able, "able", CAPABILITIES)):
            meta = said(session.call("params"))["_meta"]
            assert meta[PREFIX + "clientInfo"]["name"] == name
            assert meta[PREFIX + "clientCapabilities"] == capabilities
        assert "elicitation" in mute.call("ask")["error"]["message"]
        with able.stream("POST", rpc("tools/call", {"name": "ask"})) as events:
            assert next(events)["method"] == "elicitation/create"


def test_a_session_watches_no_more_resources_than_a_bound(session: Session) -> None:
    large = [f"a:{number}" + "x" * 400_000 for number in range(3)]
    answers = [session.post(rpc("resources/subscribe", {"uri": uri}))[0] for uri in large]
    assert ["error" in answer for answer in answers] == [False, False, True]
    session.post(rpc("resources/unsubscribe", {"uri": large[0]}))
    assert "result" in session.post(rpc("resources/subscribe", {"uri": large[2]}))[0]


class Listener:
    """A session and the reply to its one call, which does with each question as a test says."""

    def __init__(self) -> None:
        self.written: list[Message] = []
        self.said: list[Message] = []
        self.answers: list[Message] = []
        self.asked: Callable[[Message], None] = self.said.append
        self.loop = Loop()
        self.dispatcher = Dispatcher(
            self.written.append,
            loop=self.loop,
            timeouts=CallTimeouts(idle=60, total=60),
            note_dropped=lambda _: None,
            closed=lambda _: None,
        )
        initialize = rpc("initialize", {"capabilities": CAPABILITIES})
        self.session = EmulatedSession(
            self, self.dispatcher, self.loop, initialize=initialize, discovered={}, input_seconds=60
        )
        self.session.request(rpc("tools/call", {"name": "ask"}, 5), self)

    def receive(self, message: Message) -> None:
        raise AssertionError("it is about the call")

    def send(self, message: Message) -> None:
        self.asked(message)

    def finish(self, message: Message, outcome: CallOutcome | None = None) -> None:
        self.answers.append(message)

    def server_asks(self, *methods: str) -> None:
        requests = {f"q{number}": {"method": method, "params": {}} for number, method in enumerate(methods)}
        result = {"resultType": "input_required", "inputRequests": requests, "requestState": "s"}
        self.dispatcher.receive({"jsonrpc": "2.0", "id": self.written[-1]["id"], "result": result})


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.loop.close()


def test_a_call_whose_question_reaches_nobody_fails_and_is_not_sent_again(listener: Listener) -> None:
    listener.asked = lambda question: listener.session.unheard(question["id"], "nobody is there")
    listener.server_asks("elicitation/create", "elicitation/create")
    assert len(listener.written) == 1
    (answer,) = listener.answers
    assert (answer["id"], answer["error"]["message"]) == (5, "nobody is there")


def test_a_call_whose_client_has_gone_is_not_sent_again_with_nothing_but_its_state(listener: Listener) -> None:
    listener.session.lose(Listener())
    listener.server_asks()
    assert len(listener.written) == 2
    listener.session.lose(listener)
    listener.server_asks()
    assert len(listener.written) == 2
    assert listener.answers[0]["error"]["message"] == "the client has gone"


def test_a_call_is_sent_once_more_however_soon_its_questions_are_answered(listener: Listener) -> None:
    listener.asked = lambda question: listener.session.respond(jsonrpc.result(question["id"], {"n": 1}))
    listener.server_asks("sampling/createMessage", "elicitation/create")
    assert len(listener.written) == 2
    assert listener.written[1]["params"]["inputResponses"] == {"q0": {"n": 1}, "q1": {"n": 1}}
    assert listener.answers == []


def test_every_state_of_a_request_can_be_reached_and_left() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {State.AT_SERVER, *(following for row in TRANSITIONS.values() for following in row.values())} == set(State)
    assert TRANSITIONS[State.OVER] == {}


def test_a_call_of_a_client_that_has_gone_for_good_reaches_the_server_once(bridge: Bridge, session: Session) -> None:
    before = said(session.call("calls"))
    connection = http.client.HTTPConnection("127.0.0.1", bridge.port, timeout=60)
    headers = {"Accept": "application/json, text/event-stream", "Mcp-Session-Id": session.id}
    headers["Content-Type"] = "application/json"
    connection.request("POST", "/mcp", json.dumps(rpc("tools/call", {"name": "ask"}, 5)).encode(), headers)
    response = connection.getresponse()
    assert b"elicitation/create" in next(line for line in response if line.startswith(b"data: {"))
    response.close()
    connection.close()
    other = Session(bridge, CAPABILITIES)
    assert said(other.call("calls")) == 1
    assert said(session.call("calls")) == before + 2
