"""The bridge as systemd starts it: with a socket handed over, and a place to tell how it stands."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stdio_bridge.running import ECHO, ROOT

WAIT_SECONDS = 60
# Only the process itself knows the pid that LISTEN_PID must name; exec keeps it.
_ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "stdio_bridge", *sys.argv[2:]])
"""


@contextlib.contextmanager
def activated(listener: socket.socket, *options: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run the bridge on a socket that is handed over; it must end on SIGTERM with status 0."""
    arguments = [sys.executable, "-c", _ACTIVATE, str(listener.fileno()), "--no-identity", *options, "--", *ECHO]
    process = subprocess.Popen(
        arguments,
        cwd=ROOT,
        env={**os.environ, "LISTEN_FDS": "1", **environment},
        pass_fds=(listener.fileno(),),
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
        process.terminate()
        assert process.wait(WAIT_SECONDS) == 0
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def notify(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(WAIT_SECONDS)
        manager.bind(str(tmp_path / "notify"))
        yield manager


def connect(listener: socket.socket) -> http.client.HTTPConnection:
    """Connect to a listener of either family; it queues until the bridge accepts."""
    connection = http.client.HTTPConnection("localhost", timeout=WAIT_SECONDS)
    connection.sock = socket.socket(listener.family, socket.SOCK_STREAM)
    connection.sock.settimeout(WAIT_SECONDS)
    connection.sock.connect(listener.getsockname())
    return connection


def post(connection: http.client.HTTPConnection, method: str, params: dict[str, Any], **headers: str) -> None:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    common = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    connection.request("POST", "/mcp", body, common | given)


def initialize(listener: socket.socket) -> str:
    connection = connect(listener)
    params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    post(connection, "initialize", params)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    assert answer.status == 200, content
    return answer.headers["Mcp-Session-Id"]


def told_until(manager: socket.socket, state: str) -> list[str]:
    """Read what the bridge tells up to that state."""
    told: list[str] = []
    while state not in told:
        told.append(manager.recv(4096).decode())
    return told


def test_a_tcp_socket_handed_over_is_served(tcp: socket.socket) -> None:
    with activated(tcp):
        assert initialize(tcp)


def test_a_unix_socket_handed_over_is_served(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "bridge"))
        listener.listen()
        with activated(listener):
            assert initialize(listener)


@pytest.mark.parametrize(
    ("options", "environment", "word"),
    [
        pytest.param(["--listen", "127.0.0.1:0"], {}, "--listen", id="told to listen elsewhere too"),
        pytest.param([], {"LISTEN_FDS": "2"}, "LISTEN_FDS=2", id="several"),
    ],
)
def test_a_socket_it_cannot_take_is_one_line_and_status_2(
    tcp: socket.socket, options: list[str], environment: dict[str, str], word: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _ACTIVATE, str(tcp.fileno()), "--no-identity", *options, "--", *ECHO],
        cwd=ROOT, env={**os.environ, "LISTEN_FDS": "1", **environment}, pass_fds=(tcp.fileno(),),
        capture_output=True, text=True, timeout=WAIT_SECONDS, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert word in ended.stderr


def test_it_tells_that_it_is_ready_and_keeps_the_watchdog_quiet(tcp: socket.socket, notify: socket.socket) -> None:
    with activated(tcp, NOTIFY_SOCKET=notify.getsockname(), WATCHDOG_USEC="300000"):
        told_until(notify, "READY=1")
        told_until(notify, "WATCHDOG=1")
        told_until(notify, "WATCHDOG=1")


@pytest.mark.parametrize("address", ["/nowhere/notify", "@nobody-listens-here", "/" + "x" * 200])
def test_a_service_manager_that_nobody_is_costs_a_line_in_the_log_and_no_client(
    tcp: socket.socket, address: str
) -> None:
    with activated(tcp, NOTIFY_SOCKET=address, WATCHDOG_USEC="300000") as process:
        assert initialize(tcp)
        process.terminate()
        assert process.wait(WAIT_SECONDS) == 0


def test_a_watchdog_meant_for_another_process_is_left_alone(tcp: socket.socket, notify: socket.socket) -> None:
    with activated(tcp, NOTIFY_SOCKET=notify.getsockname(), WATCHDOG_USEC="300000", WATCHDOG_PID="1") as process:
        told_until(notify, "READY=1")
        process.terminate()
        assert told_until(notify, "STOPPING=1") == ["STOPPING=1"]
        assert process.wait(WAIT_SECONDS) == 0


def test_it_tells_that_it_is_stopping_before_the_running_calls_are_over(
    tcp: socket.socket, notify: socket.socket
) -> None:
    with activated(tcp, "--drain-timeout", "600", NOTIFY_SOCKET=notify.getsockname()) as process:
        session = initialize(tcp)
        calling, ending = connect(tcp), connect(tcp)
        post(calling, "tools/call", {"name": "log and hang"}, Mcp_Session_Id=session)
        stream = calling.getresponse()
        ending.request("GET", "/healthz")
        ending.getresponse().read()
        process.terminate()
        told_until(notify, "STOPPING=1")
        ending.request("DELETE", "/mcp", headers={"Mcp-Session-Id": session})
        assert ending.getresponse().status == 204
        assert b"error" in stream.read()
        calling.close()
        ending.close()
        assert process.wait(WAIT_SECONDS) == 0
