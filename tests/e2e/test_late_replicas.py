"""The sessions of replicas that stop for a while, hang or die, behind the real router."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from local.ports import free_port
from tests.e2e.flow import SourceAddress
from tests.e2e.router import Router

PROJECT = Path(__file__).parents[2]
ECHO = PROJECT / "tests/stdio_bridge/echo_server.py"
ADDRESSES = tuple(f"127.0.0.{last}" for last in range(2, 60))
HEADERS = {
    "Host": "localhost",
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": "2025-06-18",
}
WAIT_SECONDS = 60
CALLS = 10


class Replica:
    """A real bridge."""

    def __init__(self, name: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        command = ("--listen", self.address, "--replica", name, "--no-identity", "--", sys.executable, str(ECHO))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "stdio_bridge", *command], cwd=PROJECT, stderr=subprocess.DEVNULL
        )

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        self._process.wait(WAIT_SECONDS)


class Site:
    """Two replicas behind the router. Each session has a client at an address of its own."""

    def __init__(self, folder: Path, *, patience: str | None = None) -> None:
        self._exit = contextlib.ExitStack()
        self.replicas = {name: Replica(name) for name in ("a", "b")}
        for each in self.replicas.values():
            self._exit.callback(each.stop)

        def change(routes: dict[str, Any]) -> None:
            for name, service in routes["services"].items():
                if patience is not None and name.endswith(".only"):
                    service["loadBalancer"]["healthCheck"]["timeout"] = patience

        urls = {name: f"http://{each.address}/mcp" for name, each in self.replicas.items()}
        self.router = Router(folder, {"replicas": urls}, change=change)
        self._exit.callback(self.router.stop)
        self.sessions: dict[str, str] = {}
        self.addresses: dict[str, str] = {}
        self.router.wait_until(self._open_one_on_each)

    def close(self) -> None:
        self._exit.close()

    def _open_one_on_each(self) -> bool:
        params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
        for address in ADDRESSES:
            answer = self.post(message, address=address)
            if answer.status_code != 200:
                return False
            session = answer.headers["Mcp-Session-Id"]
            self.sessions.setdefault(session[0], session)
            self.addresses.setdefault(session[0], address)
            if len(self.sessions) == len(self.replicas):
                return True
        raise AssertionError("all addresses are sent to one replica")

    def post(self, message: dict[str, Any], *, address: str, session: str | None = None) -> requests.Response:
        headers = HEADERS if session is None else {**HEADERS, "Mcp-Session-Id": session}
        with requests.Session() as client:
            client.mount("http://", SourceAddress(address))
            url = f"http://127.0.0.1:{self.router.port}/mcp"
            return client.post(url, json=message, headers=headers, timeout=WAIT_SECONDS)

    def call(self, replica: str) -> requests.Response:
        """Call a tool in the session on that replica."""
        return self.post(CALL, address=self.addresses[replica], session=self.sessions[replica])

    def begin_call(self, replica: str) -> socket.socket:
        """Send a call in the session on that replica, and read nothing yet."""
        body = json.dumps(CALL)
        headers = {**HEADERS, "Mcp-Session-Id": self.sessions[replica], "Content-Length": str(len(body))}
        lines = ["POST /mcp HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "Connection: close"]
        client = socket.create_connection(("127.0.0.1", self.router.port), timeout=WAIT_SECONDS)
        client.sendall("\r\n".join([*lines, "", body]).encode())
        return client

    def gets_nothing_new(self, replica: str) -> bool:
        """Whether the router sends what belongs to no session elsewhere."""
        with requests.Session() as client:
            client.mount("http://", SourceAddress(self.addresses[replica]))
            try:
                client.get(f"http://127.0.0.1:{self.router.port}/mcp", headers=HEADERS, timeout=1).close()
            except requests.Timeout:
                return False
        return True


CALL = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "pid", "arguments": {}}}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    running = Site(tmp_path)
    yield running
    running.close()


def read_status(client: socket.socket) -> bytes:
    with client:
        return client.recv(4096).split(b" ", 2)[1]


def test_a_replica_that_stops_for_longer_than_its_checks_may_take_keeps_its_sessions(site: Site) -> None:
    pid = site.call("a").json()["result"]["content"]
    site.replicas["a"].signal(signal.SIGSTOP)
    early = [site.begin_call("a") for _ in range(CALLS)]
    # The router knows by now that it is late.
    site.router.wait_until(lambda: site.gets_nothing_new("a"))
    late = [site.begin_call("a") for _ in range(CALLS)]
    for _ in range(CALLS):
        assert site.call("b").status_code == 200
    site.replicas["a"].signal(signal.SIGCONT)
    assert [read_status(each) for each in (*early, *late)] == [b"200"] * 2 * CALLS
    assert site.call("a").json()["result"]["content"] == pid


def test_the_sessions_of_a_replica_that_is_killed_are_gone_and_no_others(site: Site) -> None:
    pid = site.call("b").json()["result"]["content"]
    site.replicas["a"].signal(signal.SIGKILL)
    # Until the router has seen the ends of its connections, it may send a call into one of them.
    site.router.wait_until(lambda: site.call("a").status_code == 404)
    assert "error" in site.call("a").json()
    assert site.call("b").json()["result"]["content"] == pid


def test_the_sessions_of_a_replica_that_never_goes_on_are_gone_in_the_end(tmp_path: Path) -> None:
    site = Site(tmp_path, patience="3s")
    try:
        site.replicas["a"].signal(signal.SIGSTOP)
        early = site.begin_call("a")

        def is_gone() -> bool:
            client = site.begin_call("a")
            client.settimeout(1)
            with contextlib.suppress(TimeoutError):
                return read_status(client) == b"404"
            return False

        site.router.wait_until(is_gone)
        early.close()
    finally:
        site.close()
