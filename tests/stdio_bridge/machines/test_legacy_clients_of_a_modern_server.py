"""Any order of what legacy sessions and a modern server do keeps what the bridge promises to both."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from stdio_bridge.protocol import jsonrpc
from tests.stdio_bridge.machines.simulation import (
    CALL_SECONDS_IN_ALL,
    INPUT_SECONDS,
    RARELY,
    Answer,
    Process,
    Simulation,
    SimulationMachine,
)
from tests.stdio_bridge.modern_client import ALL, PREFIX, VERSION
from tests.stdio_bridge.protocol.test_connection_machine import ALMOST, NOISE

Message = dict[str, Any]

USERS = ("ada", "bob")
DECLARED: tuple[Message, ...] = (ALL, ALL, ALL, {})
METHODS = ("tools/call", "tools/call", "prompts/get", "resources/list")
QUESTIONS = ("elicitation/create", "sampling/createMessage", "roots/list")
URIS = ("a:1", "a:2")
# More than half of what a stream keeps for a client that is not connected.
LARGE = 700_000
DISCOVERED = {
    "supportedVersions": [VERSION],
    "capabilities": {"tools": {"listChanged": True}, "resources": {"subscribe": True}},
}


@dataclass(eq=False)
class Session:
    """A client's session, with every response that it has got in it."""

    name: str
    user: str
    declared: Message
    id: str
    answers: list[Answer] = field(default_factory=list)
    streams: list[Answer] = field(default_factory=list)
    ended: bool = False
    large: int = 0


@dataclass(eq=False)
class Call:
    """A client's call, and each time that the bridge has put it to the server: once, and once for each question."""

    number: int
    session: Session
    token: object
    answer: Answer | None = None
    resumed: list[Answer] = field(default_factory=list)
    process: Process | None = None
    puts: list[Any] = field(default_factory=list)
    expected_state: str | None = None
    wanted: dict[str, str] = field(default_factory=dict)
    asked: int = 0
    done: bool = False

    @property
    def responses(self) -> list[Answer]:
        """Every response that the client has had to it: the one to its POST, and those that resumed it."""
        assert self.answer is not None
        return [self.answer, *self.resumed]

    @property
    def outcomes(self) -> list[Message]:
        """Each outcome once, also if the client has resumed from before it."""
        found = [outcome for answer in self.responses for outcome in answer.outcomes]
        return [outcome for position, outcome in enumerate(found) if outcome not in found[:position]]


@dataclass(eq=False)
class State:
    """What a process knows of the requests that it got."""

    calls: dict[Any, Call] = field(default_factory=dict)
    listens: dict[Any, tuple[str, Message]] = field(default_factory=dict)
    answered: set[Any] = field(default_factory=set)
    cancelled: set[Any] = field(default_factory=set)
    disturbed: set[Any] = field(default_factory=set)
    nonsense: list[object] = field(default_factory=list)

    def is_open(self, wire_id: object) -> bool:
        return wire_id not in self.answered | self.cancelled


def position(event: str) -> int:
    """Return the place of an event in its stream, from its id."""
    return int(event.partition("-")[2])


