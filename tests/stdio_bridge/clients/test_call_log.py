"""Records of calls as JSON: what is in a line, and what names of clients and servers cannot do to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stdio_bridge.clients.call_log import CallLog
from stdio_bridge.clients.call_records import CallRecord
from stdio_bridge.http.identity import ANYONE, Identity
from stdio_bridge.io.event_loop import Loop
from stdio_bridge.io.metrics import Counter
from stdio_bridge.io.record_writer import RecordWriter
from stdio_bridge.options import RecordedArguments
from stdio_bridge.protocol.calls import CallOutcome
from stdio_bridge.protocol.errors import HttpError, bad_request
from tests.stdio_bridge.running import rpc

Message = dict[str, Any]
OCTOCAT = Identity(user="github:1", login="octocat", client="https://app.example/client", grant="g1")
SECRET = "hunter2"


class Memory:
    """A destination that keeps what it gets."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> int:
        self.written += data
        return len(data)

    def wait(self, seconds: float) -> None: ...

    def close(self) -> None: ...


class Recording:
    """A log whose lines the test reads."""

    def __init__(self, arguments: RecordedArguments = RecordedArguments.NONE, key: bytes = b"k" * 32) -> None:
        self.loop = Loop()
        self.memory = Memory()
        writer = RecordWriter(self.memory, self.loop, Counter())
        self.unrecorded = Counter()
        self.log = CallLog(writer, self.loop, server="notes", arguments=arguments, key=key, unrecorded=self.unrecorded)

    def line_of(
        self,
        method: str = "tools/call",
        params: Message | None = None,
        *,
        identity: Identity = OCTOCAT,
        traceparent: str | None = None,
        error_code: object = None,
    ) -> bytes:
        """Let a call begin and end, and return its line."""
        message = rpc(method, {"name": "look"} if params is None else params)
        record = CallRecord(
            message,
            identity,
            bytes_in=10,
            traceparent=traceparent,
            began_at=1_790_000_000.25,
            clock=iter([5.0, 5.5]).__next__,
        )
        record.observe(self.log.begin(record, message))
        record.end(CallOutcome.ERROR if error_code else CallOutcome.OK, error_code=error_code, bytes_out=20)
        self.memory.written = b""
        self.log.close()
        assert self.memory.written.count(b"\n") == 1
        return self.memory.written

    def record_of(self, *args: Any, **more: Any) -> Message:
        record: Message = json.loads(self.line_of(*args, **more))
        return record


def turn(loop: Loop) -> None:
    """Let the loop do what is due, and wait for no longer than a moment."""
    loop.call_later(0.01, lambda: None)
    loop.turn()


@pytest.fixture
def recording() -> Iterator[Recording]:
    recording = Recording()
    yield recording
    recording.loop.close()


def test_a_record_says_who_did_what_and_how_it_ended(recording: Recording) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    assert recording.record_of(traceparent=f"00-{trace}-00f067aa0ba902b7-01", error_code=-32602) == {
        "time": "2026-09-21T14:13:20.750Z",
        "server": "notes",
        "user": "github:1",
        "login": "octocat",
        "client": "https://app.example/client",
        "grant": "g1",
        "method": "tools/call",
        "tool": "look",
        "outcome": "error",
        "error_code": -32602,
        "milliseconds": 500.0,
        "bytes_in": 10,
        "bytes_out": 20,
        "trace_id": trace,
    }


def test_members_without_a_value_are_absent(recording: Recording) -> None:
    record = recording.record_of("ping", {}, identity=ANYONE)
    assert set(record) == {"time", "server", "method", "outcome", "milliseconds", "bytes_in", "bytes_out"}


