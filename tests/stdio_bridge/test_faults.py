"""Servers and clients that misbehave: each fault stays with whom it is of, and nothing is left behind."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.stdio_bridge.modern_client import ModernClient
from tests.stdio_bridge.running import Bridge, rpc

FAULTY = (sys.executable, str(Path(__file__).with_name("faulty_server.py")))
MIB = 1 << 20
WAIT_SECONDS = 60
# The bridge takes about 20 MiB. What it may hold on top: a few copies of the longest message there can be.
MOST_MEMORY = 200 * MIB


@contextlib.contextmanager
def faulty(*faults: str, options: tuple[str, ...] = ()) -> Iterator[Bridge]:
    """Run a bridge in front of a faulty server; in the end nothing may be left of either."""
    with Bridge("--no-identity", "--drain-timeout", "0.1", *options, command=(*FAULTY, *faults)) as bridge:
        yield bridge
        children = bridge.children()
        assert bridge.stop() == 0
    assert not any(map(runs, children))


def runs(process: psutil.Process) -> bool:
    """Whether it has not ended; init may take its time to reap an orphan."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def resources(bridge: Bridge) -> tuple[int, int]:
    """Threads and open files, once it has noticed that all who were connected are gone."""
    process = psutil.Process(bridge.process.pid)
    eventually(lambda: {connection.status for connection in process.net_connections("tcp")} == {psutil.CONN_LISTEN})
    return process.num_threads(), process.num_fds()


def memory(bridge: Bridge) -> int:
    used: int = psutil.Process(bridge.process.pid).memory_info().rss
    return used


def eventually(condition: Callable[[], object]) -> None:
    """Wait until it holds."""
    turn = threading.Event()
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        turn.wait(0.01)


def error_of(content: bytes) -> str:
    message: str = json.loads(content)["error"]["message"]
    return message


def metric(bridge: Bridge, name: str) -> float:
    _, _, page = bridge.request("GET", path="/metrics")
    return next(float(line.split()[1]) for line in page.decode().splitlines() if line.startswith(f"{name} "))


def initialize_params(**capabilities: Any) -> dict[str, Any]:
    info = {"name": "t", "version": "1"}
    return {"protocolVersion": "2025-06-18", "capabilities": capabilities, "clientInfo": info}


def test_a_server_that_exits_at_start_fails_the_initialize_with_status_and_last_words() -> None:
    with faulty("--exit-at-start") as bridge:
        before = resources(bridge)
        for _ in range(3):
            _, headers, content = bridge.request("POST", rpc("initialize", initialize_params()))
            assert "exited with status 5" in error_of(content)
            assert "no such database" in error_of(content)
            assert "mcp-session-id" not in headers
        assert metric(bridge, "mcp_bridge_crashes_total") == 3
        assert metric(bridge, "mcp_bridge_sessions") == 0
        eventually(lambda: resources(bridge) <= before)


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        ("exit", ["exited with status 7", "the last words", "and on stdout: Traceback on stdout"]),
        ("killed", ["was ended by signal 9"]),
        ("close stdout", ["it had closed its stdout"]),
    ],
)
def test_a_server_that_ends_in_a_call_fails_what_is_in_flight_and_no_other_session(tool: str, words: list[str]) -> None:
    with faulty(options=("--stop-timeout", "0.3")) as bridge:
        before = resources(bridge)
        dying, living = bridge.initialize(), bridge.initialize()
        waiting = Call(bridge, dying, "never")
        _, _, content = bridge.call(dying, tool)
        for word in words:
            assert word in error_of(content)
        assert "secret" not in error_of(content)
        assert words[0] in error_of(waiting.content())
        assert bridge.call(dying, "pid")[0] == 404
        assert bridge.call(living, "pid")[0] == 200
        bridge.request("DELETE", Mcp_Session_Id=living)
        eventually(lambda: resources(bridge) <= before)


def test_a_server_that_hears_nothing_more_fails_its_next_call_at_once_and_is_ended() -> None:
    with faulty(options=("--stop-timeout", "0.3")) as bridge:
        session = bridge.initialize()
        assert "heard enough" in bridge.call(session, "close stdin")[2].decode()
        assert "it had closed its stdin" in error_of(bridge.call(session, "pid")[2])
        eventually(lambda: bridge.children() == [])
        assert metric(bridge, "mcp_bridge_crashes_total") == 1


