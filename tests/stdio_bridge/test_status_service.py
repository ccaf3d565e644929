"""What the status service says of bridges, and that it connects to none that sleeps."""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from stdio_bridge import status_service
from stdio_bridge.status_service import Bridge, Counters, Host, Server, Unavailable, parse_page
from tests.stdio_bridge.running import ROOT

UNIT, SOCKET = "mcp-bridge-time.service", "mcp-bridge-time.socket"
PAGE = """# HELP mcp_bridge_calls_total Calls that have ended
# TYPE mcp_bridge_calls_total counter
mcp_bridge_calls_total{{tool="a b"}} {calls}
# HELP mcp_bridge_sessions Open sessions
# TYPE mcp_bridge_sessions gauge
mcp_bridge_sessions {sessions}
# HELP mcp_bridge_start_seconds Starts
# TYPE mcp_bridge_start_seconds histogram
mcp_bridge_start_seconds_bucket{{le="+Inf"}} {starts}
mcp_bridge_start_seconds_sum {starts}
mcp_bridge_start_seconds_count {starts}
"""


class Bridges:
    """A bridge, and what systemd says of it."""

    def __init__(self) -> None:
        self.active, self.listening, self.invocation = "active", "active", "i1"
        self.page = PAGE.format(calls=1, sessions=2, starts=3)
        self.status = 200
        self.asked: list[str] = []
        self.questions = 0
        self.now = 0.0
        bridges = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                bridges.asked.append(self.path)
                body = bridges.page.encode() if self.path == "/metrics" else b'{"mcp-stdio-bridge": {}}'
                self.send_response(bridges.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        address = ("127.0.0.1", self.server.server_port)
        bridge = Bridge(service=UNIT, socket=SOCKET, address=address)
        self.host = Host({"mcp-bridge-time": bridge}, self.ask_systemd, lambda: self.now)

    def ask_systemd(self, units: list[str]) -> str:
        assert units == [UNIT, SOCKET]
        self.questions += 1
        return (
            f"Id={UNIT}\nActiveState={self.active}\nInvocationID={self.invocation}\n\n"
            f"Id={SOCKET}\nActiveState={self.listening}\nInvocationID=s\n"
        )

    def metrics(self) -> dict[str, float]:
        self.now += 10
        lines = self.host.metrics("mcp-bridge-time").decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def bridges() -> Iterator[Bridges]:
    made = Bridges()
    yield made
    made.close()


def test_a_bridge_that_sleeps_is_not_asked(bridges: Bridges) -> None:
    bridges.active = "inactive"
    assert json.loads(bridges.host.status("mcp-bridge-time"))["mcp-stdio-bridge"]["asleep"] is True
    assert bridges.metrics() == {"mcp_bridge_asleep": 1}
    assert bridges.asked == []


@pytest.mark.parametrize("active", ["active", "activating", "deactivating", "failed", "reloading", ""])
def test_a_bridge_that_runs_or_should_is_asked(bridges: Bridges, active: str) -> None:
    bridges.active = active
    assert bridges.host.status("mcp-bridge-time") == b'{"mcp-stdio-bridge": {}}'
    assert bridges.metrics()["mcp_bridge_asleep"] == 0
    assert bridges.asked == ["/statusz", "/metrics"]


@pytest.mark.parametrize("listening", ["inactive", "failed", ""])
def test_a_bridge_whose_socket_does_not_listen_is_not_asleep(bridges: Bridges, listening: str) -> None:
    bridges.active, bridges.listening = "inactive", listening
    for ask in (bridges.host.status, bridges.host.metrics):
        with pytest.raises(Unavailable, match="does not listen"):
            ask("mcp-bridge-time")
    assert bridges.asked == []


def test_a_bridge_that_fails_or_cannot_be_reached_is_unavailable(bridges: Bridges) -> None:
    bridges.status = 500
    with pytest.raises(Unavailable, match="HTTP 500"):
        bridges.host.metrics("mcp-bridge-time")
    bridges.status, bridges.page = 200, "no metrics"
    with pytest.raises(Unavailable, match="something else"):
        bridges.host.metrics("mcp-bridge-time")
    bridges.server.server_close()
    with pytest.raises(Unavailable, match="does not answer"):
        bridges.host.status("mcp-bridge-time")


def test_without_an_answer_of_systemd_no_bridge_is_asked(bridges: Bridges) -> None:
    def fail(_: list[str]) -> str:
        raise Unavailable("systemd does not answer")

    host = Host(bridges.host.bridges, fail, lambda: 0.0)
    with pytest.raises(Unavailable):
        host.status("mcp-bridge-time")
    assert bridges.asked == []


def test_systemd_is_asked_once_a_second_for_all(bridges: Bridges) -> None:
    for _ in range(5):
        bridges.host.status("mcp-bridge-time")
    assert bridges.questions == 1
    bridges.now += 1
    bridges.host.status("mcp-bridge-time")
    assert bridges.questions == 2


def test_counters_go_on_over_sleep_and_gauges_do_not(bridges: Bridges) -> None:
    calls, sessions = 'mcp_bridge_calls_total{tool="a b"}', "mcp_bridge_sessions"
    seen = bridges.metrics()
    assert (seen[calls], seen[sessions], seen["mcp_bridge_start_seconds_count"]) == (1, 2, 3)
    bridges.active = "inactive"
    asleep = bridges.metrics()
    assert asleep == {**seen, sessions: 0, "mcp_bridge_asleep": 1}
    bridges.active, bridges.invocation = "active", "i2"
    bridges.page = PAGE.format(calls=1, sessions=0, starts=1)
    again = bridges.metrics()
    assert (again[calls], again[sessions], again["mcp_bridge_start_seconds_count"]) == (2, 0, 4)
    assert bridges.metrics() == again


def test_what_a_lock_hides_is_still_shown_of_a_bridge_that_sleeps() -> None:
    counters = Counters()
    hidden = 'mcp_bridge_hidden_tools{reason="new"} 3'
    counters.update(f"# TYPE mcp_bridge_hidden_tools gauge\n{hidden}\n", "i1")
    assert hidden in counters.render(asleep=True).decode().splitlines()


@pytest.mark.parametrize(
    ("page", "lines"),
    [
        ("", []),
        ("# EOF\n# a comment\n#\n", []),
        ("a_total 1\n", ["a_total 1"]),
        ('a_total{b="c d"} 1\n', ['a_total{b="c d"} 1']),
        ("# HELP a\n# TYPE a\na 1\n", ["# HELP a", "# TYPE a", "a 1"]),
        ("# HELP a An a\na 1\nb 2\n", ["# HELP a An a", "a 1", "b 2"]),
        ("# TYPE a counter\n# TYPE b gauge\nb 2\n", ["# TYPE a counter", "# TYPE b gauge", "b 2"]),
    ],
)
def test_a_page_that_lacks_descriptions_kinds_or_samples_is_shown_as_it_is(page: str, lines: list[str]) -> None:
    counters = Counters()
    counters.update(page, "i1")
    assert counters.render(asleep=False).decode().splitlines()[:-3] == lines


@pytest.mark.parametrize("page", ["no metrics", "a", "a one", "# TYPE a counter\na", "a\n"])
def test_a_page_without_a_number_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="could not convert"):
        parse_page(page)