@pytest.mark.parametrize(
    ("method", "params", "named"),
    [
        ("prompts/get", {"name": "hello"}, {"prompt": "hello"}),
        ("resources/read", {"uri": "memo://team/1"}, {"uri": "memo://team/1"}),
        ("resources/read", {"uri": f"memo://team/1?token={SECRET}"}, {"uri": "memo://team/1"}),
        ("resources/subscribe", {"uri": f"memo://team/1#{SECRET}"}, {"uri": "memo://team/1"}),
        ("tools/call", {"name": "a?b#c"}, {"tool": "a?b#c"}),
        ("Tools/Call ", {"name": "look"}, {"tool": "look"}),
        ("Resources/Read", {"uri": f"memo://team/1?token={SECRET}"}, {"uri": "memo://team/1"}),
        ("tools/list", {"name": SECRET}, {}),
        ("tools/call", {"name": 5}, {}),
    ],
)
def test_a_request_is_known_by_what_it_names_and_by_nothing_else(
    recording: Recording, method: str, params: Message, named: Message
) -> None:
    record = recording.record_of(method, params)
    assert {name: record[name] for name in ("tool", "prompt", "uri") if name in record} == named
    assert SECRET not in json.dumps(record)


@pytest.mark.parametrize(
    "name", ["a\nb", 'a","outcome":"ok', "a\x00b", "\x1b[31m", "\x7f", "\u202eexe", "\ud800", "\U0001f600"]
)
def test_a_name_cannot_end_its_line_or_move_a_cursor_and_is_read_as_it_was(recording: Recording, name: str) -> None:
    line = recording.line_of(params={"name": name})
    assert all(0x20 <= byte < 0x7F for byte in line[:-1])
    assert json.loads(line)["tool"] == name
    assert json.loads(line)["outcome"] == "ok"


@pytest.mark.parametrize("character", ["a", "\n", "\u2028", "\U0001f600", "\ud800", '"', "\x7f"])
def test_a_line_is_a_few_kib_at_most_however_long_the_names_are(character: str) -> None:
    recording = Recording(RecordedArguments.FULL)
    text = character * (1 << 20)
    somebody = Identity(user=text, login=text, client=text, grant=text)
    line = recording.line_of(text, {"name": text, "arguments": {text: text}}, identity=somebody)
    assert len(line) < 12_000
    record = json.loads(line)
    assert text.startswith(record["method"])
    assert record["method"]
    recording.loop.close()


@pytest.mark.parametrize(
    "traceparent",
    ["", "x", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "00-" + "g" * 32 + "-00f067aa0ba902b7-01", "\n" * 100_000],
)
def test_a_trace_context_that_is_none_is_left_out(recording: Recording, traceparent: str) -> None:
    assert "trace_id" not in recording.record_of(traceparent=traceparent)


@pytest.mark.parametrize("code", [10**400, -(10**400), 1.5, "x", True, None, [1]])
def test_an_error_code_that_is_no_number_of_common_size_is_left_out(recording: Recording, code: object) -> None:
    assert "error_code" not in recording.record_of(error_code=code)


def test_by_default_nothing_of_the_arguments_is_recorded(recording: Recording) -> None:
    line = recording.line_of(params={"name": "look", "arguments": {"password": SECRET}, "_meta": {"x": SECRET}})
    assert SECRET.encode() not in line
    assert b"argument" not in line


def test_a_digest_tells_equal_arguments_from_others_but_not_what_they_are() -> None:
    recording, other = Recording(RecordedArguments.DIGEST), Recording(RecordedArguments.DIGEST, key=b"other" * 8)
    call = {"name": "look", "arguments": {"a": 1, "b": SECRET}}
    same = {"name": "look", "arguments": {"b": SECRET, "a": 1}}
    digest = recording.record_of(params=call)["arguments_digest"]
    assert len(digest) == 64
    assert recording.record_of(params=same)["arguments_digest"] == digest
    assert recording.record_of(params={"name": "look", "arguments": {"a": 1}})["arguments_digest"] != digest
    assert other.record_of(params=call)["arguments_digest"] != digest
    assert SECRET.encode() not in recording.line_of(params=call)
    assert "arguments_digest" not in recording.record_of(params={"name": "look"})
    for each in (recording, other):
        each.loop.close()


def test_full_arguments_are_recorded_up_to_their_bound() -> None:
    recording = Recording(RecordedArguments.FULL)
    assert recording.record_of(params={"name": "look", "arguments": {"a": "\x7f\n"}})["arguments"] == {"a": "\x7f\n"}
    record = recording.record_of(params={"name": "look", "arguments": {"a": "x" * 5000}})
    assert "arguments" not in record
    assert record["arguments_bytes"] == 5008
    assert record["arguments_begin"].startswith('{"a":"xxx')
    assert len(record["arguments_begin"]) == 1024
    recording.loop.close()