def test_a_process_that_is_being_ended_is_given_to_nobody() -> None:
    options = ("--isolation", "shared", "--server-era", "legacy", "--stop-timeout", "60")
    with faulty(options=options) as bridge, ThreadPoolExecutor(2) as pool:
        legacy, modern = bridge.initialize(), ModernClient(bridge)
        # Neither leaves by itself, and a call of either lasts until it has.
        dying = pool.submit(bridge.call, legacy, "close stdout"), pool.submit(modern.call, "close stdout")
        eventually(lambda: metric(bridge, "mcp_bridge_spawns_total") == 2)
        eventually(lambda: metric(bridge, "mcp_bridge_processes") == 0)
        ending = bridge.children()
        assert bridge.call(bridge.initialize(), "pid")[0] == 200
        assert modern.call("pid").result
        for process in ending:
            process.kill()
        assert "closed its stdout" in error_of(dying[0].result()[2])
        assert "closed its stdout" in dying[1].result().error["message"]


def test_a_server_that_hangs_at_shutdown_is_killed_with_its_children() -> None:
    with faulty("--stubborn", options=("--stop-timeout", "0.3")) as bridge:
        session = bridge.initialize()
        eventually(lambda: len(bridge.children()) == 2)
        children = bridge.children()
        assert bridge.request("DELETE", Mcp_Session_Id=session)[0] == 204
        eventually(lambda: not any(map(runs, children)))
        assert metric(bridge, "mcp_bridge_processes") == 0


def test_a_server_that_hangs_is_killed_with_its_children_when_the_bridge_stops() -> None:
    with faulty("--stubborn", options=("--stop-timeout", "0.3")) as bridge:
        bridge.initialize()
        eventually(lambda: len(bridge.children()) == 2)


@pytest.mark.parametrize("tool", ["garbage", "long lines", "stderr", "unknown ids"])
def test_noise_is_skipped_and_the_call_is_answered(tool: str) -> None:
    with faulty() as bridge:
        session = bridge.initialize()
        status, headers, content = bridge.call(session, tool)
        assert (status, headers["content-type"]) == (200, "application/json")
        assert json.loads(content)["result"]["content"]
        assert memory(bridge) < MOST_MEMORY


def test_what_is_too_long_to_be_logged_leaves_a_trace_in_the_log() -> None:
    with faulty() as bridge:
        bridge.call(bridge.initialize(), "stderr")
        bridge.wait_for_line("WARNING process 1: left out a line of more than 8192 bytes on stderr")
        bridge.wait_for_line("INFO process 1: short")


def test_noise_is_counted() -> None:
    with faulty() as bridge:
        bridge.call(bridge.initialize(), "garbage")
        assert metric(bridge, "mcp_bridge_skipped_lines_total") == 7


def test_an_answer_in_pieces_arrives_whole() -> None:
    with faulty() as bridge:
        assert json.loads(bridge.call(bridge.initialize(), "in pieces")[2])["result"] == {"text": "€"}


def test_an_answer_of_16_mib_arrives_whole_and_its_memory_is_given_back() -> None:
    with faulty() as bridge:
        session = bridge.initialize()
        for _ in range(3):
            _, _, content = bridge.call(session, "long answer")
            assert len(json.loads(content)["result"]["content"][0]["text"]) == 16 * MIB - 1000
        assert memory(bridge) < MOST_MEMORY


def test_what_a_call_says_is_not_kept_while_it_runs() -> None:
    with faulty() as bridge:
        session, before = bridge.initialize(), memory(bridge)
        message = rpc("tools/call", {"name": "never", "arguments": {"text": "z" * (8 * MIB)}})
        calls = []
        for _ in range(30):
            calls.append(Call(bridge, session, "never", message=message))
            eventually(lambda: metric(bridge, "mcp_bridge_calls_in_flight") == len(calls))
            # Nothing of it is left to be read when this has been answered.
            bridge.call(session, "pid")
        assert memory(bridge) - before < MOST_MEMORY
        for call in calls:
            call.close()


def test_only_the_first_of_two_answers_counts() -> None:
    with faulty() as bridge:
        session = bridge.initialize()
        for _ in range(2):
            assert b"first" in bridge.call(session, "twice")[2]


def test_a_server_that_never_answers_fails_the_call_in_time_and_serves_others() -> None:
    with faulty(options=("--call-timeout", "3")) as bridge:
        session = bridge.initialize()
        assert "did not answer in time" in error_of(bridge.call(session, "never")[2])
        assert bridge.call(session, "pid")[0] == 200
        assert metric(bridge, "mcp_bridge_call_timeouts_total") == 1


def test_a_server_that_answers_nothing_fails_the_initialize_in_time_and_leaves_no_process() -> None:
    with faulty("--mute", options=("--call-timeout", "1")) as bridge:
        _, headers, content = bridge.request("POST", rpc("initialize", initialize_params()))
        assert "did not answer in time" in error_of(content)
        assert "mcp-session-id" not in headers
        eventually(lambda: bridge.children() == [])


