"""The whole bridge, over HTTP, in front of a real process."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stdio_bridge.running import KEY, ROOT, Bridge, assertion, rpc, signed


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    with Bridge("--no-identity") as running:
        yield running


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Bridge]:
    key = tmp_path / "key"
    key.write_text(KEY + "\n")
    with Bridge("--require-identity", str(key)) as running:
        yield running


def test_each_session_has_a_process_of_its_own_and_keeps_it(bridge: Bridge) -> None:
    one, two = bridge.initialize(), bridge.initialize()
    pids = [bridge.call(session, "pid")[2] for session in (one, one, two)]
    assert pids[0] == pids[1] != pids[2]


def test_a_notification_is_accepted_without_a_body(bridge: Bridge) -> None:
    session = bridge.initialize()
    note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    status, _, content = bridge.request("POST", note, Mcp_Session_Id=session)
    assert (status, content) == (202, b"")


def test_an_answer_alone_is_json_and_one_with_a_log_line_before_it_is_an_event_stream(bridge: Bridge) -> None:
    session = bridge.initialize()
    assert bridge.call(session, "pid")[1]["content-type"] == "application/json"
    _, headers, content = bridge.call(session, "log")
    assert headers["content-type"] == "text/event-stream"
    events = [json.loads(line[6:]) for line in content.splitlines() if line.startswith(b"data: {")]
    assert [event.get("method") for event in events] == ["notifications/message", None]
    assert events[1]["id"] == 1


def test_a_crash_fails_the_call_at_once_with_the_status_and_the_last_words(bridge: Bridge) -> None:
    session = bridge.initialize()
    _, _, content = bridge.call(session, "crash")
    assert "exited with status 3" in json.loads(content)["error"]["message"]
    assert "the tool broke" in json.loads(content)["error"]["message"]
    assert bridge.call(session, "pid")[0] == 404


def test_noise_and_a_megabyte_of_stderr_do_not_hinder_a_call(bridge: Bridge) -> None:
    assert bridge.call(bridge.initialize(), "noise")[0] == 200


def test_a_deleted_session_is_unknown_at_once_and_its_process_goes(bridge: Bridge) -> None:
    session = bridge.initialize()
    (child,) = bridge.children()
    assert bridge.request("DELETE", Mcp_Session_Id=session)[0] in {200, 204}
    assert bridge.call(session, "pid")[0] == 404
    child.wait(60)


def test_a_session_that_does_not_exist_is_404_and_a_missing_id_400(bridge: Bridge) -> None:
    assert bridge.call("made-up", "pid")[0] == 404
    assert bridge.request("POST", rpc("tools/list", {}))[0] == 400


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        pytest.param(400, b"{", {}, id="not JSON"),
        pytest.param(400, b"[]", {}, id="an empty batch"),
        pytest.param(400, b'{"id":1}', {}, id="not JSON-RPC"),
        pytest.param(400, b'{"jsonrpc":"2.0","id":null,"method":"ping"}', {}, id="a null id"),
        pytest.param(406, b"{}", {"Accept": "text/html"}, id="an Accept we cannot meet"),
        pytest.param(415, b"{}", {"Content_Type": "text/plain"}, id="another media type"),
        pytest.param(403, b"{}", {"Origin": "https://evil.example"}, id="a foreign page"),
        pytest.param(403, b"{}", {"Host": "evil.example"}, id="a rebound name"),
        pytest.param(403, b"{}", {"Host": "[::1"}, id="a Host that is none"),
        pytest.param(403, b"{}", {"Host": "localhost" + "." * 300}, id="a Host longer than names are"),
        pytest.param(403, b"{}", {"Origin": "http://[::1"}, id="an Origin that is none"),
        pytest.param(403, b"{}", {"Origin": "null"}, id="a page of no origin"),
    ],
)
def test_bad_requests_are_refused_in_json_rpc(
    bridge: Bridge, status: int, body: bytes, headers: dict[str, str]
) -> None:
    got, _, content = bridge.request("POST", body, **headers)
    assert got == status
    assert json.loads(content)["error"]["message"]


# The largest is more than a client can have sent before it is refused: it is still sending, and has to read why.
@pytest.mark.parametrize("size", [1001, 30_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused_in_json_rpc(size: int, chunked: bool) -> None:
    with Bridge("--no-identity", "--max-message-bytes", "1000") as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
        body = b" " * size
        connection.request("POST", "/mcp", iter([body]) if chunked else body, encode_chunked=chunked)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["error"]["code"]) == (413, -32600)
        connection.close()


PAGE = "http://localhost:6274"


def test_a_page_of_an_allowed_origin_is_let_see_every_answer(bridge: Bridge) -> None:
    params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    _, opened, _ = bridge.request("POST", rpc("initialize", params), Origin=PAGE)
    session = opened["mcp-session-id"]
    answers = [
        opened,
        bridge.call(session, "log", Origin=PAGE)[1],
        bridge.call("no such", "pid", Origin=PAGE)[1],
        bridge.request("DELETE", Mcp_Session_Id=session, Origin=PAGE)[1],
    ]
    assert answers[1]["content-type"] == "text/event-stream"
    for headers in answers:
        assert headers["access-control-allow-origin"] == PAGE
        assert headers["vary"] == "Origin"
        assert "mcp-session-id" in headers["access-control-expose-headers"].lower()


def test_a_browser_that_asks_first_is_told_what_the_page_may_send(bridge: Bridge) -> None:
    asked = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "mcp-session-id"}
    status, headers, _ = bridge.request("OPTIONS", Origin=PAGE, **asked)
    assert status == 204
    assert headers["access-control-allow-origin"] == PAGE
    assert headers["access-control-allow-methods"] == "GET, POST, DELETE"
    assert headers["access-control-allow-headers"] == "*, Authorization"
    assert bridge.request("OPTIONS", Origin=PAGE, MCP_Protocol_Version="2026-07-28")[0] == 204


def test_no_other_page_is_let_see_anything_and_no_program_is_told_of_it(bridge: Bridge) -> None:
    for method in ("OPTIONS", "POST"):
        status, headers, _ = bridge.request(method, rpc("ping", {}), Origin="http://evil.example")
        assert status == 403
        assert not [name for name in headers if name.startswith("access-control")]
    _, headers, _ = bridge.call(bridge.initialize(), "pid")
    assert not [name for name in headers if name.startswith("access-control")]
    assert bridge.request("OPTIONS")[0] == 405


def test_behind_the_gateway_browsers_are_the_gateways_to_tell(guarded: Bridge) -> None:
    identity = assertion("github:1")
    status, headers, _ = guarded.request("OPTIONS", Origin=PAGE, X_Gateway_Identity=identity)
    assert status == 405
    assert not [name for name in headers if name.startswith("access-control")]


def test_without_an_assertion_nothing_starts_whatever_the_plain_headers_claim(guarded: Bridge) -> None:
    status, _, _ = guarded.request("POST", rpc("initialize", {}), X_User_Id="github:1", X_User_Name="root")
    assert status == 403
    assert guarded.children() == []


def test_a_session_is_its_users_alone(guarded: Bridge) -> None:
    session = guarded.initialize(X_Gateway_Identity=assertion("github:1"))
    assert guarded.call(session, "pid", X_Gateway_Identity=assertion("github:2"))[0] == 404
    assert guarded.call(session, "pid", X_Gateway_Identity=assertion("github:1"))[0] == 200


def test_a_revocation_ends_the_streams_of_that_grant_only_when_it_is_signed(guarded: Bridge) -> None:
    mine = assertion("github:1", "g1")
    session = guarded.initialize(X_Gateway_Identity=mine)
    connection = http.client.HTTPConnection("127.0.0.1", guarded.port, timeout=60)
    headers = {"Accept": "text/event-stream", "Mcp-Session-Id": session, "X-Gateway-Identity": mine}
    connection.request("GET", "/mcp", headers=headers)
    stream = connection.getresponse()
    assert stream.readline() == b": open\n"
    assert guarded.request("POST", mine.encode(), path="/revocations")[0] == 403
    revocation = signed("revocation", {"sid": "g1"}).encode()
    assert guarded.request("POST", revocation, path="/revocations")[0] == 204
    assert b": open" not in stream.read()
    connection.close()


def test_sigterm_ends_every_process_and_the_status_is_0() -> None:
    with Bridge("--no-identity") as running:
        for _ in range(3):
            running.initialize()
        children = running.children()
        assert running.stop() == 0
        assert [child for child in children if child.is_running()] == []


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--no-identity", "--listen", "127.0.0.1:0", "--", "no-such-program"], "no-such-program"),
        (["--no-identity", "--listen", "nonsense", "--", "true"], "nonsense"),
        (["--no-identity", "--", "true"], "--listen"),
        (["--listen", "127.0.0.1:0", "--", "true"], "--require-identity"),
        (["--require-identity", "/nonexistent", "--listen", "127.0.0.1:0", "--", "true"], "/nonexistent"),
        (["--no-identity", "--listen", "127.0.0.1:0"], "command"),
    ],
)
def test_an_unusable_command_line_is_one_line_and_status_2(arguments: list[str], word: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "LISTEN_PID"}
    ended = subprocess.run(
        [sys.executable, "-m", "stdio_bridge", *arguments],
        capture_output=True, text=True, cwd=ROOT, timeout=60, check=False, env=environment,
    )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert word in ended.stderr