def test_a_counter_that_the_next_bridge_has_not_yet_is_still_shown() -> None:
    counters = Counters()
    counters.update(PAGE.format(calls=4, sessions=0, starts=0), "i1")
    lines = PAGE.format(calls=0, sessions=0, starts=0).splitlines()
    without = [line for line in lines if not line.startswith("mcp_bridge_calls")]
    counters.update("\n".join(without), "i2")
    assert b'mcp_bridge_calls_total{tool="a b"} 4\n' in counters.render(asleep=False)


def test_a_counter_that_has_fallen_is_of_another_process_whatever_systemd_said_before() -> None:
    counters = Counters()
    for calls in (4, 1):
        counters.update(PAGE.format(calls=calls, sessions=0, starts=0), "i1")
    assert b'mcp_bridge_calls_total{tool="a b"} 5\n' in counters.render(asleep=False)


def test_a_page_of_the_next_process_counts_once_though_systemd_named_the_one_before() -> None:
    counters = Counters()
    for calls, invocation in ((4, "i1"), (1, "i1"), (2, "i1"), (3, "i2"), (1, "i3")):
        counters.update(PAGE.format(calls=calls, sessions=0, starts=0), invocation)
    assert b'mcp_bridge_calls_total{tool="a b"} 8\n' in counters.render(asleep=False)