def end_many(
    recording: Recording,
    count: int,
    *,
    method: str = "tools/call",
    outcome: CallOutcome = CallOutcome.DENIED,
    error: HttpError | None = None,
    identity: Identity = OCTOCAT,
) -> None:
    for _ in range(count):
        message = rpc(method, {"name": "look"})
        record = CallRecord(message, identity, bytes_in=1, traceparent=None, began_at=1.0, clock=lambda: 1.0)
        record.observe(recording.log.begin(record, message))
        if error is not None:
            record.refused(error)
        else:
            record.end(outcome)


@pytest.fixture
def clock(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Stop the loop's clock, which only the test moves."""
    now = [recording.loop.clock()]
    monkeypatch.setattr(recording.loop, "clock", lambda: now[0])
    return now


@pytest.mark.parametrize(
    "ended",
    [
        {"outcome": CallOutcome.DENIED},
        {"outcome": CallOutcome.OVER_QUOTA},
        {"outcome": CallOutcome.OK, "method": "tools/list"},
        {"outcome": CallOutcome.ERROR, "method": "no/such"},
        {"error": bad_request(-32600, "no")},
    ],
)
def test_requests_that_cost_nothing_have_a_bounded_number_of_records(
    recording: Recording, clock: list[float], caplog: pytest.LogCaptureFixture, ended: dict[str, Any]
) -> None:
    end_many(recording, 107, **ended)
    clock[0] += 0.5
    end_many(recording, 13, **ended)
    assert recording.unrecorded.value == 7 + 3
    end_many(recording, 5, outcome=CallOutcome.ERROR)
    end_many(recording, 5, outcome=CallOutcome.OK, method="Prompts/Get")
    end_many(recording, 5, identity=Identity(user="github:2"), **ended)
    recording.log.close()
    assert recording.memory.written.count(b"\n") == 100 + 10 + 15
    assert [record.getMessage() for record in caplog.records] == [
        "10 requests of 'github:1' have no record: too many were refused, or used no tool, prompt or resource"
    ]


def test_what_has_no_record_is_logged_once_a_minute(
    recording: Recording, clock: list[float], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    timers: list[tuple[float, Callable[[], None]]] = []
    monkeypatch.setattr(recording.loop, "call_later", lambda seconds, do: timers.append((seconds, do)))
    for number in (3, 4):
        end_many(recording, 100 + number)
        reports = [do for seconds, do in timers if seconds == 60]
        assert len(reports) == number - 2
        assert len(caplog.records) == number - 3
        reports[-1]()
        assert caplog.records[-1].args == (number, "'github:1'")
        clock[0] += 60


def test_executed_calls_always_have_a_record(recording: Recording, clock: list[float]) -> None:
    for outcome in (CallOutcome.OK, CallOutcome.TOOL_ERROR, CallOutcome.ERROR, CallOutcome.CLIENT_GONE):
        end_many(recording, 300, outcome=outcome)
    recording.log.close()
    assert recording.memory.written.count(b"\n") == 1200
    assert recording.unrecorded.value == 0


def test_the_number_of_users_with_an_allowance_is_bounded_and_none_is_forgotten_unreported(
    recording: Recording, clock: list[float], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stdio_bridge.clients.record_allowances._MAX_USERS", 2)
    end_many(recording, 103)
    for number in (2, 3):
        end_many(recording, 1, identity=Identity(user=f"github:{number}"))
    assert [record.args for record in caplog.records] == [(3, "'github:1'")]
    recording.log.close()
    assert len(caplog.records) == 1


def test_calls_that_end_together_are_written_soon_and_in_order(recording: Recording) -> None:
    for number in range(100):
        message = rpc("tools/call", {"name": f"t{number}"})
        record = CallRecord(message, OCTOCAT, bytes_in=1, traceparent=None, began_at=1.0, clock=lambda: 1.0)
        record.observe(recording.log.begin(record, message))
        record.end(CallOutcome.OK)
    while recording.memory.written.count(b"\n") < 100:
        turn(recording.loop)
    lines = recording.memory.written.splitlines()
    assert [json.loads(line)["tool"] for line in lines] == [f"t{number}" for number in range(100)]
