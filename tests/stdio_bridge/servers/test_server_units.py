"""Servers in units of their own, over HTTP: what clients see is what they see of the bridge's child processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.stdio_bridge.running import ECHO, Bridge
from tests.stdio_bridge.socket_activation import server_socket
from tests.stdio_bridge.test_faults import eventually, metric


@pytest.fixture
def socket_path(tmp_path: Path) -> Iterator[Path]:
    with server_socket(tmp_path / "server", *ECHO) as path:
        yield path


def in_units(path: Path, *options: str) -> Bridge:
    return Bridge("--no-identity", "--server-socket", str(path), *options, command=())


def pid(bridge: Bridge, session: str) -> int:
    return int(json.loads(bridge.call(session, "pid")[2])["result"]["content"][0]["text"])


def test_each_session_has_a_unit_which_ends_with_it(socket_path: Path) -> None:
    with in_units(socket_path) as bridge:
        sessions = [bridge.initialize(), bridge.initialize()]
        servers = [psutil.Process(pid(bridge, session)) for session in sessions]
        assert servers[0] != servers[1]
        assert bridge.children() == []
        assert bridge.request("DELETE", Mcp_Session_Id=sessions[0])[0] in (200, 204)
        servers[0].wait(60)
        assert pid(bridge, sessions[1]) == servers[1].pid
        assert bridge.stop() == 0
        servers[1].wait(60)


def test_a_call_of_a_server_that_crashes_is_told_the_status_and_what_it_last_wrote(socket_path: Path) -> None:
    with in_units(socket_path) as bridge:
        _, _, content = bridge.call(bridge.initialize(), "crash")
        assert "exited with status 3" in json.loads(content)["error"]["message"]
        assert "the tool broke" in json.loads(content)["error"]["message"]
        assert metric(bridge, "mcp_bridge_crashes_total") == 1


def test_a_unit_that_cannot_be_asked_for_fails_its_call_at_once(tmp_path: Path) -> None:
    with in_units(tmp_path / "none") as bridge:
        status, _, content = bridge.request(
            "POST", {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-06-18"}}
        )
        assert status in (200, 502, 503), content
        assert "cannot be started" in json.loads(content)["error"]["message"]
        bridge.wait_for_line("ERROR .*none: no unit of the server can be started: No such file or directory")
        assert metric(bridge, "mcp_bridge_crashes_total") == 1


def test_units_are_started_ahead_of_need(socket_path: Path) -> None:
    with in_units(socket_path, "--warm-spares", "1") as bridge:
        eventually(lambda: metric(bridge, "mcp_bridge_spare_processes") == 1)
        session = bridge.initialize()
        assert pid(bridge, session) > 0
        eventually(lambda: metric(bridge, "mcp_bridge_spare_processes") == 1)
        assert metric(bridge, "mcp_bridge_processes") == 1
        assert metric(bridge, "mcp_bridge_spawns_total") == 2