def test_it_answers_at_the_paths_of_its_bridges_alone(bridges: Bridges) -> None:
    server = Server(socket.create_server(("127.0.0.1", 0)), bridges.host)

    def get(path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", server.socket.getsockname()[1], timeout=60)
        connection.request("GET", path)
        server.handle_request()
        status = connection.getresponse().status
        connection.close()
        return status

    assert get("/mcp-bridge-time/statusz") == 200
    assert get("/mcp-bridge-time/metrics") == 200
    for path in ("/", "/mcp-bridge-other/statusz", "/mcp-bridge-time", "/mcp-bridge-time/mcp"):
        assert get(path) == 404, path
    assert get("/mcp-bridge-time/metrics/x") == 404
    bridges.active, bridges.listening, bridges.now = "inactive", "failed", 10
    assert get("/mcp-bridge-time/metrics") == 503
    server.server_close()


def test_a_client_that_sends_byte_by_byte_does_not_keep_it(bridges: Bridges) -> None:
    server = Server(socket.create_server(("127.0.0.1", 0)), bridges.host, request_seconds=0.2)
    with socket.create_connection(server.socket.getsockname(), timeout=60) as client:
        server.handle_request()
        client.settimeout(0.01)
        closed = False
        while not closed:
            try:
                client.sendall(b"G")
                closed = client.recv(1) == b""
            except TimeoutError:
                pass
            except OSError:
                closed = True
    server.server_close()


def test_what_connects_while_there_is_no_room_waits(bridges: Bridges, monkeypatch: pytest.MonkeyPatch) -> None:
    running, others = threading.Semaphore(), threading.Event()

    def status(_name: str) -> bytes:
        if running.acquire(blocking=False):
            others.wait(0.5)
            running.release()
        else:
            others.set()
        return b"{}"

    monkeypatch.setattr(bridges.host, "status", status)
    server = Server(socket.create_server(("127.0.0.1", 0)), bridges.host, max_connections=1)
    port = server.socket.getsockname()[1]
    clients = [http.client.HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(3)]
    for client in clients:
        client.request("GET", "/mcp-bridge-time/statusz")
    for _ in clients:
        server.handle_request()
    assert [client.getresponse().status for client in clients] == [200, 200, 200]
    assert not others.is_set(), "two were answered at the same time"
    for client in clients:
        client.close()
    server.server_close()


def test_a_client_that_leaves_before_its_answer_is_no_error(
    bridges: Bridges, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    left = threading.Event()

    def status(_name: str) -> bytes:
        assert left.wait(60)
        return bytes(16 << 20)

    monkeypatch.setattr(bridges.host, "status", status)
    server = Server(socket.create_server(("127.0.0.1", 0)), bridges.host)
    with socket.create_connection(server.socket.getsockname(), timeout=60) as client:
        client.sendall(b"GET /mcp-bridge-time/statusz HTTP/1.0\r\n\r\n")
        server.handle_request()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    left.set()
    server.server_close()
    assert capfd.readouterr().err == ""


def test_it_ends_when_nobody_asks(bridges: Bridges) -> None:
    Server(socket.create_server(("127.0.0.1", 0)), bridges.host).serve(0.01)


def test_the_command_reads_its_bridges_and_wants_a_socket(tmp_path: Path) -> None:
    config = tmp_path / "status.json"
    config.write_text(json.dumps({"mcp-bridge-time@2": {"url": "http://[::1]:22457", "socket": SOCKET}}))
    (bridge,) = status_service.read_bridges(config).values()
    assert bridge == Bridge(service="mcp-bridge-time@2.service", socket=SOCKET, address=("::1", 22457))
    command = [sys.executable, "-m", "stdio_bridge.status_service", "--config", str(config)]
    environment = {name: value for name, value in os.environ.items() if name != "LISTEN_PID"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, "no socket" in ended.stderr) == (2, True)
