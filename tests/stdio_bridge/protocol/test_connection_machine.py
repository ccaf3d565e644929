"""Any order of what clients and a server do to a connection keeps its promises; so does any use of an event stream."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.calls import CallOutcome
from stdio_bridge.protocol.event_stream import EventStream, parse_event_id
from stdio_bridge.protocol.framing import sse_event
from stdio_bridge.protocol.jsonrpc import InvalidMessage
from tests.stdio_bridge.recording_peer import Peers

Message = dict[str, Any]

IDS = st.one_of(st.integers(0, 3), st.sampled_from(["a", "1"]))
NAMES = st.sampled_from(["notifications/message", "notifications/tools/list_changed", "something/else"])
# What may stand where a token or an id should: those in use too, since the connection counts from 1.
ANYTHING = st.one_of(st.none(), st.booleans(), st.integers(-1, 12), st.floats(allow_nan=False), st.text(max_size=3))
NOISE = st.recursive(
    ANYTHING,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["jsonrpc", "id", "method", "params", "result", "error", "_meta", "progressToken", "x"]),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=8,
)
ALMOST = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0")},
    optional={
        "id": ANYTHING,
        "method": st.one_of(
            NAMES, st.sampled_from(["ping", "notifications/progress", "notifications/cancelled", "roots/list"])
        ),
        "params": st.one_of(
            ANYTHING,
            st.fixed_dictionaries({}, optional={"progressToken": ANYTHING, "requestId": ANYTHING, "_meta": NOISE}),
        ),
        "result": NOISE,
        "error": NOISE,
    },
)


@dataclass(eq=False)
class Client:
    """A client that remembers what it was told apart from its calls."""

    received: list[Message] = field(default_factory=list)
    gone: bool = False

    def receive(self, message: Message) -> None:
        assert not self.gone, "a client that has left hears nothing"
        self.received.append(message)


@dataclass(eq=False)
class Call:
    """A call, and where its answer goes."""

    client: Client
    request_id: int | str
    token: int | str | None
    secret: int
    said: list[Message] = field(default_factory=list)
    answers: list[Message] = field(default_factory=list)

    def send(self, message: Message) -> None:
        assert not self.answers, "nothing comes after the answer"
        self.said.append(message)

    def finish(self, message: Message, outcome: CallOutcome | None = None) -> None:
        self.answers.append(message)


class ConnectionMachine(RuleBasedStateMachine):
    """Clients that call, cancel, answer and leave; a server that answers, asks, reports, and talks nonsense."""

    clients = Bundle("clients")

    @initialize(target=clients)
    def begin(self) -> Client:
        self.sent: list[Message] = []
        self.calls: list[Call] = []
        self.by_wire_id: dict[int, Call] = {}
        self.asked_by_server: list[int] = []
        self.asked_in_nonsense: list[object] = []
        self.now = 0.0
        self.ended = False
        self.peers = Peers(self.write)
        self.connection = self.peers.connection
        client = Client()
        self.connection.join(client)
        return client

    def write(self, message: Message) -> None:
        assert not self.ended, "nothing is written to a server that has ended"
        jsonrpc.kind_of(message)
        self.sent.append(message)

    @rule(target=clients)
    def join(self) -> Client:
        client = Client()
        self.connection.join(client)
        return client

    @rule(client=clients, request_id=IDS, token=st.none() | IDS)
    def call(self, client: Client, request_id: int | str, token: int | str | None) -> None:
        call = Call(client, request_id, token, secret=len(self.calls))
        self.calls.append(call)
        params: Message = {"secret": call.secret} | ({} if token is None else {"_meta": {"progressToken": token}})
        message = {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}
        self.peers.request(client, message, call, self.now)
        passed_on = self.sent[-1]
        assert passed_on["params"]["secret"] == call.secret
        assert passed_on["id"] not in self.by_wire_id
        self.by_wire_id[passed_on["id"]] = call

    @rule(client=clients, request_id=IDS)
    def cancel(self, client: Client, request_id: int | str) -> None:
        before = {id(call) for call in self.calls if call.answers}
        self.peers.do(
            self.connection.notify(client, jsonrpc.notification("notifications/cancelled", {"requestId": request_id}))
        )
        for call in self.calls:
            if call.answers and id(call) not in before:
                assert (call.client, call.request_id) == (client, request_id)

    @rule(client=consumes(clients))
    def leave(self, client: Client) -> None:
        self.peers.do(self.connection.leave(client))
        client.gone = True
        assert all(call.answers for call in self.calls if call.client is client)

    @precondition(lambda self: self.by_wire_id)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        wire_id = data.draw(st.sampled_from(sorted(self.by_wire_id)))
        call = self.by_wire_id[wire_id]
        others = [len(other.answers) for other in self.calls if other is not call]
        answered_before = bool(call.answers)
        self.peers.do(
            self.connection.receive({"jsonrpc": "2.0", "id": wire_id, "result": {"secret": call.secret}}, self.now)
        )
        assert [len(other.answers) for other in self.calls if other is not call] == others
        if not answered_before:
            assert call.answers == [{"jsonrpc": "2.0", "id": call.request_id, "result": {"secret": call.secret}}]

    @precondition(lambda self: self.by_wire_id)
    @rule(data=st.data())
    def report(self, data: st.DataObject) -> None:
        wire_id = data.draw(st.sampled_from(sorted(self.by_wire_id)))
        call = self.by_wire_id[wire_id]
        heard = [len(other.said) for other in self.calls if other is not call]
        expected = len(call.said) + (call.token is not None and not call.answers)
        params = {"progressToken": wire_id, "progress": 1}
        self.peers.do(self.connection.receive(jsonrpc.notification("notifications/progress", params), self.now))
        assert [len(other.said) for other in self.calls if other is not call] == heard
        assert len(call.said) == expected
        if call.said and call.said[-1]["method"] == "notifications/progress":
            assert call.said[-1]["params"]["progressToken"] == call.token

    @rule(name=NAMES, as_request=st.booleans())
    def speak(self, name: str, as_request: bool) -> None:
        message = jsonrpc.notification(name, {})
        if as_request:
            self.asked_by_server.append(1000 + len(self.asked_by_server))
            message["id"] = self.asked_by_server[-1]
        self.peers.do(self.connection.receive(message, self.now))

    @rule(client=clients, data=st.data())
    def respond(self, client: Client, data: st.DataObject) -> None:
        mine = [call.said for call in self.calls if call.client is client]
        asked = [message["id"] for said in [client.received, *mine] for message in said if "id" in message]
        wire_id = data.draw(st.sampled_from(asked) if asked else ANYTHING)
        before = len(self.sent)
        self.peers.do(self.connection.respond(client, {"jsonrpc": "2.0", "id": wire_id, "result": {}}))
        for message in self.sent[before:]:
            assert message["id"] in [*self.asked_by_server, *self.asked_in_nonsense]

    @rule(message=NOISE | ALMOST)
    def talk_nonsense(self, message: Any) -> None:
        if isinstance(message, dict) and "method" in message:
            self.asked_in_nonsense.append(message.get("id"))
        try:
            self.peers.do(self.connection.receive(message, self.now))
        except InvalidMessage:
            return
        # It was a message then; if it answered a call, that call has its answer.
        if message.get("id") in self.by_wire_id and "method" not in message and type(message["id"]) is int:
            assert self.by_wire_id[message["id"]].answers

    @rule(seconds=st.floats(0, 12))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.peers.expire(self.now)

    @invariant()
    def every_call_has_at_most_one_answer_and_it_is_its_own(self) -> None:
        for call in self.calls:
            assert len(call.answers) <= 1
            for answer in call.answers:
                assert answer["id"] == call.request_id

    @invariant()
    def the_calls_in_flight_are_those_without_an_answer(self) -> None:
        assert self.connection.in_flight == sum(not call.answers for call in self.calls)

    @invariant()
    def the_server_answered_every_question_at_most_once(self) -> None:
        answered = [message["id"] for message in self.sent if "method" not in message]
        known = [number for number in answered if number in self.asked_by_server]
        assert len(known) == len(set(known))

    def teardown(self) -> None:
        self.ended = True
        self.peers.do(self.connection.close("exited with status 1"))
        assert all(len(call.answers) == 1 for call in self.calls)
        assert self.connection.in_flight == 0


TestConnection = ConnectionMachine.TestCase
TestConnection.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


class Wire:
    """A connection that keeps what it was sent."""

    def __init__(self) -> None:
        self.data = b""
        self.finished = False

    def write(self, data: bytes) -> None:
        assert not self.finished, "nothing comes after the end"
        self.data += data

    def finish(self) -> None:
        self.finished = True

    def events(self) -> list[tuple[int, Any]]:
        """Read what was sent, as a client does."""
        events = []
        for event in self.data.decode().split("\n\n")[:-1]:
            fields = dict(line.split(": ", 1) for line in event.split("\n"))
            parsed = parse_event_id(fields["id"])
            assert parsed is not None
            if fields["data"]:
                events.append((parsed[1], json.loads(fields["data"])["n"]))
        return events


@given(
    st.lists(st.sampled_from(["add", "lose", "resume", "take over"]), max_size=60),
    st.integers(100, 2000),
)
def test_a_client_that_resumes_misses_only_what_the_bound_dropped_and_gets_nothing_twice(
    doings: list[str], max_bytes: int
) -> None:
    stream = EventStream(number=1, max_bytes=max_bytes)
    wires = [Wire()]
    stream.attach(wires[0])
    added = 0
    got: list[int] = []
    for doing in [*doings, "lose", "resume"]:
        if doing == "add":
            stream.add({"n": added})
            added += 1
        elif doing == "lose":
            stream.detach(wires[-1])
        else:
            got += [n for _, n in wires[-1].events()]
            wires.append(Wire())
            stream.attach(wires[-1], after=got[-1] if got else -1)
            # Whatever the bound has left is all there.
            if wires[-1].data:
                assert [n for _, n in wires[-1].events()][-1] == added - 1
    got += [n for _, n in wires[-1].events()]
    assert got == sorted(set(got))
    assert all(len(wire.data) <= max_bytes + 100 * len(doings) for wire in wires)
    if sum(len(sse_event(jsonrpc.encode({"n": n}), f"1-{n}")) for n in range(added)) <= max_bytes:
        assert got == list(range(added))


@pytest.mark.parametrize("lost_before_end", [True, False])
def test_a_stream_that_has_ended_can_be_read_to_its_end_once_more(lost_before_end: bool) -> None:
    stream, first, again = EventStream(number=1, max_bytes=1000), Wire(), Wire()
    stream.attach(first)
    stream.add({"n": 0})
    if lost_before_end:
        stream.detach(first)
    stream.add({"n": 1})
    stream.end()
    stream.attach(again, after=0)
    assert again.finished
    assert again.events() == [(1, 1)]
