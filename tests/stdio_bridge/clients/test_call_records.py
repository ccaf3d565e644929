"""Records of calls: how each begins and ends, as an observer is told."""

from __future__ import annotations

from typing import Any, cast

import pytest

from stdio_bridge.clients.call_records import CallEnd, CallRecord, CallRecords
from stdio_bridge.clients.request_body import Body
from stdio_bridge.http.exchange import Request
from stdio_bridge.http.identity import ANYONE
from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.calls import CallOutcome
from stdio_bridge.protocol.errors import HttpError, bad_request, stopping
from tests.stdio_bridge.running import rpc

Message = dict[str, Any]
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Observer:
    def __init__(self) -> None:
        self.begun: list[tuple[CallRecord, Message]] = []
        self.ended: list[CallRecord] = []

    def begin(self, record: CallRecord, message: Message) -> CallEnd:
        self.begun.append((record, message))
        return self.ended.append


class _Request:
    def __init__(self, **headers: str) -> None:
        self.headers = headers


class Watched:
    """Records with an observer, at a time that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0
        self.observer = Observer()
        self.records = CallRecords([self.observer], clock=lambda: self.now, time=lambda: 1000.0)

    def begin(self, *messages: Message, batch: bool = False, **headers: str) -> list[CallRecord]:
        body = Body(messages=list(messages), requests=list(messages), batch=batch, size=77)
        return self.records.begin(cast("Request", _Request(**headers)), body, ANYONE)


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_an_observer_is_told_of_a_request_and_of_its_one_end(watched: Watched) -> None:
    message = rpc("tools/call", {"name": "look", "arguments": {}})
    (record,) = watched.begin(message, traceparent=TRACE)
    assert watched.observer.begun == [(record, message)]
    assert (record.method, record.name, record.traceparent) == ("tools/call", "look", TRACE)
    assert (record.bytes_in, record.began_at, record.outcome) == (77, 1000.0, None)
    watched.now += 0.25
    record.answered(jsonrpc.result(1, {}), bytes_out=12)
    record.end(CallOutcome.TIMEOUT)
    watched.records.close()
    assert watched.observer.ended == [record]
    assert (record.outcome, record.seconds, record.bytes_out) == (CallOutcome.OK, 0.25, 12)


@pytest.mark.parametrize(
    ("method", "answer", "outcome", "ended"),
    [
        ("tools/call", {"result": {}}, None, CallOutcome.OK),
        ("tools/call", {"result": {"isError": False}}, None, CallOutcome.OK),
        ("tools/call", {"result": {"isError": True}}, None, CallOutcome.TOOL_ERROR),
        ("tools/call", {"result": {"isError": "yes"}}, None, CallOutcome.OK),
        ("tools/call", {"result": {"isError": True}}, CallOutcome.CLIENT_GONE, CallOutcome.CLIENT_GONE),
        ("prompts/get", {"result": {"isError": True}}, None, CallOutcome.OK),
        ("tools/call", {"error": {"code": -1}}, None, CallOutcome.ERROR),
        ("tools/call", {"error": {"code": -1}}, CallOutcome.SERVER_EXIT, CallOutcome.SERVER_EXIT),
        ("tools/call", {"error": {"code": -1}}, CallOutcome.DENIED, CallOutcome.DENIED),
    ],
)
def test_the_answer_is_the_outcome_unless_the_bridge_has_a_reason_of_its_own(
    watched: Watched, method: str, answer: Message, outcome: CallOutcome | None, ended: CallOutcome
) -> None:
    (record,) = watched.begin(rpc(method, {}))
    record.answered(answer, outcome, bytes_out=1)
    assert record.outcome is ended
    assert record.error_code == (-1 if "error" in answer else None)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (HttpError("403 Forbidden", -32000, "no"), CallOutcome.DENIED),
        (HttpError("429 Too Many Requests", -32000, "later"), CallOutcome.OVER_QUOTA),
        (stopping(), CallOutcome.ERROR),
        (bad_request(-32000, "no"), CallOutcome.ERROR),
    ],
)
def test_an_http_error_says_by_its_status_whether_a_call_was_denied_or_over_its_quota(
    watched: Watched, error: HttpError, outcome: CallOutcome
) -> None:
    (record,) = watched.begin(rpc("tools/list", {}))
    record.refused(error)
    assert (record.outcome, record.error_code) == (outcome, -32000)


@pytest.mark.parametrize(
    ("method", "is_connected", "outcome"),
    [
        ("tools/call", False, CallOutcome.CLIENT_GONE),
        ("tools/call", True, CallOutcome.CANCELLED),
        ("subscriptions/listen", False, CallOutcome.OK),
        ("subscriptions/listen", True, CallOutcome.CANCELLED),
    ],
)
def test_a_call_whose_client_leaves_ends(
    watched: Watched, method: str, is_connected: bool, outcome: CallOutcome
) -> None:
    (record,) = watched.begin(rpc(method, {}))
    record.left(is_connected=is_connected)
    assert record.outcome is outcome


def test_each_request_of_a_batch_has_a_record_with_its_own_size(watched: Watched) -> None:
    messages = [rpc("tools/call", {"name": "a"}), rpc("resources/read", {"uri": "memo://1"}), rpc("ping", {})]
    records = watched.begin(*messages, batch=True)
    assert [record.name for record in records] == ["a", "memo://1", None]
    assert [record.bytes_in for record in records] == [len(jsonrpc.encode(message)) for message in messages]


def test_the_trace_context_is_the_header_or_else_that_of_the_message(watched: Watched) -> None:
    message = rpc("ping", {"_meta": {"traceparent": "of the message"}})
    assert watched.begin(message)[0].traceparent == "of the message"
    assert watched.begin(message, traceparent="of the header")[0].traceparent == "of the header"
    assert watched.begin(rpc("ping", {"_meta": {"traceparent": 5}}))[0].traceparent is None


@pytest.mark.parametrize("params", [{}, {"name": 5}, {"name": None}, {"uri": "memo://1"}])
def test_a_tool_without_a_name_that_is_text_has_none(watched: Watched, params: Message) -> None:
    assert watched.begin(rpc("tools/call", params))[0].name is None


@pytest.mark.parametrize("method", ["Tools/Call", " tools/call", "TOOLS/CALL\n"])
def test_another_spelling_of_a_method_has_its_name_too(watched: Watched, method: str) -> None:
    (record,) = watched.begin(rpc(method, {"name": "drop"}))
    assert (record.method, record.name) == (method, "drop")


def test_what_nothing_has_ended_ends_with_the_bridge(watched: Watched) -> None:
    ended, open_ = watched.begin(rpc("ping", {}), rpc("tools/call", {"name": "slow"}))
    ended.answered(jsonrpc.result(1, {}), bytes_out=1)
    watched.records.close()
    assert watched.observer.ended == [ended, open_]
    assert open_.outcome is CallOutcome.SERVER_EXIT


def test_if_an_observer_fails_at_a_beginning_the_others_are_told_of_the_end() -> None:
    class Failing:
        def begin(self, record: CallRecord, message: Message) -> CallEnd:
            if message["method"] == "ping":
                return lambda ended: None
            raise RuntimeError(message["method"])

    observer = Observer()
    records = CallRecords([observer, Failing()], clock=lambda: 0.0, time=lambda: 0.0)
    messages = [rpc("ping", {}), rpc("tools/call", {"name": "look"}), rpc("ping", {})]
    body = Body(messages=messages, requests=messages, batch=True, size=1)
    with pytest.raises(RuntimeError, match="tools/call"):
        records.begin(cast("Request", _Request()), body, ANYONE)
    assert observer.ended == [record for record, _ in observer.begun]
    assert [(record.outcome, record.error_code) for record in observer.ended] == [(CallOutcome.ERROR, -32603)] * 2
    records.close()
    assert len(observer.ended) == 2


def test_without_observers_no_record_is_made() -> None:
    records = CallRecords([], clock=lambda: 0.0, time=lambda: 0.0)
    body = Body(messages=[], requests=[rpc("ping", {}), rpc("ping", {})], batch=True, size=1)
    first, second = records.begin(cast("Request", _Request()), body, ANYONE)
    assert first is second
    first.answered(jsonrpc.result(1, {}), bytes_out=1)
    first.refused(stopping())
    first.left(is_connected=False)
    assert first.outcome is None
