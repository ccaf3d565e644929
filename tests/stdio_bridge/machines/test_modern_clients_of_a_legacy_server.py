"""Any order of what modern clients and a legacy server do keeps what the bridge promises to both."""

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
    CALL_SECONDS,
    CALL_SECONDS_IN_ALL,
    INPUT_SECONDS,
    RARELY,
    Answer,
    Process,
    Simulation,
    SimulationMachine,
)
from tests.stdio_bridge.modern_client import ALL, PREFIX
from tests.stdio_bridge.protocol.test_connection_machine import ALMOST, NOISE

Message = dict[str, Any]

USERS = ("ada", "bob")
DECLARED: tuple[Message, ...] = (ALL, ALL, ALL, {}, {"elicitation": {}})
METHODS = ("tools/call", "tools/call", "tools/call", "prompts/get", "resources/read", "completion/complete")
QUESTIONS: dict[str, Message] = {
    "elicitation/create": {"requestedSchema": {"type": "object"}},
    "sampling/createMessage": {"maxTokens": 1},
    "roots/list": {},
}
CAPABILITIES = {"tools": {"listChanged": True}, "resources": {"subscribe": True}, "logging": {}}
URIS = ("a:1", "a:2")
# What is a little less than a call may take, and its client's answer.
WORK_SECONDS = CALL_SECONDS - 4
THOUGHT_SECONDS = INPUT_SECONDS - 4
# Which of the questions a retry answers.
KEPT = st.sampled_from(["all", "all", "one", "none"])


@dataclass(eq=False)
class Call:
    """A client's call: each time that it was put, and what became of it at the server."""

    number: int
    user: str
    declared: Message
    method: str
    params: Message
    meta: Message
    answers: list[Answer] = field(default_factory=list)
    process: Process | None = None
    wire_id: Any = None


@dataclass(eq=False)
class State:
    """What a process knows of the requests that it got, and of its own."""

    initialized: bool = False
    ready: bool = False
    calls: dict[Any, Call] = field(default_factory=dict)
    own: dict[Any, Message] = field(default_factory=dict)
    answered: set[Any] = field(default_factory=set)
    cancelled: set[Any] = field(default_factory=set)
    disturbed: set[Any] = field(default_factory=set)
    asked: dict[str, str] = field(default_factory=dict)
    withdrawn: set[str] = field(default_factory=set)
    responses: dict[str, Message] = field(default_factory=dict)
    nonsense: list[object] = field(default_factory=list)
    watched: set[str] = field(default_factory=set)

    def is_open(self, wire_id: object) -> bool:
        return wire_id not in self.answered | self.cancelled


