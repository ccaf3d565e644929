"""Whatever a server answers in its handshake, each client has one answer, and no call reaches the server too early."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from stdio_bridge.protocol import jsonrpc
from tests.stdio_bridge.machines.simulation import (
    CALL_SECONDS,
    CALL_SECONDS_IN_ALL,
    Answer,
    Process,
    Simulation,
    SimulationMachine,
)
from tests.stdio_bridge.modern_client import ALL, PREFIX, VERSION

Message = dict[str, Any]

USERS = ("ada", "bob")
DECLARED: tuple[Message, ...] = ({}, ALL)
PROBE = "server/discover"
PROBE_SECONDS = 10
SUPPORTED = {"supported": [VERSION], "requested": VERSION}
DISCOVERED = {"supportedVersions": [VERSION], "capabilities": {"tools": {"listChanged": True}}}
INITIALIZED = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}}
# What a server may answer, and whether it shows one of the modern or of the legacy era, or neither.
TO_DISCOVER: dict[str, tuple[Message, str]] = {
    "discovered": ({"result": DISCOVERED}, "modern"),
    "another version": ({"error": {"code": -32022, "message": "<error>", "data": SUPPORTED}}, "modern"),
    "no version of ours": ({"result": {**DISCOVERED, "supportedVersions": ["2030-01-01"]}}, ""),
    "unknown method": ({"error": {"code": -32601, "message": "<error>"}}, ""),
    "no object": ({"result": 5}, ""),
}
TO_INITIALIZE: dict[str, tuple[Message, str]] = {
    "initialized": ({"result": INITIALIZED}, "legacy"),
    "modern only": ({"error": {"code": -32022, "message": "<error>", "data": SUPPORTED}}, "modern"),
    "unknown method": ({"error": {"code": -32601, "message": "<error>"}}, ""),
    "refused": ({"error": {"code": -32000, "message": "<error>"}}, ""),
    "no object": ({"result": []}, ""),
}
# What follows at once, as several servers and clients would otherwise rarely come so far.
STEPS = st.sampled_from(
    [
        (),
        ("answer",),
        ("answer", "answer"),
        ("wait", "answer", "answer"),
        ("wait", "answer", "answer", "answer"),
        ("die",),
    ]
)
ANSWERS = {PROBE: TO_DISCOVER, "initialize": TO_INITIALIZE}


@dataclass(eq=False)
class State:
    """What a process has been asked, and has shown of itself."""

    asked: dict[Any, str] = field(default_factory=dict)
    asked_at: dict[Any, float] = field(default_factory=dict)
    answered: set[Any] = field(default_factory=set)
    cancelled: set[Any] = field(default_factory=set)
    shown: set[str] = field(default_factory=set)
    told_initialized: bool = False

    def open(self) -> list[Any]:
        return [wire_id for wire_id in self.asked if wire_id not in self.answered | self.cancelled]


class HandshakeMachine(SimulationMachine):
    """Clients of both eras that come while servers start; servers that answer anything, late, twice, or never."""

    @initialize(
        era=st.sampled_from(["auto", "auto", "auto", "legacy", "dual", "modern"]),
        isolation=st.sampled_from(["per-session", "per-user", "shared"]),
        ending=st.sampled_from(["clients leave", "processes die", "silence"]),
    )
    def begin(self, era: str, isolation: str, ending: str) -> None:
        self.ending = ending
        self.era = era
        self.states: dict[Process, State] = {}
        self.calls: list[Answer] = []
        self.received_by: dict[object, Process] = {}
        self.initializes: list[Answer] = []
        self.counter = itertools.count(1)
        self.simulation = Simulation("--server-era", era, "--isolation", isolation, react=self.hear)

    # What a server hears

    def hear(self, process: Process, message: Message) -> None:
        state = self.states.setdefault(process, State())
        kind = jsonrpc.kind_of(message)
        params = message.get("params", {})
        if kind is jsonrpc.Kind.REQUEST and message["method"] in ANSWERS:
            assert message["id"] not in state.asked
            waiting = [w for w in state.open() if self.simulation.now < state.asked_at[w] + CALL_SECONDS]
            assert message["method"] not in [state.asked[w] for w in waiting], "asked once at a time"
            assert message["method"] == "initialize" or not state.told_initialized
            state.asked[message["id"]] = message["method"]
            state.asked_at[message["id"]] = self.simulation.now
            if process.started_for is None:
                assert message["method"] == "initialize", "it was started because another ended over server/discover"
        elif kind is jsonrpc.Kind.REQUEST:
            self.hear_call(process, state, message)
        elif message["method"] == "notifications/initialized":
            assert "legacy" in state.shown
            assert not state.told_initialized
            state.told_initialized = True
        elif message["method"] == "notifications/cancelled":
            wire_id = params["requestId"]
            assert state.asked.get(wire_id) != "initialize"
            state.cancelled.add(wire_id)

    def hear_call(self, process: Process, state: State, message: Message) -> None:
        modern = PREFIX + "protocolVersion" in message["params"].get("_meta", {})
        if message["method"] == "subscriptions/listen":
            assert modern
            return
        assert message["method"] == "tools/call"
        number = message["params"]["number"]
        assert number not in self.received_by, "no call is sent twice"
        self.received_by[number] = process
        if modern:
            assert "modern" in state.shown or self.modern_is_known()
            assert not state.told_initialized
        else:
            assert state.told_initialized
        process.say(jsonrpc.result(message["id"], {"text": f"<call {number}>"}))

    def modern_is_known(self) -> bool:
        return self.era in {"dual", "modern"} or any("modern" in state.shown for state in self.states.values())

    # What clients do

    @rule(
        data=st.data(),
        user=st.sampled_from(USERS),
        declared=st.sampled_from(DECLARED),
        then=STEPS,
    )
    def call(self, data: st.DataObject, user: str, declared: Message, then: tuple[str, ...]) -> None:
        number = next(self.counter)
        params = {"name": "n", "number": number}
        self.calls.append(self.simulation.send_modern(user, number, "tools/call", params, declared))
        self.take(data, then)

    def take(self, data: st.DataObject, steps: tuple[str, ...]) -> None:
        for step in steps:
            if step == "wait":
                self.simulation.wait(PROBE_SECONDS + 1)
                self.check_slow_ones()
            elif step == "die":
                self.end_one(data)
            elif self.asked():
                self.answer_one(data)
                self.simulation.settle()

    def check_slow_ones(self) -> None:
        """A server that does not say of which era it is may be a legacy one, which ignores the question."""
        for process, state in self.states.items():
            if self.era == "auto" and not self.modern_is_known() and process.alive and not process.told_to_end:
                assert [*state.asked.values()] != [PROBE]

    @rule(
        data=st.data(),
        user=st.sampled_from(USERS),
        versions=st.lists(st.sampled_from(["2025-11-25", "2024-11-05"]), min_size=1, max_size=3),
        then=STEPS,
    )
    def begin_sessions(self, data: st.DataObject, user: str, versions: list[str], then: tuple[str, ...]) -> None:
        for version in versions:
            params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": user, "version": "1"}}
            message = {"jsonrpc": "2.0", "id": next(self.counter), "method": "initialize", "params": params}
            self.initializes.append(self.simulation.send(user, message))
        self.take(data, then)
        for begun in self.sessions()[-len(versions) :]:
            self.call_in(begun)

    def sessions(self) -> list[Answer]:
        return [answer for answer in self.initializes if answer.outcome is not None and "result" in answer.outcome]

    @precondition(lambda self: self.sessions())
    @rule(data=st.data())
    def call_in_session(self, data: st.DataObject) -> None:
        self.call_in(data.draw(st.sampled_from(self.sessions())))

    def call_in(self, begun: Answer) -> None:
        headers = {"Mcp_Session_Id": begun.sent_headers["Mcp-Session-Id"]}
        self.simulation.send(begun.user, {"jsonrpc": "2.0", "method": "notifications/initialized"}, **headers)
        number = next(self.counter)
        message = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": "n", "number": number}}
        self.calls.append(self.simulation.send(begun.user, message, **headers))

    def everything_open(self) -> list[Answer]:
        return [answer for answer in (*self.calls, *self.initializes) if not answer.finished]

    @precondition(lambda self: self.everything_open())
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.everything_open())).leave()
        self.simulation.pump()

    # What servers do

    def alive(self) -> list[Process]:
        return [process for process in self.simulation.processes if process.alive]

    def asked(self) -> list[tuple[Process, Any]]:
        return [
            (process, wire_id) for process in self.states if process.alive for wire_id in self.states[process].asked
        ]

    @precondition(lambda self: self.asked())
    @rule(data=st.data(), at_once=st.booleans())
    def answer(self, data: st.DataObject, at_once: bool) -> None:
        self.answer_one(data)
        if at_once:
            self.simulation.settle()

    def answer_one(self, data: st.DataObject) -> None:
        asked = self.asked()
        unanswered = [(process, wire_id) for process, wire_id in asked if wire_id in self.states[process].open()]
        process, wire_id = data.draw(st.sampled_from(unanswered or asked))
        self.say(data, process, wire_id)

    @precondition(lambda self: self.asked())
    @rule(data=st.data())
    def answer_again(self, data: st.DataObject) -> None:
        self.say(data, *data.draw(st.sampled_from(self.asked())))

    def say(self, data: st.DataObject, process: Process, wire_id: Any) -> None:
        state = self.states[process]
        method = state.asked[wire_id]
        answer, shows = data.draw(st.sampled_from([*ANSWERS[method].values()]))
        is_first = wire_id in state.open() and not any(known.shown for known in self.states.values())
        if wire_id in state.open() and shows:
            state.shown.add(shows)
        state.answered.add(wire_id)
        asked_before = [*state.asked.values()]
        process.say({"jsonrpc": "2.0", "id": wire_id, **answer})
        in_use = is_first and process.alive and not process.told_to_end and process.started_for is not None
        if in_use and self.era == "auto" and asked_before == ["initialize"] and "error" in answer:
            self.simulation.settle()
            assert PROBE in state.asked.values(), "one that refuses may be a modern one"

    @precondition(lambda self: self.alive())
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        self.end_one(data)

    def end_one(self, data: st.DataObject) -> None:
        self.simulation.settle()
        if not self.alive():
            return
        process = data.draw(st.sampled_from(self.alive()))
        waiting = [answer for answer in self.calls if not answer.finished]
        probed = len(self.alive()) == 1 and not process.told_to_end and bool(waiting)
        state = self.states.get(process, State())
        probed = probed and [state.asked[wire_id] for wire_id in state.open()] == [*state.asked.values()] == [PROBE]
        started = len(self.simulation.processes)
        process.die(3)
        self.simulation.settle()
        assert not probed or len(self.simulation.processes) == started + 1, "it may have ended over the question"

    @rule(seconds=st.sampled_from([0, 1, PROBE_SECONDS + 1, 31, 75]))
    def wait(self, seconds: float) -> None:
        self.simulation.wait(seconds)

    @rule()
    def settle(self) -> None:
        """Once all has arrived, no client waits for nothing."""
        self.simulation.settle()
        pending = [process for process in self.alive() if not process.told_to_end]
        if not any(self.states.get(process, State()).open() for process in pending):
            assert self.everything_open() == []

    # What holds

    @invariant()
    def each_client_has_one_answer_and_it_is_its_own(self) -> None:
        self.simulation.check()
        for answer in (*self.calls, *self.initializes):
            assert len(answer.outcomes) <= 1
            assert answer.marks("call") <= {str(answer.request_id)}
            if answer.outcome is not None:
                assert answer.finished
                assert answer.outcome["id"] == answer.request_id
            elif answer.finished:
                assert answer.gone
        for answer in self.initializes:
            if answer.outcome is not None:
                # A stream is begun before it is known how the server answers.
                if answer.sent_headers["Content-Type"] == "application/json":
                    assert ("result" in answer.outcome) is ("Mcp-Session-Id" in answer.sent_headers)
                assert "result" in answer.outcome or answer.outcome["error"]["code"] not in range(-32099, -32019)

    @invariant()
    def what_a_live_server_was_asked_is_answered(self) -> None:
        for answer in self.calls:
            process = self.received_by.get(answer.request_id)
            if process is not None and not process.unread_by_bridge and process.alive and not answer.gone:
                assert answer.marks("call") == {str(answer.request_id)}

    def end(self) -> None:
        if self.ending == "clients leave":
            self.leave_all()
        elif self.ending == "processes die":
            self.simulation.die_all()
        # Clients that wait for one server are put to it one after the other.
        turns = len(self.everything_open()) + 1
        self.simulation.wait(turns * CALL_SECONDS_IN_ALL + PROBE_SECONDS)
        assert self.everything_open() == []
        self.each_client_has_one_answer_and_it_is_its_own()
        self.simulation.wait_for_idle_end()
        self.simulation.check_nothing_is_left()
        self.forget()
        assert self.simulation.count_kept_answers() == 0

    def leave_all(self) -> None:
        for answer in self.everything_open():
            answer.leave()

    def forget(self) -> None:
        self.calls.clear()
        self.initializes.clear()


TestHandshake = pytest.mark.timeout(600)(HandshakeMachine.TestCase)
TestHandshake.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
