"""Lines of servers that are no proper answers: each call is answered or fails at once, and none waits."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from stdio_bridge.protocol import jsonrpc, malformed
from tests.stdio_bridge.running import Bridge, rpc
from tests.stdio_bridge.test_faults import Call, eventually, faulty, metric


@pytest.fixture(scope="module")
def bridge() -> Iterator[Bridge]:
    with faulty(options=("--log-level", "debug")) as running:
        yield running


@pytest.fixture(scope="module")
def session(bridge: Bridge) -> str:
    return bridge.initialize()


def answer_to(bridge: Bridge, session: str, line: bytes) -> dict[str, object]:
    """What the client gets when the server writes this line, with its own id of the call for ID."""
    params = {"name": "raw", "arguments": {"hex": line.hex()}}
    status, _, content = bridge.request("POST", rpc("tools/call", params, 77), Mcp_Session_Id=session)
    assert status == 200
    answer: dict[str, object] = json.loads(content)
    assert answer["id"] == 77
    return answer


@pytest.mark.parametrize(
    ("line", "result"),
    [
        (b'{"jsonrpc":"2.0","id":"ID","result":{"a":1}}', {"a": 1}),
        (b'{"jsonrpc":"2.0","id":" ID ","result":{"a":1}}', {"a": 1}),
        (b'{"jsonrpc":"2.0","id":ID.0,"result":{"a":1}}', {"a": 1}),
        (b'\xef\xbb\xbf{"jsonrpc":"2.0","id":ID,"result":{"a":1}}', {"a": 1}),
        (b'{"jsonrpc":"2.0","id":ID,"result":{"a":[NaN,Infinity,-Infinity,1e999]}}', {"a": [None] * 4}),
        (b'{"jsonrpc":"2.0","id":ID,"result":{"a":%b}}' % (b"9" * 5000), {"a": None}),
        (b'{"jsonrpc":"2.0","id":ID,"result":{"a":"caf\xe9"}}', {"a": "caf\ufffd"}),
        (b'{"jsonrpc":"2.0","id":ID,"result":{"a":"x\ty\x00"}}', {"a": "x\ty\x00"}),
        (b'{"jsonrpc":"2.0","id":ID,"result":{"a":1},"error":null}', {"a": 1}),
        (b'{"jsonrpc":"2.0","id":ID,"result":{"a":1},"method":null}', {"a": 1}),
        (b'[{"jsonrpc":"2.0"},{"jsonrpc":"2.0","id":ID,"result":{"a":1}}]', {"a": 1}),
    ],
)
def test_what_an_official_client_reads_is_read_too(
    bridge: Bridge, session: str, line: bytes, result: dict[str, object]
) -> None:
    assert answer_to(bridge, session, line)["result"] == result


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","id":ID,"result":{"a":1},"error":{"code":-32603.0,"message":"no"}}',
        b'{"jsonrpc":"2.0","id":ID,"result":null,"error":{"code":-32603,"message":"no"}}',
    ],
)
def test_an_error_beside_a_result_is_what_counts(bridge: Bridge, session: str, line: bytes) -> None:
    assert answer_to(bridge, session, line)["error"] == {"code": -32603, "message": "no"}


BROKEN = [
    b'{"jsonrpc":"2.0","id":ID,"result":{"a":1,},}',
    b'{"jsonrpc":"2.0","id":ID,"result":{"a":"begun',
    b'{"id":ID,"jsonrpc":"2.0","result":{"a":oops}}',
    b'{"jsonrpc":"2.0","result":{"a":oops},"id":ID}',
    b'{"result":{"a":oops},"id":"ID","jsonrpc":"2.0"}',
    b"{'jsonrpc': '2.0', 'id': ID, 'result': {'a': None}}",
    b'{"jsonrpc":"2.0","id":ID,"result":{"a":' + b"[" * 2000 + b"]" * 2000 + b"}}",
    b'{"jsonrpc":"2.0","id":ID,"result":{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}}",
    b'{"jsonrpc":"2.0","id":ID,"result":{"a":1}} trailing',
    b'{"jsonrpc":"2.0","id":ID,"result":{"a":1}}{"jsonrpc":"2.0","method":"notifications/x"}',
    b'{"jsonrpc":"2.0","id":ID,"result":[1]}',
    b'{"jsonrpc":"2.0","id":ID,"result":null}',
    b'{"jsonrpc":"2.0","id":ID,"error":"boom"}',
    b'{"jsonrpc":"2.0","id":ID,"error":null}',
    b'{"jsonrpc":"2.0","id":ID}',
    b'{"jsonrpc":2.0,"id":ID,"result":{"a":1}}',
    b'{"id":ID,"result":{"a":1}}',
    b'[{"jsonrpc":"2.0","id":ID,"error":[]},{"jsonrpc":"2.0","method":"notifications/x"}]',
    b'{"jsonrpc":"2.0","method":"notifications/x","params":{"a":{}}}{"jsonrpc":"2.0","id":ID,"result":{}}',
    b'{"jsonrpc":"2.0","id":999999,"result":{}} {"jsonrpc":"2.0","id":ID,"result":{}}',
    b'{"jsonrpc":"2.0","result":{"a":{}},"id":ID} in 3 ms',
    b'{"result":{},"jsonrpc":"2.0","id":ID}{"jsonrpc":"2.0","method":"notifications/x"}',
    b'[{"jsonrpc":"2.0","id":ID,"result":{}},]',
    b'[{"jsonrpc":"2.0","id":ID,"result":{}}',
    b'{"jsonrpc":"2.0","id":ID,"method":"tools/call","result":{}}',
    b'{"jsonrpc":"2.0","id":ID,"method":7,"error":{"code":1,"message":"no"}}',
    b"{ jsonrpc: '2.0', id: ID, result: { content: [ [Object] ] } }",
]


@pytest.mark.parametrize("line", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_answer_fails_its_call_at_once_and_says_why(bridge: Bridge, session: str, line: bytes) -> None:
    error = answer_to(bridge, session, line)["error"]
    assert isinstance(error, dict)
    assert error["code"] == jsonrpc.INTERNAL_ERROR
    assert error["message"].startswith("the MCP server's answer cannot be read: ")


def test_the_error_shows_how_the_answer_begins_and_the_line_is_counted(bridge: Bridge, session: str) -> None:
    before = metric(bridge, "mcp_bridge_skipped_lines_total")
    error = answer_to(bridge, session, b'{"jsonrpc":"2.0","id":ID,"result":{"a":1,}}')["error"]
    assert isinstance(error, dict)
    assert "not valid JSON: " in error["message"]
    assert '; it begins: {"jsonrpc":"2.0","id":' in error["message"]
    assert metric(bridge, "mcp_bridge_skipped_lines_total") == before + 1


@pytest.mark.parametrize(
    "before", [b"secret of another user ", b'{"level":"info","secret":{"a":1}} ', b'secret {"a":{"b":1}} sent ']
)
def test_an_answer_that_does_not_begin_its_line_fails_its_call_and_shows_nothing_of_the_line(
    bridge: Bridge, session: str, before: bytes
) -> None:
    error = answer_to(bridge, session, before + b'{ "jsonrpc":"2.0","id":ID,"result":{}}')["error"]
    assert isinstance(error, dict)
    assert "does not begin its line" in error["message"]
    assert "secret" not in error["message"]


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","id":999999,"result":{"a":"secret"}}{"jsonrpc":"2.0","id":ID,"result":{}}',
        b'{"jsonrpc":"2.0","result":{"a":"secret"},"id":999999}{"jsonrpc":"2.0","result":{},"id":ID}',
        b'{"jsonrpc":"2.0","method":"notifications/x","params":{"a":"secret"}}{"jsonrpc":"2.0","id":ID,"result":{}}',
        b'[{"jsonrpc":"2.0","id":999999,"result":{"a":"secret"}},{"jsonrpc":"2.0","id":ID,"error":"boom"}]',
    ],
)
def test_a_client_is_shown_nothing_of_what_else_stands_on_the_line(bridge: Bridge, session: str, line: bytes) -> None:
    error = answer_to(bridge, session, line)["error"]
    assert isinstance(error, dict)
    assert "cannot be read" in error["message"]
    assert "secret" not in error["message"]


def test_each_of_several_answers_on_one_line_ends_its_call() -> None:
    line = (
        b'{"jsonrpc":"2.0","id":1,"result":{}}{"result":{},"id":2,"jsonrpc":"2.0"} {"jsonrpc":"2.0","id":3,"result":{,'
    )
    assert malformed.find_answered_among(line).at_once == {1, 2}
    assert malformed.find_answered_among(b"[" + line[:40] + b"," + line[:40]).at_once == {1}


def test_an_empty_batch_is_counted(bridge: Bridge, session: str) -> None:
    before = metric(bridge, "mcp_bridge_skipped_lines_total")
    assert "result" in answer_to(bridge, session, b'[]\n{"jsonrpc":"2.0","id":ID,"result":{}}')
    assert metric(bridge, "mcp_bridge_skipped_lines_total") == before + 1


@pytest.mark.parametrize(
    "line",
    [
        b'sending {"jsonrpc":"2.0","id":ID,"result":{"a":1}}',
        b'{"level":"info","id":ID,"result":{"a":1}}',
        b'{"level":"info","id":ID,"error":"x"}',
        b'id: ID, "result": {}',
        b'{"jsonrpc":"2.0","id":ID,"method":"roots/list","params":[1]}',
        b'{"jsonrpc":"2.0","method":"notifications/message","params":{"data":{oops},"id":ID}}',
    ],
)
def test_a_line_about_something_else_ends_no_call(bridge: Bridge, session: str, line: bytes) -> None:
    good = b'{"jsonrpc":"2.0","id":ID,"result":{"good":true}}'
    assert answer_to(bridge, session, line + b"\n" + good)["result"] == {"good": True}


def test_only_the_call_that_a_broken_line_answers_ends(bridge: Bridge) -> None:
    session = bridge.initialize()
    calls = metric(bridge, "mcp_bridge_calls_in_flight")
    waiting = Call(bridge, session, "never")
    eventually(lambda: metric(bridge, "mcp_bridge_calls_in_flight") == calls + 1)
    assert "error" in answer_to(bridge, session, b'{"jsonrpc":"2.0","id":ID,"result":{,}}')
    assert metric(bridge, "mcp_bridge_calls_in_flight") == calls + 1
    waiting.close()


def test_a_log_message_with_bytes_that_are_no_utf8_reaches_its_client(bridge: Bridge, session: str) -> None:
    message = b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"\xe2\x82"}}\n'
    params = {"name": "raw", "arguments": {"hex": (message + b'{"jsonrpc":"2.0","id":ID,"result":{}}').hex()}}
    content = bridge.request("POST", rpc("tools/call", params), Mcp_Session_Id=session)[2]
    assert b'"data":"\\ufffd"' in content


def test_each_of_several_lines_that_are_too_long_ends_its_call() -> None:
    with faulty(options=("--max-message-bytes", "500")) as bridge:
        session = bridge.initialize()
        lines = b'{"jsonrpc":"2.0","id":ID,"result":"FILL"}\n{"jsonrpc":"2.0","method":"FILL"}'
        assert "has more than 500 bytes" in str(answer_to(bridge, session, lines)["error"])
        assert metric(bridge, "mcp_bridge_skipped_lines_total") == 2


def test_a_call_that_the_server_cancels_fails_at_once(bridge: Bridge, session: str) -> None:
    line = b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":ID,"reason":"no room"}}'
    error = answer_to(bridge, session, line)["error"]
    assert isinstance(error, dict)
    assert error["message"] == "the MCP server cancelled the call: no room"


def test_a_message_that_nobody_waits_for_is_counted_and_named_in_the_log(bridge: Bridge, session: str) -> None:
    before = metric(bridge, "mcp_bridge_dropped_messages_total")
    late = b'{"jsonrpc":"2.0","id":999999,"result":{"secret":1}}\n{"jsonrpc":"2.0","id":ID,"result":{}}'
    assert "result" in answer_to(bridge, session, late)
    assert metric(bridge, "mcp_bridge_dropped_messages_total") == before + 1
    line = bridge.wait_for_line("DEBUG dropped an answer: no call with its id is in flight")
    assert "secret" not in line.string


@pytest.mark.parametrize("token", [b"ID", b'"ID"', b"ID.0"])
def test_a_progress_token_may_come_back_as_an_id_may(bridge: Bridge, session: str, token: bytes) -> None:
    progress = b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%b,"progress":1}}\n'
    line = progress % token + b'{"jsonrpc":"2.0","id":ID,"result":{}}'
    params = {"name": "raw", "arguments": {"hex": line.hex()}, "_meta": {"progressToken": "mine"}}
    content = bridge.request("POST", rpc("tools/call", params), Mcp_Session_Id=session)[2]
    events = [json.loads(line[6:]) for line in content.splitlines() if line.startswith(b"data: {")]
    assert events[0]["params"] == {"progressToken": "mine", "progress": 1}


@pytest.mark.parametrize("value", [True, None, [1], {}, 1.5, "1.5", "x", "", "1" * 40, "-1", float("inf")])
def test_nothing_else_is_taken_for_a_number(value: object) -> None:
    assert jsonrpc.find_number(value) is None


def test_a_line_is_looked_through_at_its_ends_only() -> None:
    line = b'{"jsonrpc":"2.0","result":"' + b'"id":1,' * 100_000 + b'"id":7}'
    assert malformed.find_answered(line, line) == 7
    middle = b'{"jsonrpc":"2.0",' + b" " * 5000 + b'"id":7,"result":{}' + b" " * 5000
    assert malformed.find_answered(middle, middle) is None
