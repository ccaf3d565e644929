"""How a bridge is stopped, whether it is ready, and how many servers it starts at once."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from stdio_bridge.http.exchange import Response
from stdio_bridge.http.identity import ANYONE
from stdio_bridge.io.event_loop import Loop
from stdio_bridge.io.metrics import Registry
from stdio_bridge.options import parse_options
from stdio_bridge.servers import readiness
from stdio_bridge.servers.pool import ServerPool
from stdio_bridge.servers.suspended_calls import SuspendedCalls
from tests.stdio_bridge.modern_client import MODERN_SERVER, ModernClient
from tests.stdio_bridge.running import SCRIPTED, Bridge, EventReader, rpc
from tests.stdio_bridge.test_faults import FAULTY, Call, error_of, eventually, faulty, initialize_params, metric, runs

WAIT_SECONDS = 60


def end_of(bridge: Bridge) -> int:
    status = bridge.process.wait(60)
    assert bridge.process.stderr is not None
    bridge.process.stderr.close()
    return status


def run(*steps: dict[str, Any]) -> dict[str, Any]:
    return rpc("tools/call", {"name": "run", "arguments": {"steps": list(steps)}})


def test_on_sigterm_a_running_call_finishes_with_its_clients_help_and_a_new_one_is_refused() -> None:
    with Bridge("--no-identity", "--drain-timeout", "100", command=SCRIPTED) as bridge:
        session = bridge.initialize()
        call = EventReader(bridge, "POST", run({"ask": "elicitation/create"}), Mcp_Session_Id=session)
        asked = call.next()
        bridge.process.terminate()
        eventually(lambda: bridge.request("GET", path="/readyz")[0] == 503)
        status, headers, content = bridge.request("POST", run(), Mcp_Session_Id=session)
        assert (status, headers["retry-after"], json.loads(content)["id"]) == (503, "5", 1)
        assert bridge.request("POST", rpc("initialize", initialize_params()))[0] == 503
        answer = {"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept"}}
        assert bridge.request("POST", answer, Mcp_Session_Id=session)[0] == 202
        assert "accept" in call.rest()[-1]["result"]["content"][0]["text"]
        call.close()
        assert end_of(bridge) == 0


def test_on_sigterm_a_request_finishes_that_waits_for_its_server_to_start(tmp_path: Path) -> None:
    gated = f"until test -e {tmp_path}/gate; do sleep 0.02; done; exec {shlex.join(MODERN_SERVER)}"
    with Bridge("--no-identity", "--drain-timeout", "100", command=("sh", "-c", gated)) as bridge:
        with ThreadPoolExecutor(2) as pool:
            modern = pool.submit(ModernClient(bridge).call, "pid")
            legacy = pool.submit(bridge.request, "POST", rpc("initialize", initialize_params()))
            eventually(lambda: metric(bridge, "mcp_bridge_processes") == 2)
            bridge.process.terminate()
            bridge.wait_for_line("stopping: ")
            (tmp_path / "gate").touch()
            assert modern.result().said
            assert legacy.result()[0] == 200
        assert end_of(bridge) == 0


def test_on_sigterm_a_legacy_clients_call_of_a_modern_server_finishes_with_its_help() -> None:
    with Bridge("--no-identity", "--drain-timeout", "100", command=MODERN_SERVER) as bridge:
        _, headers, _ = bridge.request("POST", rpc("initialize", initialize_params(elicitation={})))
        session = headers["mcp-session-id"]
        call = EventReader(bridge, "POST", rpc("tools/call", {"name": "ask"}), Mcp_Session_Id=session)
        asked = call.next()
        bridge.process.terminate()
        bridge.wait_for_line("stopping: ")
        answer = {"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept"}}
        assert bridge.request("POST", answer, Mcp_Session_Id=session)[0] == 202
        assert "accept" in call.rest()[-1]["result"]["content"][0]["text"]
        call.close()
        assert end_of(bridge) == 0


def test_on_sigterm_a_subscription_that_waits_for_its_server_is_waited_for_no_longer() -> None:
    options = ("--no-identity", "--drain-timeout", "100", "--stop-timeout", "0.3")
    with Bridge(*options, command=("sleep", "600")) as bridge:
        with ThreadPoolExecutor(1) as pool:
            listening = pool.submit(ModernClient(bridge).request, "subscriptions/listen", {"notifications": {}})
            eventually(lambda: metric(bridge, "mcp_bridge_processes") == 1)
            bridge.process.terminate()
            assert (listening.result().status, listening.result().headers["retry-after"]) == (503, "5")
        assert end_of(bridge) == 0


def test_while_it_stops_no_call_waits_for_a_retry_that_would_be_refused() -> None:
    suspended_calls = SuspendedCalls(b"k" * 32, seconds=600, clock=lambda: 0.0)
    assert suspended_calls.has_room_for(ANYONE)
    suspended_calls.close()
    assert not suspended_calls.has_room_for(ANYONE)


def test_a_call_that_outlasts_the_limit_fails_and_says_why() -> None:
    with Bridge("--no-identity", "--drain-timeout", "0.2", command=FAULTY) as bridge:
        call = Call(bridge, bridge.initialize(), "never")
        eventually(lambda: metric(bridge, "mcp_bridge_calls_in_flight") == 1)
        bridge.process.terminate()
        assert "the bridge was stopped" in error_of(call.content())
        assert end_of(bridge) == 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT, signal.SIGINT])
def test_every_signal_that_asks_for_it_stops_the_bridge_as_sigterm_does(number: signal.Signals) -> None:
    # What runs in a shell's background ignores some of them, and so would the bridge.
    previous = signal.signal(number, signal.SIG_DFL)
    try:
        started = Bridge("--no-identity", "--drain-timeout", "0.2", command=FAULTY)
    finally:
        signal.signal(number, previous)
    with started as bridge:
        call = Call(bridge, bridge.initialize(), "never")
        eventually(lambda: metric(bridge, "mcp_bridge_calls_in_flight") == 1)
        children = bridge.children()
        bridge.process.send_signal(number)
        assert "the bridge was stopped" in error_of(call.content())
        assert end_of(bridge) == 0
        assert not any(map(runs, children))


def test_a_bridge_that_is_started_with_nohup_goes_on_after_sighup() -> None:
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        bridge = Bridge("--no-identity", command=FAULTY)
    finally:
        signal.signal(signal.SIGHUP, previous)
    with bridge:
        bridge.process.send_signal(signal.SIGHUP)
        assert bridge.call(bridge.initialize(), "pid")[0] == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_more_signals_while_it_stops_change_nothing_up_to_the_very_end(number: signal.Signals) -> None:
    with Bridge(
        "--no-identity", "--drain-timeout", "0.2", "--stop-timeout", "0.3", command=(*FAULTY, "--stubborn")
    ) as bridge:
        Call(bridge, bridge.initialize(), "never").close()
        eventually(lambda: len(bridge.children()) == 2)
        children = bridge.children()
        while bridge.process.poll() is None:
            bridge.process.send_signal(number)
            with contextlib.suppress(psutil.TimeoutExpired):
                psutil.Process(bridge.process.pid).wait(0.01)
        assert end_of(bridge) == 0
        eventually(lambda: not any(map(runs, children)))


def test_readiness_is_asked_of_a_server_of_its_own_that_counts_to_nothing_and_is_gone_afterwards() -> None:
    with faulty(options=("--max-sessions", "1")) as bridge:
        assert bridge.request("GET", path="/readyz")[0] == 200
        assert metric(bridge, "mcp_bridge_processes") == metric(bridge, "mcp_bridge_sessions") == 0
        assert metric(bridge, "mcp_bridge_start_seconds_count") == 0
        eventually(lambda: bridge.children() == [])
        assert bridge.request("GET", path="/readyz")[0] == 200
        assert metric(bridge, "mcp_bridge_spawns_total") == 1
        assert bridge.initialize()


def test_readiness_starts_nothing_where_a_server_runs_that_answers() -> None:
    with faulty() as bridge:
        session = bridge.initialize()
        Call(bridge, session, "never").close()
        assert bridge.request("GET", path="/readyz")[0] == 200
        assert metric(bridge, "mcp_bridge_spawns_total") == 1


def status_of(bridge: Bridge) -> dict[str, float | None]:
    status, _, content = bridge.request("GET", path="/statusz")
    assert status == 200
    ages: dict[str, float | None] = json.loads(content)["mcp-stdio-bridge"]
    return ages


def test_the_status_says_when_a_server_answered_and_starts_none() -> None:
    with faulty() as bridge:
        assert status_of(bridge) == {"answered": None, "needed": None, "failed": None}
        bridge.initialize()
        ages = status_of(bridge)
        assert ages["failed"] is None
        assert ages["answered"] is not None
        assert ages["needed"] is not None
        assert ages["answered"] <= ages["needed"]
        assert metric(bridge, "mcp_bridge_spawns_total") == 1


def test_the_status_says_when_a_server_ended_before_it_answered() -> None:
    with faulty("--exit-at-start") as bridge:
        bridge.request("GET", path="/readyz")
        ages = status_of(bridge)
        assert ages["answered"] is None
        assert ages["failed"] is not None
        assert metric(bridge, "mcp_bridge_spawns_total") == 1


def test_many_who_ask_for_readiness_at_once_start_one_server() -> None:
    with faulty() as bridge:
        probes = [socket.create_connection(("127.0.0.1", bridge.port), timeout=60) for _ in range(20)]
        for probe in probes:
            probe.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        for probe in probes:
            assert probe.recv(100).startswith(b"HTTP/1.1 200")
            probe.close()
        assert metric(bridge, "mcp_bridge_spawns_total") == 1


def test_a_server_that_exits_at_start_is_not_ready_and_every_question_finds_out_anew() -> None:
    with faulty("--exit-at-start") as bridge:
        for _ in range(2):
            assert bridge.request("GET", path="/readyz")[0] == 503
        assert bridge.request("GET", path="/healthz")[0] == 200
        assert metric(bridge, "mcp_bridge_spawns_total") == 2
        eventually(lambda: bridge.children() == [])


def test_servers_start_no_more_at_once_than_they_may_and_a_client_that_leaves_gives_up_its_turn(
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    with (
        socket.socket(socket.AF_UNIX) as listener,
        faulty("--gate", str(gate), options=("--starts-at-once", "1")) as bridge,
    ):
        listener.bind(str(gate))
        listener.listen()
        listener.settimeout(60)
        message = rpc("initialize", initialize_params())
        first, second, third = (Call(bridge, "", "", message=message) for _ in range(3))
        starting, _ = listener.accept()
        eventually(lambda: metric(bridge, "mcp_bridge_start_queue") == 2)
        assert len(bridge.children()) == 1
        second.close()
        eventually(lambda: metric(bridge, "mcp_bridge_start_queue") == 1)
        starting.sendall(b"!")
        assert b"serverInfo" in first.content()
        next_one, _ = listener.accept()
        next_one.sendall(b"!")
        assert b"serverInfo" in third.content()
        assert metric(bridge, "mcp_bridge_spawns_total") == 2
        starting.close()
        next_one.close()


@contextlib.contextmanager
def gated(tmp_path: Path, *options: str) -> Iterator[tuple[Bridge, socket.socket]]:
    """A bridge whose servers wait at the start until the test lets them go on."""
    gate = tmp_path / "gate"
    with socket.socket(socket.AF_UNIX) as listener, faulty("--gate", str(gate), options=options) as bridge:
        listener.bind(str(gate))
        listener.listen()
        listener.settimeout(60)
        yield bridge, listener


def test_a_start_that_outlasts_its_client_is_finished_and_serves_the_users_next_session(tmp_path: Path) -> None:
    with gated(tmp_path) as (bridge, listener):
        message = rpc("initialize", initialize_params())
        for _ in range(3):
            leaving = Call(bridge, "", "", message=message)
            eventually(lambda: metric(bridge, "mcp_bridge_sessions") == 1)
            leaving.close()
            eventually(lambda: metric(bridge, "mcp_bridge_sessions") == 0)
        starting, _ = listener.accept()
        starting.sendall(b"!")
        status, headers, content = bridge.request("POST", message)
        assert status == 200, content
        starting.close()
        assert bridge.call(headers["mcp-session-id"], "pid")[0] == 200
        assert metric(bridge, "mcp_bridge_spawns_total") == 1


def test_a_started_process_waits_for_no_client_that_says_something_else_of_itself(tmp_path: Path) -> None:
    with gated(tmp_path, "--max-sessions-per-user", "5") as (bridge, listener):
        leaving = Call(bridge, "", "", message=rpc("initialize", initialize_params()))
        starting, _ = listener.accept()
        leaving.close()
        eventually(lambda: metric(bridge, "mcp_bridge_sessions") == 0)
        other = Call(bridge, "", "", message=rpc("initialize", initialize_params(sampling={})))
        another, _ = listener.accept()
        another.sendall(b"!")
        assert b"serverInfo" in other.content()
        assert metric(bridge, "mcp_bridge_spawns_total") == 2
        starting.close()
        another.close()


def test_a_start_that_outlasts_the_question_for_readiness_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "_PROBE_SECONDS", 0.05)
    gate = tmp_path / "gate"
    waiting = f"until test -e {gate}; do sleep 0.02; done; exec {shlex.join(FAULTY)}"
    arguments = ["--listen", "127.0.0.1:0", "--no-identity", "--stop-timeout", "1", "--", "sh", "-c", waiting]
    loop = Loop()
    servers = ServerPool(loop, parse_options(arguments, os.environ), Registry())
    probe = readiness.Readiness(loop, servers)
    for expected in ("503 Service Unavailable",) * 2 + ("200 OK",):
        if expected == "200 OK":
            gate.touch()
            turn_until(loop, lambda: not len(servers))
        answer = Said()
        probe.answer(cast("Response", answer))
        turn_until(loop, answer.replied)
        assert answer.status == expected
    assert servers.spawns.value == 1
    servers.stop("the test is over")
    turn_until(loop, lambda: not len(servers))
    loop.close()


class Said:
    """A response that keeps its status."""

    status = ""

    def reply(self, status: str, headers: object, body: bytes) -> None:
        self.status = status

    def replied(self) -> bool:
        return bool(self.status)


def turn_until(loop: Loop, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        loop.call_later(0.01, lambda: None)
        loop.turn()