class LegacyForModernMachine(SimulationMachine):
    """Sessions that call, answer, cancel, watch, lose and resume streams; a server that asks by its results."""

    @initialize(
        isolation=st.sampled_from(["per-session", "per-user", "shared"]),
        users=st.lists(st.sampled_from(USERS), min_size=1, max_size=3),
        asking=st.booleans(),
        ending=st.sampled_from(["sessions end", "clients leave", "processes die", "the bridge stops"]),
    )
    def begin(self, isolation: str, users: list[str], ending: str, *, asking: bool) -> None:
        self.ending = ending
        self.states: dict[Process, State] = {}
        self.sessions: list[Session] = []
        self.calls: list[Call] = []
        self.revoked: set[Answer] = set()
        self.given: dict[str, Message] = {}
        self.counter = itertools.count(1)
        self.simulation = Simulation("--server-era", "modern", "--isolation", isolation, react=self.hear)
        for user in users:
            self.open_session(user, ALL, "2025-11-25")
            if asking:
                self.call_in(self.sessions[-1], "tools/call", None, [["elicitation/create"]], respond=False)

    # What the server does by itself

    def hear(self, process: Process, message: Message) -> None:
        state = self.states.setdefault(process, State())
        kind = jsonrpc.kind_of(message)
        if kind is jsonrpc.Kind.RESPONSE:
            # A modern server asks nothing by a request of its own; what it says in nonsense may be refused.
            assert "error" in message or message["result"] == {}
            assert message["id"] in state.nonsense
        elif kind is jsonrpc.Kind.NOTIFICATION:
            assert message["method"] == "notifications/cancelled"
            wire_id = message["params"]["requestId"]
            assert wire_id in state.calls or wire_id in state.listens
            assert wire_id not in state.cancelled
            state.cancelled.add(wire_id)
        else:
            self.hear_request(process, state, message)

    def hear_request(self, process: Process, state: State, message: Message) -> None:
        wire_id, params = message["id"], message["params"]
        assert wire_id not in state.calls
        assert wire_id not in state.listens
        meta = params["_meta"]
        assert meta[PREFIX + "protocolVersion"] == VERSION
        if message["method"] == "server/discover":
            process.say(jsonrpc.result(wire_id, DISCOVERED))
            return
        name = meta[PREFIX + "clientInfo"]["name"]
        if message["method"] == "subscriptions/listen":
            state.listens[wire_id] = name, params["notifications"]
            acknowledged = {"_meta": {PREFIX + "subscriptionId": wire_id}, "notifications": params["notifications"]}
            process.say(jsonrpc.notification("notifications/subscriptions/acknowledged", acknowledged))
            return
        call = self.calls[params["number"]]
        assert name == call.session.name
        assert meta[PREFIX + "clientCapabilities"] == call.session.declared
        self.check_put(call, params)
        call.process = process
        call.puts.append(wire_id)
        state.calls[wire_id] = call

    def check_put(self, call: Call, params: Message) -> None:
        """A call is put once, and once more for each question that its client has answered in full."""
        assert len(call.puts) == call.asked, "no call is sent twice"
        assert call.answer is None or call.outcomes == [], "a call that is over is not sent"
        assert params.get("requestState") == call.expected_state
        responses = params.get("inputResponses", {})
        assert responses.keys() == call.wanted.keys()
        for key, response in responses.items():
            assert response == self.given.get(call.wanted[key], {"action": "cancel"})

    # What clients do

    def live_sessions(self) -> list[Session]:
        return [session for session in self.sessions if not session.ended]

    def send(self, session: Session, message: object, method: str = "POST", **headers: str) -> Answer:
        return self.simulation.send(session.user, message, method, Mcp_Session_Id=session.id, **headers)

    @rule(
        user=st.sampled_from(USERS),
        declared=st.sampled_from(DECLARED),
        version=st.sampled_from(["2025-11-25", "2025-06-18"]),
    )
    def open_session(self, user: str, declared: Message, version: str) -> None:
        self.simulation.settle()
        name = f"s{next(self.counter)}"
        info = {"name": name, "version": "1"}
        params = {"protocolVersion": version, "capabilities": declared, "clientInfo": info}
        answer = self.simulation.send(user, {"jsonrpc": "2.0", "id": name, "method": "initialize", "params": params})
        self.simulation.settle()
        assert answer.outcome is not None
        assert answer.outcome["result"]["protocolVersion"] <= version
        self.sessions.append(Session(name, user, declared, answer.sent_headers["Mcp-Session-Id"]))

    @precondition(lambda self: self.live_sessions())
    @rule(
        data=st.data(),
        method=st.sampled_from(METHODS),
        token=st.none() | st.integers(0, 3) | st.just("a"),
        rounds=st.lists(st.lists(st.sampled_from(QUESTIONS), max_size=3), max_size=2),
        respond=st.booleans(),
    )
    def call(self, data: st.DataObject, method: str, token: object, rounds: list[list[str]], *, respond: bool) -> None:
        session = data.draw(st.sampled_from(self.live_sessions()))
        self.call_in(session, method, token, rounds, respond=respond)

    def call_in(self, session: Session, method: str, token: object, rounds: list[list[str]], *, respond: bool) -> None:
        call = Call(len(self.calls), session, token)
        self.calls.append(call)
        params: Message = {"number": call.number} | ({} if token is None else {"_meta": {"progressToken": token}})
        message = {"jsonrpc": "2.0", "id": f"c{call.number}", "method": method, "params": params}
        call.answer = self.send(session, message)
        session.answers.append(call.answer)
        self.note_ended(session, call.answer)
        for questions in rounds:
            if call.process is not None and self.states[call.process].is_open(call.puts[-1]):
                self.ask_by(call.process, call.puts[-1], questions, with_state=True)
                self.simulation.settle()
                for question in call.answer.questions[-len(questions) :] if questions and respond else []:
                    self.respond_in(session, question, "result")

    def note_ended(self, session: Session, answer: Answer) -> None:
        """The server may have died, and the session with it, before its client knows."""
        session.ended = session.ended or answer.status == 404

    @precondition(lambda self: self.live_sessions())
    @rule(
        data=st.data(),
        method=st.sampled_from(["resources/subscribe", "resources/unsubscribe"]),
        uri=st.sampled_from(URIS),
    )
    def watch(self, data: st.DataObject, method: str, uri: str) -> None:
        session = data.draw(st.sampled_from(self.live_sessions()))
        answer = self.send(session, {"jsonrpc": "2.0", "id": "w", "method": method, "params": {"uri": uri}})
        assert answer.finished
        self.note_ended(session, answer)

    @precondition(lambda self: self.live_sessions())
    @rule(data=st.data(), times=st.integers(1, 2))
    def open_streams(self, data: st.DataObject, times: int) -> None:
        session = data.draw(st.sampled_from(self.live_sessions()))
        for _ in range(times):
            self.open_stream(session)

    def open_stream(self, session: Session) -> None:
        answer = self.send(session, None, "GET")
        session.answers.append(answer)
        seen = {event for stream in session.streams for event in stream.events}
        assert not seen & answer.events.keys(), "a client that names no event gets what it has not had"
        session.streams.append(answer)
        self.note_ended(session, answer)

    @precondition(lambda self: any(stream.events for session in self.live_sessions() for stream in session.streams))
    @rule(data=st.data())
    def resume_stream(self, data: st.DataObject) -> None:
        known = [s for s in self.live_sessions() if any(stream.events for stream in s.streams)]
        session = data.draw(st.sampled_from(known))
        answer = self.resume_from(data, session, session.streams, complete=not session.large)
        session.answers.append(answer)
        session.streams.append(answer)

    def lost(self) -> list[Call]:
        """Calls whose stream was cut off."""
        return [
            call
            for call in self.calls
            if call.answer is not None
            and (call.answer.gone or call.answer in self.revoked)
            and not call.session.ended
            and call.answer.events
            and all(answer.finished for answer in call.resumed)
        ]

    @precondition(lambda self: self.lost())
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.lost()))
        # What a stream keeps is bounded: of two large events one may be gone.
        answer = self.resume_from(data, call.session, call.responses, complete=call.session.large < 2)
        if answer.status == 200:
            call.session.answers.append(answer)
            call.resumed.append(answer)
            assert call.outcomes or not call.done, "what the server said meanwhile reaches the client"

    def resume_from(self, data: st.DataObject, session: Session, seen: list[Answer], *, complete: bool) -> Answer:
        """Resume a stream, after its last event or, as responses are lost on their way, after an earlier one."""
        known = {event: content for answer in seen for event, content in answer.events.items()}
        newest_first = sorted(known, key=position, reverse=True)
        after = data.draw(st.sampled_from(newest_first[:1] * 2 + newest_first))
        answer = self.send(session, None, "GET", Last_Event_Id=after)
        self.note_ended(session, answer)
        if answer.status == 200:
            brought = answer.events
            assert [*brought] == sorted(brought, key=position)
            assert all(position(event) > position(after) for event in brought)
            assert all(known.get(event, content) == content for event, content in brought.items())
            if complete:
                assert {event for event in known if position(event) > position(after)} <= brought.keys()
        return answer

    def everything_open(self) -> list[tuple[Session, Answer]]:
        return [(s, answer) for s in self.sessions for answer in s.answers if not answer.finished]

    @precondition(lambda self: self.everything_open())
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        _, answer = data.draw(st.sampled_from(self.everything_open()))
        answer.leave()
        self.simulation.pump()

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.calls))
        params = {"requestId": f"c{call.number}"}
        cancelled = self.send(call.session, jsonrpc.notification("notifications/cancelled", params))
        self.note_ended(call.session, cancelled)
        assert cancelled.status == 404 or call.answer is None or call.answer.finished

    def questions(self) -> list[tuple[Session, Message]]:
        return [(s, question) for s in self.sessions for answer in s.answers for question in answer.questions]

    @precondition(lambda self: self.questions())
    @rule(data=st.data(), kind=st.sampled_from(["result", "result", "result", "error"]), foreign=st.integers(0, 5))
    def respond(self, data: st.DataObject, kind: str, foreign: int) -> None:
        session, question = data.draw(st.sampled_from(self.questions()))
        if foreign == 0:
            session = data.draw(st.sampled_from(self.sessions))
            # Each session counts its questions: it may have been asked one under the same id.
            own = [mine for asked, mine in self.questions() if asked is session and mine["id"] == question["id"]]
            question = own[0] if own else question
        self.respond_in(session, question, kind)

    def respond_in(self, session: Session, question: Message, kind: str) -> None:
        mark = question.get("params", {}).get("question", "nonsense")
        response = {"answers": mark, "by": session.name, "attempt": next(self.counter)}
        owner = next((call.session for call in self.calls if mark in call.wanted.values()), None)
        if session is owner and mark not in self.given:  # the first answer counts, also if it is an error
            self.given[mark] = response if kind == "result" else {"action": "cancel"}
        outcome = {"result": response} if kind == "result" else {"error": {"code": -1, "message": "no"}}
        answer = self.send(session, {"jsonrpc": "2.0", "id": question["id"], **outcome})
        self.note_ended(session, answer)

    @precondition(lambda self: self.live_sessions())
    @rule(data=st.data(), really=RARELY)
    def end_session(self, data: st.DataObject, really: bool) -> None:
        if really:
            self.delete(data.draw(st.sampled_from(self.live_sessions())))

    def delete(self, session: Session) -> None:
        self.send(session, None, "DELETE")
        session.ended = True
        assert all(answer.finished for answer in session.answers)

    @rule(user=st.sampled_from(USERS), really=RARELY)
    def revoke(self, user: str, really: bool) -> None:
        if really:
            mine = {answer for session, answer in self.everything_open() if session.user == user}
            self.simulation.revoke(user)
            assert all(answer.finished for answer in mine)
            self.revoked |= mine

    # What the server does

    def alive(self) -> list[Process]:
        return [process for process in self.states if process.alive]

    def open_puts(self) -> list[tuple[Process, Any]]:
        return [
            (process, wire_id)
            for process in self.alive()
            for wire_id in self.states[process].calls
            if self.states[process].is_open(wire_id)
        ]

    @precondition(lambda self: self.open_puts())
    @rule(data=st.data(), kind=st.sampled_from(["result", "error", "unreadable", "no result", "cancel"]))
    def answer(self, data: st.DataObject, kind: str) -> None:
        self.simulation.settle()
        if not self.open_puts():
            return
        process, wire_id = data.draw(st.sampled_from(self.open_puts()))
        state = self.states[process]
        call = state.calls[wire_id]
        text = f"<call {call.number}>"
        state.answered.add(wire_id)
        assert call.answer is not None
        waits = not call.answer.finished and wire_id not in state.disturbed
        call.done = call.done or wire_id not in state.disturbed
        match kind:
            case "result":
                process.say(jsonrpc.result(wire_id, {"resultType": "complete", "text": text}))
            case "error":
                process.say(jsonrpc.error(wire_id, -32000, text))
            case "unreadable":
                process.write(json.dumps(jsonrpc.result(wire_id, {"text": text})).encode()[:-3] + b"\n")
            case "no result":
                process.say({"jsonrpc": "2.0", "id": wire_id, "result": [text]})
            case "cancel":
                reason = {"requestId": wire_id, "reason": text}
                process.say(jsonrpc.notification("notifications/cancelled", reason))
        self.simulation.settle()
        if waits:
            assert call.answer.finished, "an answer reaches its client"
            assert b"<call " in call.answer.data or b"result is not an object" in call.answer.data

    @precondition(lambda self: self.alive() and any(self.states[process].calls for process in self.alive()))
    @rule(data=st.data())
    def answer_again(self, data: st.DataObject) -> None:
        known = [(p, wire_id) for p in self.alive() for wire_id in self.states[p].calls]
        process, wire_id = data.draw(st.sampled_from(known))
        state = self.states[process]
        if not state.is_open(wire_id):
            process.say(jsonrpc.result(wire_id, {"text": f"<call {state.calls[wire_id].number}>"}))

    @precondition(lambda self: self.open_puts())
    @rule(
        data=st.data(),
        methods=st.lists(st.sampled_from(QUESTIONS), max_size=3),
        with_state=st.booleans(),
        size=st.sampled_from([0, 0, 0, 0, 0, LARGE]),
        settled=st.booleans(),
    )
    def ask(self, data: st.DataObject, methods: list[str], with_state: bool, size: int, settled: bool) -> None:
        self.simulation.settle()
        if not self.open_puts():
            return
        process, wire_id = data.draw(st.sampled_from(self.open_puts()))
        self.ask_by(process, wire_id, methods, with_state=with_state, size=size)
        if settled:
            self.simulation.settle()

    def ask_by(self, process: Process, wire_id: Any, methods: list[str], *, with_state: bool, size: int = 0) -> None:
        state = self.states[process]
        call = state.calls[wire_id]
        state.answered.add(wire_id)
        call.session.large += len(methods) if size else 0
        call.asked += 1
        number = next(self.counter)
        call.expected_state = f"state-{number}" if with_state else None
        call.wanted = {f"k{position}": f"q{number}-{position}" for position in range(len(methods))}
        wanted = {
            key: {
                "method": method,
                "params": {"question": mark, "message": f"<call {call.number}>", "padding": "x" * size},
            }
            for (key, mark), method in zip(call.wanted.items(), methods, strict=True)
        }
        result = {"resultType": "input_required", "inputRequests": wanted}
        process.say(jsonrpc.result(wire_id, result | ({"requestState": call.expected_state} if with_state else {})))

    @precondition(lambda self: self.open_puts())
    @rule(data=st.data(), wanted=st.sampled_from([5, [], {"k": 5}, {"k": {"method": 7}}]))
    def ask_wrongly(self, data: st.DataObject, wanted: object) -> None:
        process, wire_id = data.draw(st.sampled_from(self.open_puts()))
        self.states[process].answered.add(wire_id)
        process.say(jsonrpc.result(wire_id, {"resultType": "input_required", "inputRequests": wanted}))

    @precondition(lambda self: self.open_puts())
    @rule(data=st.data(), times=st.integers(1, 4))
    def report(self, data: st.DataObject, times: int) -> None:
        process, wire_id = data.draw(st.sampled_from(self.open_puts()))
        params = {"progressToken": wire_id, "message": f"<call {self.states[process].calls[wire_id].number}>"}
        for progress in range(times):
            process.say(jsonrpc.notification("notifications/progress", {**params, "progress": progress}))

    @precondition(lambda self: self.open_puts())
    @rule(data=st.data())
    def log(self, data: st.DataObject) -> None:
        self.simulation.settle()
        if not self.open_puts():
            return
        process, _ = data.draw(st.sampled_from(self.open_puts()))
        state = self.states[process]
        users = {call.session.user for wire_id, call in state.calls.items() if state.is_open(wire_id)}
        mark = users.pop() if len(users) == 1 else "nobody"
        process.say(jsonrpc.notification("notifications/message", {"level": "error", "data": f"<user {mark}>"}))
        self.simulation.settle()

    def open_listens(self) -> list[tuple[Process, Any]]:
        return [
            (process, wire_id)
            for process in self.alive()
            for wire_id in self.states[process].listens
            if self.states[process].is_open(wire_id)
        ]

    @precondition(lambda self: self.open_listens())
    @rule(data=st.data())
    def change(self, data: st.DataObject) -> None:
        self.simulation.settle()
        if not self.open_listens():
            return
        process, wire_id = data.draw(st.sampled_from(self.open_listens()))
        name, wanted = self.states[process].listens[wire_id]
        uri = next(iter(wanted.get("resourceSubscriptions", [])), None)
        method = "notifications/tools/list_changed" if uri is None else "notifications/resources/updated"
        params = {"mark": f"<session {name}>", "_meta": {PREFIX + "subscriptionId": wire_id}}
        process.say(jsonrpc.notification(method, params | ({} if uri is None else {"uri": uri})))
        self.simulation.settle()

    @precondition(lambda self: self.alive())
    @rule(data=st.data(), message=NOISE | ALMOST)
    def talk_nonsense(self, data: st.DataObject, message: Any) -> None:
        process = data.draw(st.sampled_from(self.alive()))
        state = self.states[process]
        state.disturbed |= {*state.calls, *state.listens}
        said = message if isinstance(message, list) else [message]
        state.nonsense += [each.get("id") for each in said if isinstance(each, dict)]
        process.say(message)

    @precondition(lambda self: self.alive())
    @rule(data=st.data(), status=st.integers(0, 3), really=RARELY)
    def die(self, data: st.DataObject, status: int, really: bool) -> None:
        if really:
            data.draw(st.sampled_from(self.alive())).die(status)
            self.simulation.settle()

    @rule(seconds=st.sampled_from([0, 0, 1, 6, 6, 31, 46]))
    def wait(self, seconds: float) -> None:
        self.simulation.wait(seconds)

    # What holds

    @invariant()
    def each_call_has_one_outcome_and_it_is_its_own(self) -> None:
        self.simulation.check()
        for call in self.calls:
            assert call.answer is not None
            assert len(call.outcomes) <= 1
            for answer in call.responses:
                assert answer.marks("call") <= {str(call.number)}
            if call.answer.outcome is not None:
                assert call.answer.finished
                assert call.answer.outcome["id"] == f"c{call.number}" or call.answer in self.revoked
                assert call.answer.messages[-1] is call.answer.outcome
            elif call.answer.finished:
                assert call.answer.gone or call.answer in self.revoked
        for session in self.sessions:
            numbers = {str(call.number) for call in self.calls if call.session is session}
            for answer in session.answers:
                assert answer.marks("call") <= numbers
                assert answer.marks("session") <= {session.name}
                assert answer.marks("user") <= {session.user}
                asked = [question["id"] for question in answer.questions]
                assert len(asked) == len(set(asked))
                for message in answer.messages:
                    assert PREFIX not in json.dumps(message)

    def end(self) -> None:
        self.simulation.settle()
        match self.ending:
            case "sessions end":
                for session in self.live_sessions():
                    self.delete(session)
            case "clients leave":
                self.leave_all()
            case "processes die":
                self.simulation.die_all()
            case "the bridge stops":
                self.leave_streams()
                self.simulation.drain(busy=True)
        self.simulation.settle()
        self.simulation.wait(INPUT_SECONDS + CALL_SECONDS_IN_ALL)
        self.leave_streams()
        assert self.everything_open() == []
        self.each_call_has_one_outcome_and_it_is_its_own()
        self.simulation.wait_for_idle_end()
        for process, state in self.states.items():
            if process.status == 0 and process.told_to_end and self.ending != "the bridge stops":
                for wire_id in (*state.calls, *state.listens):
                    assert not state.is_open(wire_id) or wire_id in state.disturbed
        self.simulation.check_nothing_is_left()
        self.forget()
        assert self.simulation.count_kept_answers() == 0

    def leave_all(self) -> None:
        for _, answer in self.everything_open():
            answer.leave()

    def leave_streams(self) -> None:
        """Leave what is open until the client leaves: not the answers to calls."""
        of_calls = {call.answer for call in self.calls}
        for _, answer in self.everything_open():
            if answer not in of_calls:
                answer.leave()

    def forget(self) -> None:
        for call in self.calls:
            call.answer = None
            call.resumed.clear()
        for session in self.sessions:
            session.answers.clear()
            session.streams.clear()
        self.revoked.clear()


TestLegacyForModern = pytest.mark.timeout(600)(LegacyForModernMachine.TestCase)
TestLegacyForModern.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