class ModernForLegacyMachine(SimulationMachine):
    """Clients that call, retry, subscribe and leave; a server that answers, asks, reports, talks nonsense and dies."""

    @initialize(
        isolation=st.sampled_from(["per-session", "shared"]),
        slow=st.booleans(),
        ending=st.sampled_from(["clients leave", "processes die", "silence", "the bridge stops"]),
    )
    def begin(self, isolation: str, slow: bool, ending: str) -> None:
        self.ending = ending
        self.shared = isolation == "shared"
        self.slow = slow
        self.states: dict[Process, State] = {}
        self.calls: list[Call] = []
        self.subscriptions: dict[Answer, Message] = {}
        self.revoked: set[Answer] = set()
        self.spent: set[str] = set()
        self.suspended_at: dict[str, float] = {}
        self.stopping = False
        self.counter = itertools.count(1)
        self.simulation = Simulation("--server-era", "legacy", "--isolation", isolation, react=self.hear)

    # What the server does by itself

    def hear(self, process: Process, message: Message) -> None:
        state = self.states.setdefault(process, State())
        kind = jsonrpc.kind_of(message)
        if kind is jsonrpc.Kind.RESPONSE:
            self.hear_response(state, message)
        elif kind is jsonrpc.Kind.REQUEST:
            self.hear_request(process, state, message)
        elif message["method"] == "notifications/initialized":
            assert state.initialized
            assert not state.ready
            state.ready = True
        elif message["method"] == "notifications/cancelled":
            wire_id = message["params"]["requestId"]
            assert wire_id in state.calls or wire_id in state.own
            assert wire_id not in state.cancelled
            state.cancelled.add(wire_id)
            if wire_id in state.calls and not self.stopping:
                assert not self.is_suspended(state.calls[wire_id]), (
                    "a call waits for its client as long as that may take"
                )

    def hear_request(self, process: Process, state: State, message: Message) -> None:
        wire_id, params = message["id"], message["params"]
        assert wire_id not in state.calls
        assert wire_id not in state.own
        assert state.ready or not state.initialized
        assert not any(name.startswith(PREFIX) for name in params.get("_meta", {}))
        if message["method"] == "initialize":
            assert not state.initialized
            state.initialized = True
            state.own[wire_id] = message
            result = {"capabilities": CAPABILITIES, "serverInfo": {"name": "s", "version": "1"}}
            state.answered.add(wire_id)
            process.say(jsonrpc.result(wire_id, {"protocolVersion": params["protocolVersion"], **result}))
            return
        assert state.ready
        number = params.get("number")
        if number is None:
            state.own[wire_id] = message
            if message["method"] == "resources/subscribe":
                assert params["uri"] not in state.watched
                state.watched.add(params["uri"])
            elif message["method"] == "resources/unsubscribe":
                state.watched.remove(params["uri"])
            if not self.slow:
                self.answer_own(process, wire_id)
            return
        call = self.calls[number]
        assert call.process is None, "no call is sent twice"
        assert message["method"] == call.method
        call.process, call.wire_id = process, wire_id
        state.calls[wire_id] = call

    def hear_response(self, state: State, message: Message) -> None:
        question = message["id"]
        if question not in state.asked:
            assert any(question == said for said in state.nonsense)
            return
        assert question not in state.responses, "a question is answered once"
        state.responses[question] = message
        if "result" in message:
            assert message["result"] == {"answers": question, "by": state.asked[question]}

    def answer_own(self, process: Process, wire_id: Any) -> None:
        """Answer what the bridge asks on its own account."""
        state = self.states[process]
        message = state.own[wire_id]
        if not state.is_open(wire_id):
            return
        state.answered.add(wire_id)
        process.say(jsonrpc.result(wire_id, {"tools": []} if message["method"] == "tools/list" else {}))

    # What clients do

    def put(self, call: Call, user: str | None = None, **more: object) -> Answer:
        params = {**call.params, **more}
        return self.simulation.send_modern(
            user or call.user, next(self.counter), call.method, params, call.declared, **call.meta
        )

    def put_again(self, call: Call, user: str | None = None, **more: object) -> Answer:
        """Retry, at a server that lists its tools: the retry may need to wait for that, as every call may."""
        answer = self.put(call, user, **more)
        self.simulation.settle()
        while waiting := [
            (process, wire_id)
            for process in self.alive()
            for wire_id, message in self.states[process].own.items()
            if message["method"] == "tools/list" and self.states[process].is_open(wire_id)
        ]:
            for process, wire_id in waiting:
                self.answer_own(process, wire_id)
            self.simulation.settle()
        return answer

    @rule(
        user=st.sampled_from(USERS),
        declared=st.sampled_from(DECLARED),
        method=st.sampled_from(METHODS),
        token=st.none() | st.integers(0, 3) | st.just("a"),
        level=st.none() | st.sampled_from(["debug", "error"]),
        arguments=st.booleans(),
        questions=st.lists(st.sampled_from([*QUESTIONS]), max_size=2),
        meanwhile=st.sampled_from(["nothing", "nothing", "answer"]),
        retries=st.lists(KEPT, max_size=2),
    )
    def call(
        self,
        user: str,
        declared: Message,
        method: str,
        token: object,
        level: str | None,
        *,
        arguments: bool,
        questions: list[str],
        meanwhile: str,
        retries: list[str],
    ) -> None:
        number = len(self.calls)
        params: Message = {"number": number, "name": "n", "uri": "u:"}
        if arguments:
            params["arguments"] = {"a": 1}
        meta = ({} if token is None else {"progressToken": token}) | ({} if level is None else {"logLevel": level})
        call = Call(number, user, declared, method, params, meta)
        self.calls.append(call)
        call.answers.append(self.put(call))
        self.simulation.settle()
        if call.process is not None and call.process.alive:
            for question in questions:
                self.ask_by(call.process, question)
            self.simulation.settle()
            if meanwhile == "answer":
                self.answer_with(call, "result")
            for keep in retries:
                if self.suspended() and self.suspended()[-1][0] is call:
                    self.retry_with(*self.suspended()[-1], keep)

    @rule(
        user=st.sampled_from(USERS),
        steps=st.integers(0, 2),
        question=st.sampled_from([*QUESTIONS]),
        end=st.sampled_from(["answer", "silence", "reports"]),
        really=RARELY,
    )
    def call_for_long(self, user: str, steps: int, question: str, end: str, *, really: bool) -> None:
        """Make a call on which the server works for long, and its user thinks for long, each as long as it may."""
        if not really:
            return
        number = len(self.calls)
        params: Message = {"number": number, "name": "n", "uri": "u:"}
        call = Call(number, user, ALL, "tools/call", params, {"progressToken": "long"})
        self.calls.append(call)
        call.answers.append(self.put(call))
        self.simulation.settle()
        self.note_suspended()
        if call.process is None or not self.is_waiting(call):
            return  # the answer, or a question, was on its way already
        self.work(call, steps)
        self.ask_by(call.process, question)
        self.simulation.settle()
        if not self.is_suspended(call):
            return
        self.note_suspended()
        self.simulation.wait(THOUGHT_SECONDS)
        self.retry_with(*self.suspended()[-1], "all")
        if not self.is_waiting(call):
            return
        self.work(call, 2)
        assert self.is_waiting(call), "the time in which its client was asked does not count"
        match end:
            case "answer":
                self.answer_with(call, "result")
            case "silence":
                self.simulation.wait(CALL_SECONDS + 2)
                assert not self.is_waiting(call), "a call ends for want of an answer"
            case "reports":
                self.work(call, 1)
                assert not self.is_waiting(call), "a call ends though the server says that it works"

    def is_waiting(self, call: Call) -> bool:
        """Whether the call is at a sound server, and its client waits."""
        process = call.process
        return (
            process is not None
            and process.alive
            and not process.told_to_end
            and call.wire_id not in self.states[process].disturbed
            and not call.answers[-1].finished
        )

    def work(self, call: Call, steps: int) -> None:
        """Let time pass in which the server reports progress, just often enough."""
        assert call.process is not None
        for _ in range(steps):
            self.simulation.wait(WORK_SECONDS)
            params = {"progressToken": call.wire_id, "progress": 1, "message": f"<call {call.number}>"}
            call.process.say(jsonrpc.notification("notifications/progress", params))
            self.simulation.settle()

    @rule(user=st.sampled_from(USERS), tools=st.booleans(), uris=st.lists(st.sampled_from(URIS), max_size=3))
    def listen(self, user: str, tools: bool, uris: list[str]) -> None:
        wanted = {"toolsListChanged": tools, "resourceSubscriptions": uris}
        params = {"notifications": wanted}
        answer = self.simulation.send_modern(user, next(self.counter), "subscriptions/listen", params, ALL)
        self.subscriptions[answer] = wanted

    def everything_open(self) -> list[Answer]:
        return [a for a in (*self.subscriptions, *(a for c in self.calls for a in c.answers)) if not a.finished]

    @precondition(lambda self: self.everything_open())
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.simulation.settle()
        if not self.everything_open():
            return
        answer = data.draw(st.sampled_from(self.everything_open()))
        answer.leave()
        self.simulation.settle()
        for call in self.calls:
            if answer in call.answers and call.process is not None and not call.process.told_to_end:
                state = self.states[call.process]
                assert not state.is_open(call.wire_id) or call.wire_id in state.disturbed or not call.process.alive

    def suspended(self) -> list[tuple[Call, Message]]:
        return [
            (call, outcome["result"])
            for call in self.calls
            for answer in call.answers
            if (outcome := answer.outcome) is not None
            and "result" in outcome
            and outcome["result"].get("resultType") == "input_required"
            and "requestState" in outcome["result"]
        ]

    @precondition(lambda self: self.suspended())
    @rule(data=st.data(), keep=KEPT, wrong=st.sampled_from([None, None, None, "user", "name"]))
    def retry(self, data: st.DataObject, keep: str, wrong: str | None) -> None:
        self.retry_with(*data.draw(st.sampled_from(self.suspended())), keep, wrong)

    def retry_with(self, call: Call, asked: Message, keep: str, wrong: str | None = None) -> None:
        state = asked["requestState"]
        self.note_suspended()
        keys = {"all": list(asked["inputRequests"]), "one": list(asked["inputRequests"])[:1], "none": []}[keep]
        responses = {
            key: {"answers": asked["inputRequests"][key]["params"].get("question"), "by": call.user} for key in keys
        }
        if wrong == "user":
            (other,) = set(USERS) - {call.user}
            refused = self.put_again(call, user=other, inputResponses=responses, requestState=state)
            assert refused.status == 400
            return
        if wrong == "name":
            refused = self.put_again(call, inputResponses=responses, requestState=state, name="other")
            assert refused.status == 400
            return
        self.simulation.settle()
        expired = self.simulation.now >= self.suspended_at[state] + INPUT_SECONDS
        spent = state in self.spent or expired
        self.spent.add(state)
        answer = self.put_again(call, inputResponses=responses, requestState=state)
        if spent:
            assert answer.status == 400, "a state is good once, and for a time"
            return
        call.answers.append(answer)
        shown = {request["params"].get("question") for request in asked["inputRequests"].values()}
        self.check_retry(call, answer, shown, {value["answers"] for value in responses.values()})

    def check_retry(self, call: Call, answer: Answer, shown: set[str], answered: set[str]) -> None:
        """Check that the retry has brought the client's answers to the server, and the server's to the client."""
        assert call.process is not None
        state = self.states[call.process]
        if call.wire_id in state.disturbed:
            return
        if not call.process.alive or not state.is_open(call.wire_id):
            assert answer.outcome is not None
            assert not call.process.alive or self.tells(answer, call)
        elif not call.process.told_to_end:
            assert answered <= state.responses.keys() | state.withdrawn
            left = shown - answered - state.withdrawn
            again = answer.outcome["result"]["inputRequests"].values() if answer.outcome is not None else ()
            assert left <= {request["params"].get("question") for request in again}
            assert not answered & {request["params"].get("question") for request in again}

    def is_suspended(self, call: Call) -> bool:
        """Whether the client was asked, and has not come back yet, for which it still has time."""
        last = call.answers[-1].outcome if call.answers else None
        state = last["result"].get("requestState") if last is not None and "result" in last else None
        return (
            isinstance(state, str)
            and state not in self.spent
            and self.simulation.now < self.suspended_at.get(state, self.simulation.now) + INPUT_SECONDS
        )

    @rule(user=st.sampled_from(USERS), really=RARELY)
    def revoke(self, user: str, really: bool) -> None:
        if not really:
            return
        mine = {answer for answer in self.everything_open() if answer.user == user}
        self.simulation.revoke(user)
        assert all(answer.finished for answer in mine)
        self.revoked |= mine

    # What the server does

    def alive(self) -> list[Process]:
        return [process for process in self.states if process.alive]

    def in_flight(self, process: Process) -> list[Call]:
        state = self.states[process]
        return [call for wire_id, call in state.calls.items() if state.is_open(wire_id)]

    def known_calls(self) -> list[Call]:
        return [call for call in self.calls if call.process is not None and call.process.alive]

    @precondition(lambda self: self.known_calls())
    @rule(data=st.data(), kind=st.sampled_from(["result", "error", "link", "unreadable", "no result", "cancel"]))
    def answer(self, data: st.DataObject, kind: str) -> None:
        self.simulation.settle()
        if not self.known_calls():
            return
        self.answer_with(data.draw(st.sampled_from(self.known_calls())), kind)

    def answer_with(self, call: Call, kind: str) -> None:
        assert call.process is not None
        state, wire_id = self.states[call.process], call.wire_id
        text = f"<call {call.number}>"
        expected = state.is_open(wire_id) and wire_id not in state.disturbed
        state.answered.add(wire_id)
        match kind:
            case "result":
                call.process.say(jsonrpc.result(wire_id, {"text": text}))
            case "error":
                call.process.say(jsonrpc.error(wire_id, -32000, text))
            case "link":
                wanted = {"mode": "url", "elicitationId": "e", "url": "https://example.com/", "message": text}
                call.process.say(jsonrpc.error(wire_id, -32042, "visit", {"elicitations": [wanted]}))
            case "unreadable":
                call.process.write(json.dumps(jsonrpc.result(wire_id, {"text": text})).encode()[:-3] + b"\n")
            case "no result":
                call.process.say({"jsonrpc": "2.0", "id": wire_id, "result": [text]})
            case "cancel":
                reason = {"requestId": wire_id, "reason": text}
                call.process.say(jsonrpc.notification("notifications/cancelled", reason))
        last = call.answers[-1]
        waits = not last.finished
        self.simulation.settle()
        if expected and waits:
            assert last.finished, "an answer reaches its client"
            assert self.tells(last, call)

    def tells(self, answer: Answer, call: Call) -> bool:
        """Whether this is what the server said of the call; nothing can be passed on of a result that is no object."""
        return answer.marks("call") == {str(call.number)} or b"result is not an object" in answer.data

    @precondition(lambda self: self.alive())
    @rule(data=st.data(), method=st.sampled_from([*QUESTIONS]), settled=st.booleans())
    def ask(self, data: st.DataObject, method: str, settled: bool) -> None:
        if settled or self.shared:
            self.simulation.settle()
        # A question rarely reaches a client but during a call.
        calling = [process for process in self.alive() if self.in_flight(process)]
        process = data.draw(st.sampled_from(calling or self.alive()))
        question = self.ask_by(process, method)
        if settled or self.shared:
            self.simulation.settle()
            if self.states[process].asked[question] == "nobody" and not process.told_to_end:
                assert "error" in self.states[process].responses[question]

    def ask_by(self, process: Process, method: str) -> str:
        state, question = self.states[process], f"question-{next(self.counter)}"
        user = self.user_of(process)
        state.asked[question] = user
        params = {**QUESTIONS[method], "message": f"<user {user}>", "question": question}
        process.say({"jsonrpc": "2.0", "id": question, "method": method, "params": params})
        return question

    def user_of(self, process: Process) -> str:
        """Return the only user with calls in this process, or "nobody" if several users have some, or none has."""
        if not self.shared:
            return str(process.started_for)
        users = {call.user for call in self.in_flight(process)}
        return users.pop() if len(users) == 1 else "nobody"

    @precondition(lambda self: any(self.states[process].asked for process in self.alive()))
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        asked = [(process, question) for process in self.alive() for question in self.states[process].asked]
        process, question = data.draw(st.sampled_from(asked))
        self.states[process].withdrawn.add(question)
        process.say(jsonrpc.notification("notifications/cancelled", {"requestId": question}))

    @precondition(lambda self: self.known_calls())
    @rule(data=st.data())
    def report(self, data: st.DataObject) -> None:
        self.simulation.settle()
        if not self.known_calls():
            return
        call = data.draw(st.sampled_from(self.known_calls()))
        assert call.process is not None
        state, last = self.states[call.process], call.answers[-1]
        wanted = "progressToken" in call.meta and not last.finished and state.is_open(call.wire_id)
        before = len(last.messages)
        params = {"progressToken": call.wire_id, "progress": 1, "message": f"<call {call.number}>"}
        call.process.say(jsonrpc.notification("notifications/progress", params))
        self.simulation.settle()
        if call.wire_id not in state.disturbed:
            assert len(last.messages) == before + wanted

    @precondition(lambda self: self.alive())
    @rule(data=st.data())
    def log(self, data: st.DataObject) -> None:
        self.simulation.settle()
        if not self.alive():
            return
        process = data.draw(st.sampled_from(self.alive()))
        params = {"level": "error", "data": f"<user {self.user_of(process)}>"}
        calling = self.in_flight(process)
        wanting = [call.answers[-1] for call in calling if "logLevel" in call.meta and not call.answers[-1].finished]
        before = [len(answer.messages) for answer in wanting]
        process.say(jsonrpc.notification("notifications/message", params))
        self.simulation.settle()
        brought = sum(len(answer.messages) for answer in wanting) - sum(before)
        if not self.states[process].disturbed & {call.wire_id for call in calling}:
            assert brought == 0 or len(wanting) == 1, "nobody can tell which call it is about"
            assert brought == 1 or len(calling) != 1 or not wanting or process.told_to_end

    @precondition(lambda self: self.alive())
    @rule(data=st.data(), uri=st.none() | st.sampled_from(URIS))
    def change(self, data: st.DataObject, uri: str | None) -> None:
        self.simulation.settle()
        if not self.alive():
            return
        process = data.draw(st.sampled_from(self.alive()))
        method = "notifications/tools/list_changed" if uri is None else "notifications/resources/updated"
        concerned = [
            answer
            for answer, wanted in self.subscriptions.items()
            if not answer.finished
            and (wanted["toolsListChanged"] if uri is None else uri in wanted["resourceSubscriptions"])
        ]
        before = {answer: len(answer.messages) for answer in self.subscriptions}
        process.say(jsonrpc.notification(method, {} if uri is None else {"uri": uri}))
        self.simulation.settle()
        for answer, count in before.items():
            brought = answer.messages[count:]
            assert len(brought) <= (answer in concerned)
            assert all(message["method"] == method for message in brought)
            assert len(self.states) > 1 or bool(brought) == (answer in concerned)

    @precondition(lambda self: self.alive())
    @rule(data=st.data())
    def catch_up(self, data: st.DataObject) -> None:
        process = data.draw(st.sampled_from(self.alive()))
        for wire_id in list(self.states[process].own):
            self.answer_own(process, wire_id)

    @precondition(lambda self: self.alive())
    @rule(data=st.data(), message=NOISE | ALMOST, really=RARELY)
    def talk_nonsense(self, data: st.DataObject, message: Any, really: bool) -> None:
        if not really:
            return
        process = data.draw(st.sampled_from(self.alive()))
        state = self.states[process]
        state.disturbed |= {*state.calls, *state.own}
        state.nonsense += [
            each.get("id") for each in (message if isinstance(message, list) else [message]) if isinstance(each, dict)
        ]
        process.say(message)

    @precondition(lambda self: self.alive())
    @rule(data=st.data(), status=st.integers(0, 3), really=RARELY)
    def die(self, data: st.DataObject, status: int, really: bool) -> None:
        if really:
            data.draw(st.sampled_from(self.alive())).die(status)

    @rule(seconds=st.sampled_from([0, 0, 1, 1, 12, 31, 46, 75]))
    def wait(self, seconds: float) -> None:
        # A question that is on its way now begins to wait for its client now.
        self.simulation.settle()
        self.note_suspended()
        self.simulation.wait(seconds)

    def note_suspended(self) -> None:
        for _, asked in self.suspended():
            self.suspended_at.setdefault(asked["requestState"], self.simulation.now)

    # What holds

    @invariant()
    def each_answer_is_one_and_about_its_own_call(self) -> None:
        self.simulation.check()
        self.note_suspended()
        for call in self.calls:
            for answer in call.answers:
                self.check_answer(answer)
                assert answer.marks("call") <= {str(call.number)}
                for message in answer.messages:
                    if message.get("method") == "notifications/progress":
                        assert message["params"]["progressToken"] == call.meta["progressToken"]
        for answer in self.subscriptions:
            self.check_answer(answer)
            for message in answer.messages:
                if "method" in message:
                    assert message["params"]["_meta"][PREFIX + "subscriptionId"] == answer.request_id

    def check_answer(self, answer: Answer) -> None:
        assert answer.marks("user") <= {answer.user}
        assert len(answer.outcomes) <= 1
        if answer.outcome is not None:
            assert answer.finished
            assert answer.messages[-1] is answer.outcome
            assert answer.outcome["id"] == answer.request_id or answer in self.revoked
        elif answer.finished:
            assert answer.gone or answer in self.revoked

    def end(self) -> None:
        self.slow = False
        for process in self.alive():
            for wire_id in list(self.states[process].own):
                self.answer_own(process, wire_id)
        self.simulation.settle()
        self.note_suspended()
        match self.ending:
            case "clients leave":
                self.leave_all()
            case "processes die":
                self.simulation.die_all()
            case "silence":
                self.leave_subscriptions()
            case "the bridge stops":
                self.stopping = True
                self.simulation.drain(busy=bool(self.everything_open()))
        self.simulation.wait(INPUT_SECONDS + CALL_SECONDS_IN_ALL)
        assert [*self.everything_open()] == []
        self.each_answer_is_one_and_about_its_own_call()
        self.simulation.wait_for_idle_end()
        for process, state in self.states.items():
            if process.status == 0 and process.told_to_end and self.ending != "the bridge stops":
                self.check_process(state)
        self.simulation.check_nothing_is_left()
        self.forget()
        assert self.simulation.count_kept_answers() == 0

    def leave_subscriptions(self) -> None:
        for answer in self.subscriptions:
            answer.leave()

    def leave_all(self) -> None:
        for answer in self.everything_open():
            answer.leave()

    def check_process(self, state: State) -> None:
        """Nothing is left open at a server that was told to end because nobody used it."""
        for wire_id in (*state.calls, *state.own):
            assert not state.is_open(wire_id) or wire_id in state.disturbed
        assert state.asked.keys() == state.withdrawn | state.responses.keys()
        assert not state.watched

    def forget(self) -> None:
        for call in self.calls:
            call.answers.clear()
        self.subscriptions.clear()
        self.revoked.clear()


TestModernForLegacy = pytest.mark.timeout(600)(ModernForLegacyMachine.TestCase)
TestModernForLegacy.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_a_retry_of_another_user_waits_for_the_tools_of_a_slow_server() -> None:
    machine = ModernForLegacyMachine()
    machine.begin(isolation="per-session", slow=True, ending="silence")
    machine.call("ada", ALL, "tools/call", None, None, arguments=True, questions=[], meanwhile="nothing", retries=[])
    (call,) = machine.calls
    (process,) = machine.alive()
    for wire_id in list(machine.states[process].own):
        machine.answer_own(process, wire_id)
    machine.simulation.settle()
    machine.ask_by(process, "elicitation/create")
    machine.simulation.settle()
    (suspended,) = machine.suspended()
    machine.retry_with(*suspended, "all", "user")
    machine.retry_with(*suspended, "all", "name")
    machine.retry_with(*suspended, "all")
    machine.answer_with(call, "result")
    machine.each_answer_is_one_and_about_its_own_call()
    machine.teardown()
