"""A real bridge records each call, however it ends."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stdio_bridge.modern_client import ModernClient
from tests.stdio_bridge.running import ECHO, KEY, SCRIPTED, Bridge, EventReader, assertion, rpc
from tests.stdio_bridge.test_faults import eventually

Message = dict[str, Any]
RULES = {"tools": {"rules": {"secret": {"deny": True}, "write": {"scopes": ["write"]}}}}
WAITING: Message = {
    "name": "run",
    "arguments": {"steps": [{"progress": 1}, {"wait": "for ever"}]},
    "_meta": {"progressToken": 1},
}


class Recorded(Bridge):
    """A bridge that writes records to a file, and a user's session."""

    def __init__(self, folder: Path, *options: str, command: tuple[str, ...] = ECHO) -> None:
        self.path = folder / "calls.jsonl"
        (folder / "key").write_text(KEY)
        (folder / "bridge.json").write_text(
            json.dumps({**RULES, "require-identity": str(folder / "key"), "server-name": "echo"})
        )
        super().__init__(
            *("--config", str(folder / "bridge.json"), "--call-records", str(self.path), *options), command=command
        )
        self.identity = {"X_Gateway_Identity": assertion("github:1", "g1", name="octocat", client_id="app")}

    def open(self) -> str:
        return self.initialize("2025-11-25", **self.identity)

    def do(self, session: str, method: str, params: Message) -> None:
        self.request("POST", rpc(method, params), Mcp_Session_Id=session, **self.identity)

    @property
    def records(self) -> list[Message]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def wait_for(self, **members: object) -> Message:
        """Wait for a record with these members, and return it."""
        eventually(lambda: any(members.items() <= record.items() for record in self.records))
        (record,) = [record for record in self.records if members.items() <= record.items()]
        return record


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[Recorded]:
    with Recorded(tmp_path) as running:
        yield running


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Recorded]:
    with Recorded(tmp_path, "--drain-timeout", "0.1", command=SCRIPTED) as running:
        yield running


def test_each_request_of_a_session_is_recorded_with_its_user(bridge: Recorded) -> None:
    session = bridge.open()
    bridge.do(session, "tools/call", {"name": "pid"})
    record = bridge.wait_for(method="tools/call")
    times = {name: record.pop(name) for name in ("time", "milliseconds")}
    assert times["time"].endswith("Z")
    assert times["milliseconds"] > 0
    assert record == {
        "server": "echo",
        "user": "github:1",
        "login": "octocat",
        "client": "app",
        "grant": "g1",
        "method": "tools/call",
        "tool": "pid",
        "outcome": "ok",
        "bytes_in": 78,
        "bytes_out": record["bytes_out"],
    }
    assert bridge.wait_for(method="initialize")["outcome"] == "ok"


@pytest.mark.parametrize(
    ("method", "name", "ended"),
    [
        ("tools/call", "fail", ("tool_error", None)),
        ("tools/call", "crash", ("server_exit", -32603)),
        ("tools/call", "secret", ("denied", -32602)),
        ("tools/call", "write", ("denied", -32000)),
        ("prompts/get", "x", ("error", -32601)),
    ],
)
@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_a_record_says_how_the_call_ended(
    bridge: Recorded, era: str, method: str, name: str, ended: tuple[str, int | None]
) -> None:
    if name == "write":  # which a second consent would allow
        granted = assertion("github:1", "g1", name="octocat", client_id="app", grantable_scope="write")
        bridge.identity = {"X_Gateway_Identity": granted}
    if era == "legacy":
        bridge.do(bridge.open(), method, {"name": name})
    else:
        ModernClient(bridge, {}, **bridge.identity).request(method, {"name": name})
    record = bridge.wait_for(method=method)
    assert (record["outcome"], record.get("error_code")) == ended
    assert record["user"] == "github:1"


def test_each_request_of_a_batch_is_recorded(bridge: Recorded) -> None:
    session = bridge.initialize("2025-03-26", **bridge.identity)
    batch = [rpc("tools/call", {"name": name}, number) for number, name in enumerate(("pid", "secret", "fail"))]
    assert bridge.request("POST", batch, Mcp_Session_Id=session, **bridge.identity)[0] == 200
    for tool, outcome in (("pid", "ok"), ("secret", "denied"), ("fail", "tool_error")):
        assert bridge.wait_for(tool=tool)["outcome"] == outcome


def test_a_request_that_is_refused_before_it_reaches_a_session_is_recorded(bridge: Recorded) -> None:
    bridge.do("made-up", "tools/call", {"name": "pid"})
    record = bridge.wait_for(method="tools/call")
    assert (record["outcome"], record["error_code"], record["bytes_out"]) == ("error", -32000, 0)