def test_a_process_that_never_answers_ends_when_its_client_has_left_and_its_time_is_up() -> None:
    with faulty("--mute", options=("--call-timeout", "3")) as bridge:
        leaving = Call(bridge, "", "", message=rpc("initialize", initialize_params()))
        eventually(lambda: len(bridge.children()) == 1)
        leaving.close()
        eventually(lambda: bridge.children() == [] and metric(bridge, "mcp_bridge_sessions") == 0)


def test_an_answer_that_takes_long_becomes_a_stream_that_is_kept_alive() -> None:
    with faulty(options=("--keep-alive", "0.2", "--call-timeout", "3")) as bridge:
        session = bridge.initialize()
        call = Call(bridge, session, "never")
        received = call.read_until(lambda data: b"did not answer in time" in data)
        call.close()
        assert b"Content-Type: text/event-stream" in received
        assert received.count(b": keep-alive\n") >= 2
        assert bridge.call(session, "pid")[1]["content-type"] == "application/json"


def test_an_initialize_that_takes_long_is_kept_alive_and_ends_with_its_client() -> None:
    with faulty("--mute", options=("--keep-alive", "0.2", "--call-timeout", "3")) as bridge:
        leaving = Call(bridge, "", "", message=rpc("initialize", initialize_params()))
        assert b"text/event-stream" in leaving.read_until(lambda data: b": keep-alive\n" in data)
        leaving.close()
        eventually(lambda: bridge.children() == [] and metric(bridge, "mcp_bridge_sessions") == 0)


def test_a_client_that_disconnects_costs_nothing_and_does_not_cancel_its_call() -> None:
    with faulty() as bridge:
        session = bridge.initialize()
        before = resources(bridge)
        for _ in range(50):
            Call(bridge, session, "never").close()
        eventually(lambda: resources(bridge) <= before and metric(bridge, "mcp_bridge_calls_in_flight") == 50)
        assert bridge.call(session, "pid")[0] == 200


def test_a_client_that_stops_reading_is_dropped_while_others_are_served() -> None:
    with faulty(options=("--max-message-bytes", "1000000")) as bridge:
        deaf, other = bridge.initialize(), bridge.initialize()
        meta = {"progressToken": 1}
        call = Call(bridge, deaf, "flood", message=rpc("tools/call", {"name": "flood", "_meta": meta}))
        eventually(lambda: metric(bridge, "mcp_bridge_open_streams") == 1)
        assert bridge.call(other, "pid")[0] == 200
        eventually(lambda: metric(bridge, "mcp_bridge_open_streams") == 0)
        assert memory(bridge) < MOST_MEMORY
        call.close()


def test_a_message_with_a_million_empty_containers_is_refused_from_a_client_and_fails_the_call_of_a_server() -> None:
    with faulty() as bridge:
        session = bridge.initialize()
        arguments = {"template": {"content": [], "structuredContent": {"all": ["FILL"]}}}
        message = rpc("tools/call", {"name": "unreadable answer", "arguments": arguments})
        _, _, content = bridge.request("POST", message, Mcp_Session_Id=session)
        assert "cannot be read: more than 100000 arrays and objects" in error_of(content)
        many = rpc("tools/call", {"name": "pid", "arguments": {"all": [[] for _ in range(100_001)]}})
        status, _, content = bridge.request("POST", many, Mcp_Session_Id=session)
        assert (status, json.loads(content)["error"]["code"]) == (400, -32700)
        fewer = rpc("tools/call", {"name": "pid", "arguments": {"all": [[] for _ in range(99_000)]}})
        assert bridge.request("POST", fewer, Mcp_Session_Id=session)[0] == 200


def test_calls_beyond_the_limit_of_unanswered_ones_are_refused_and_told_when_to_come_back() -> None:
    with faulty(options=("--max-calls", "3")) as bridge:
        full, other = bridge.initialize(), bridge.initialize()
        for _ in range(3):
            Call(bridge, full, "never").close()
        eventually(lambda: metric(bridge, "mcp_bridge_calls_in_flight") == 3)
        status, headers, content = bridge.call(full, "pid")
        assert (status, headers["retry-after"]) == (503, "5")
        assert json.loads(content)["id"] == 1
        assert bridge.call(other, "pid")[0] == 200


def test_a_batch_that_holds_more_calls_than_there_is_room_for_is_refused_whole() -> None:
    with faulty(options=("--max-calls", "3")) as bridge:
        session = bridge.initialize("2025-03-26")
        calls = [rpc("tools/call", {"name": "pid"}, number) for number in range(4)]
        assert bridge.request("POST", calls, Mcp_Session_Id=session)[0] == 503
        assert bridge.request("POST", calls[:3], Mcp_Session_Id=session)[0] == 200


def test_what_a_server_does_not_read_is_bounded_and_refused_before_the_server_is_ended() -> None:
    with faulty(options=("--max-message-bytes", "1000000")) as bridge:
        session = bridge.initialize()
        Call(bridge, session, "asleep").close()
        note = {"jsonrpc": "2.0", "method": "notifications/x", "params": {"data": "n" * 500_000}}
        statuses = [bridge.request("POST", note, Mcp_Session_Id=session)[0] for _ in range(12)]
        assert set(statuses) == {202, 503}
        assert statuses == sorted(statuses)
        assert metric(bridge, "mcp_bridge_processes") == 1


def test_ten_thousand_requests_at_once_are_all_answered_and_leave_nothing() -> None:
    with faulty() as bridge:
        session = bridge.initialize()
        before = resources(bridge)
        floods = [Call(bridge, session, "pid", times=50) for _ in range(200)]
        for flood in floods:
            assert flood.read_until(lambda data: data.count(b'"result"') == 50).count(b"HTTP/1.1 200 OK") == 50
            flood.close()
        eventually(lambda: resources(bridge) <= before)
        assert memory(bridge) < MOST_MEMORY


def test_two_thousand_open_streams_leave_calls_answered_at_little_memory_each() -> None:
    streams = 2000
    with room_for_files(streams + 200), faulty() as bridge:
        session = bridge.initialize()
        empty = memory(bridge)
        calls = [Call(bridge, session, "log and never") for _ in range(streams)]
        eventually(lambda: metric(bridge, "mcp_bridge_calls_in_flight") == streams)
        # With more than one call in flight nobody can tell whose a log line is: it goes to the session's own stream.
        listening = Call(bridge, session, "", method="GET")
        listening.read_until(lambda data: data.count(b"working") > 10)
        assert bridge.call(session, "pid")[0] == 200
        assert (memory(bridge) - empty) / streams < 20 * 1024
        assert psutil.Process(bridge.process.pid).num_threads() == 1
        for call in (*calls, listening):
            call.close()


@contextlib.contextmanager
def room_for_files(count: int) -> Iterator[None]:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count:
        pytest.skip(f"the limit of {hard} open files is too low")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Call:
    """A request whose answer is not waited for."""

    def __init__(
        self,
        bridge: Bridge,
        session: str,
        tool: str,
        *,
        message: dict[str, Any] | None = None,
        method: str = "POST",
        times: int = 1,
        identity: str = "",
    ) -> None:
        body = b"" if method == "GET" else json.dumps(message or rpc("tools/call", {"name": tool})).encode()
        head = [
            f"{method} /mcp HTTP/1.1",
            "Host: localhost",
            "Accept: application/json, text/event-stream",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        ]
        if session:
            head.append(f"Mcp-Session-Id: {session}")
        if identity:
            head.append(f"X-Gateway-Identity: {identity}")
        self._socket = socket.create_connection(("127.0.0.1", bridge.port), timeout=60)
        self._socket.sendall(("\r\n".join([*head, "", ""]).encode() + body) * times)
        self._received = b""

    def read_until(self, condition: Callable[[bytes], object]) -> bytes:
        while not condition(self._received):
            data = self._socket.recv(65536)
            assert data, self._received
            self._received += data
        return self._received

    def content(self) -> bytes:
        """The body of a plain answer."""
        self.read_until(lambda data: b"\r\n\r\n" in data and data.endswith(b"}"))
        self.close()
        return self._received.partition(b"\r\n\r\n")[2]

    def close(self) -> None:
        self._socket.close()


def test_large_requests_have_room_in_all_and_are_refused_beyond_it() -> None:
    head = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
    with faulty(options=("--max-message-bytes", "100000")) as bridge, contextlib.ExitStack() as stack:
        for _ in range(16):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", bridge.port), timeout=60))
            connection.sendall(head)
        eventually(lambda: bridge.request("POST", b"x" * 100_000)[0] == 503)
        assert bridge.request("POST", b"x" * 10_000)[0] == 400


def test_a_byte_order_mark_in_front_of_all_is_no_part_of_the_first_answer() -> None:
    with faulty("--bom") as bridge:
        bridge.initialize()


def test_a_server_that_logs_in_json_and_answers_nothing_has_not_been_heard() -> None:
    with faulty("--json-log", "--mute") as bridge, ThreadPoolExecutor(1) as pool:
        opening = pool.submit(bridge.request, "POST", rpc("initialize", initialize_params()))
        eventually(lambda: metric(bridge, "mcp_bridge_skipped_lines_total") == 1)
        assert metric(bridge, "mcp_bridge_start_seconds_count") == 0
        bridge.children()[0].kill()
        opening.result()


def test_an_answer_that_is_too_long_fails_its_call_at_once() -> None:
    with faulty() as bridge:
        session = bridge.initialize()
        _, _, content = bridge.call(session, "too long")
        assert error_of(content) == f"the MCP server's answer cannot be read: it has more than {16 * MIB} bytes"
        assert bridge.call(session, "fine")[0] == 200