def test_a_request_without_an_identity_is_nobodys_and_not_recorded(bridge: Recorded) -> None:
    assert bridge.request("POST", rpc("tools/call", {"name": "pid"}))[0] == 403
    bridge.do("made-up", "ping", {})
    bridge.wait_for(method="ping")
    assert len(bridge.records) == 1


def test_a_call_that_takes_too_long_is_recorded_as_timed_out(tmp_path: Path) -> None:
    with Recorded(tmp_path, "--call-timeout", "3") as bridge:
        bridge.do(bridge.open(), "tools/call", {"name": "never"})
        assert bridge.wait_for(tool="never")["outcome"] == "timeout"


def test_a_call_that_its_client_cancels_is_recorded_as_cancelled(scripted: Recorded) -> None:
    session = scripted.open()
    stream = EventReader(scripted, "POST", rpc("tools/call", WAITING, 5), Mcp_Session_Id=session, **scripted.identity)
    stream.next()
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}}
    scripted.request("POST", cancelled, Mcp_Session_Id=session, **scripted.identity)
    stream.rest()
    assert scripted.wait_for(tool="run")["outcome"] == "cancelled"


def test_a_call_of_a_session_that_its_client_ends_is_recorded_as_left(scripted: Recorded) -> None:
    session = scripted.open()
    stream = EventReader(scripted, "POST", rpc("tools/call", WAITING), Mcp_Session_Id=session, **scripted.identity)
    stream.next()
    scripted.request("DELETE", Mcp_Session_Id=session, **scripted.identity)
    stream.rest()
    assert scripted.wait_for(tool="run")["outcome"] == "client_gone"


def send_and_leave(bridge: Recorded, body: Message, headers: dict[str, str]) -> None:
    """Disconnect while the call runs."""
    connection = http.client.HTTPConnection("127.0.0.1", bridge.port, timeout=60)
    given = {name.replace("_", "-"): value for name, value in (headers | bridge.identity).items()}
    given |= {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
    connection.request("POST", "/mcp", json.dumps(body), given)
    eventually(lambda: b"mcp_bridge_calls_in_flight 1" in bridge.request("GET", path="/metrics")[2])
    connection.close()


def test_a_modern_call_whose_client_leaves_is_recorded_as_left(scripted: Recorded) -> None:
    client = ModernClient(scripted)
    body = client.message("tools/call", {"name": "run", "arguments": {"steps": [{"wait": "for ever"}]}})
    send_and_leave(scripted, body, client.headers_for(body))
    assert scripted.wait_for(tool="run")["outcome"] == "client_gone"


def test_an_answer_that_no_client_waits_for_any_more_is_recorded_as_left(scripted: Recorded) -> None:
    session = scripted.open()
    body = rpc("tools/call", {"name": "run", "arguments": {"steps": [{"wait": "notifications/go"}]}})
    send_and_leave(scripted, body, {"Mcp_Session_Id": session})
    go = {"jsonrpc": "2.0", "method": "notifications/go"}
    scripted.request("POST", go, Mcp_Session_Id=session, **scripted.identity)
    record = scripted.wait_for(tool="run")
    assert (record["outcome"], record["bytes_out"]) == ("client_gone", 0)


def test_calls_that_run_when_the_bridge_stops_are_recorded(scripted: Recorded) -> None:
    session = scripted.open()
    stream = EventReader(scripted, "POST", rpc("tools/call", WAITING), Mcp_Session_Id=session, **scripted.identity)
    stream.next()
    scripted.process.terminate()
    stream.rest()
    scripted.stop()
    assert scripted.wait_for(tool="run")["outcome"] == "server_exit"


@pytest.mark.parametrize("size", [100, 1 << 20])
def test_a_name_of_any_size_is_one_short_line(bridge: Recorded, size: int) -> None:
    bridge.do(bridge.open(), "tools/call", {"name": "\x1b]0;\n" * size})
    eventually(lambda: len(bridge.path.read_bytes().splitlines()) == 2)
    line = bridge.path.read_bytes().splitlines()[1]
    assert len(line) < 2000
    assert all(0x20 <= byte < 0x7F for byte in line)
    assert json.loads(line)["tool"].startswith("\x1b]0;\n\x1b]0;\n")


def test_arguments_are_recorded_if_the_operator_says_so(tmp_path: Path) -> None:
    with Recorded(tmp_path, "--record-arguments", "full") as bridge:
        bridge.do(bridge.open(), "tools/call", {"name": "pid", "arguments": {"a": [1]}})
        assert bridge.wait_for(tool="pid")["arguments"] == {"a": [1]}
