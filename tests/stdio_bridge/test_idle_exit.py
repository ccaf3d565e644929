"""A bridge that nobody uses exits, and the next request starts it: no request is lost, whenever it comes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from stdio_bridge.app import Bridge
from stdio_bridge.http.identity import AssertionVerifier, NoVerifier, Verifier
from stdio_bridge.io.event_loop import Loop
from stdio_bridge.options import parse_options
from stdio_bridge.protocol.quotas import Quota
from tests.stdio_bridge.running import ECHO, KEY, ROOT, signed
from tests.stdio_bridge.socket_unit import (
    ALL_POINTS,
    WHEN_IT_LOOKS,
    SocketUnit,
    end_session,
    read_answer,
    send_initialize,
    unix_listener,
)

IDLE = ("--idle-exit", "0.1")
RULES = ("--calls-per-minute", "5")


class Sleeper:
    """A bridge on a loop whose clock the test sets; it notes when it would exit."""

    def __init__(self, *options: str, verifier: Verifier | None = None) -> None:
        self.now = 1000.0
        self.loop = Loop(lambda: self.now)
        given = parse_options(["--no-identity", "--listen", "127.0.0.1:0", *options, "--", *ECHO], {})
        self.bridge: Any = Bridge(self.loop, given, NoVerifier() if verifier is None else verifier)
        self.exits: list[float] = []
        self.bridge.fall_asleep = lambda: self.exits.append(self.now)
        self.advance(0)

    def advance(self, seconds: int) -> list[float]:
        """Let so much time pass, a second at a time, and return when it would have exited."""
        for _ in range(seconds):
            self.now += 1
            self.loop.stop()  # it waits for nothing
            self.loop.turn()
        return self.exits


def test_it_exits_once_the_time_is_over_and_not_before() -> None:
    sleeper = Sleeper("--idle-exit", "60")
    assert sleeper.advance(58) == []
    assert sleeper.advance(3)


@pytest.mark.parametrize("options", [(), ("--idle-exit", "0"), ("--idle-exit", "60", "--warm-spares", "1")])
def test_it_never_exits_without_a_time_or_with_a_warm_pool(
    options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stdio_bridge.servers.warm_pool.WarmPool._fill", lambda _: None)  # none of them runs yet
    assert Sleeper(*options).advance(4000) == []


def count_call(sleeper: Sleeper) -> None:
    sleeper.bridge._policy.quotas.rates.count("u", {Quota(name="this server", calls_per_minute=5): 1}, sleeper.now)


def begin_task(sleeper: Sleeper) -> None:
    sleeper.bridge._policy.learn_task("u", {"task": {"taskId": "1"}}, ())


def suspend_call(sleeper: Sleeper) -> None:
    sleeper.bridge._suspended_calls._suspended["1"] = (sleeper.now + 4000, "u", None)


def start_process(sleeper: Sleeper) -> None:
    sleeper.bridge._pool._servers[_Process()] = None


class _Process:
    counted = False

    class dispatcher:  # noqa: N801 - an attribute of the process
        @staticmethod
        def expire() -> int:
            return 0


@pytest.mark.parametrize("use", [begin_task, suspend_call, start_process])
def test_what_a_client_would_miss_keeps_it_awake(use: Callable[[Sleeper], None]) -> None:
    sleeper = Sleeper("--idle-exit", "10", *RULES)
    use(sleeper)
    assert sleeper.advance(600) == []


def test_a_task_keeps_it_awake_for_as_long_as_it_lives() -> None:
    sleeper = Sleeper("--idle-exit", "10", *RULES)
    sleeper.bridge._policy.learn_task("u", {"task": {"taskId": "1", "ttl": 60_000}}, ())
    assert sleeper.advance(68) == []
    assert sleeper.advance(5)


def test_calls_that_a_quota_counts_keep_it_awake_for_their_minute() -> None:
    sleeper = Sleeper("--idle-exit", "10", *RULES)
    count_call(sleeper)
    assert sleeper.advance(68) == []
    assert sleeper.advance(5)


def test_the_time_begins_anew_with_each_use() -> None:
    sleeper = Sleeper("--idle-exit", "10")
    sleeper.advance(9)
    sleeper.bridge._last_used = sleeper.now
    assert sleeper.advance(8) == []
    assert sleeper.advance(3)


def revoke(sleeper: Sleeper, purpose: str = "revocation") -> None:
    notice = signed(purpose, {"sid": "one"}).encode()
    sleeper.bridge(SimpleNamespace(path="/revocations", method="POST", body=lambda: notice), Mock())


def test_one_that_only_a_revocation_notice_has_woken_exits_at_once_and_starts_no_process() -> None:
    sleeper = Sleeper("--idle-exit", "60", verifier=AssertionVerifier(KEY.encode(), now=time.time))
    revoke(sleeper)
    assert not len(sleeper.bridge._pool)
    assert sleeper.advance(2)


def test_a_forged_notice_or_one_after_another_request_shortens_nothing() -> None:
    for asked, purpose in (("/revocations", "survey"), ("/statusz", "revocation"), ("/nothing", "revocation")):
        sleeper = Sleeper("--idle-exit", "60", verifier=AssertionVerifier(KEY.encode(), now=time.time))
        if asked != "/revocations":
            sleeper.bridge(SimpleNamespace(path=asked, method="GET"), Mock())
        revoke(sleeper, purpose)
        assert sleeper.advance(58) == [], asked
        assert sleeper.advance(3), asked


def test_a_request_after_the_notice_keeps_it_awake() -> None:
    sleeper = Sleeper("--idle-exit", "60", verifier=AssertionVerifier(KEY.encode(), now=time.time))
    revoke(sleeper)
    sleeper.bridge(SimpleNamespace(path="/nothing", method="GET"), Mock())
    assert sleeper.advance(58) == []


def test_it_exits_with_status_0_after_the_last_session_and_the_next_request_starts_it() -> None:
    with SocketUnit(*IDLE) as unit:
        for exits in (1, 2):
            connection = unit.connect()
            send_initialize(connection)
            status, session, _ = read_answer(connection)
            assert status == 200
            end_session(connection, session)
            unit.wait_for_exits(exits)
        assert (unit.starts, unit.statuses) == (2, [0, 0])


def test_a_connection_is_never_closed_by_the_exit_so_that_a_request_on_it_cannot_be_lost() -> None:
    with SocketUnit(*IDLE, hold=WHEN_IT_LOOKS) as unit:
        kept = unit.connect()
        kept.request("GET", "/healthz")
        assert read_answer(kept)[0] == 200
        unit.wait_until_held()
        send_initialize(kept)
        unit.release()
        status, session, _ = read_answer(kept)
        assert status == 200
        end_session(kept, session)
        unit.wait_for_exits(1)
        assert unit.starts == 1


@pytest.mark.parametrize("point", ALL_POINTS)
def test_a_request_that_comes_while_it_exits_is_answered_by_the_next(point: str) -> None:
    with SocketUnit(*IDLE, hold=point) as unit:
        unit.connect().close()
        unit.wait_until_held()
        connections = [unit.connect() for _ in range(3)]
        for connection in connections:
            send_initialize(connection)
        unit.release()
        assert [read_answer(connection)[0] for connection in connections] == [200] * 3
        assert (unit.starts, unit.statuses) == (2, [0])
        for connection in connections:
            connection.close()


def test_a_unix_socket_does_as_well(tmp_path: Path) -> None:
    with unix_listener(tmp_path / "socket") as listener, SocketUnit(*IDLE, listener=listener) as unit:
        for exits in (1, 2):
            connection = unit.connect()
            send_initialize(connection)
            status, session, _ = read_answer(connection)
            assert status == 200
            end_session(connection, session)
            unit.wait_for_exits(exits)


def test_a_flood_at_a_sleeping_bridge_starts_it_once_and_each_request_is_answered() -> None:
    with SocketUnit("--idle-exit", "600", "--max-sessions", "1000", "--max-sessions-per-user", "1000") as unit:

        def ask(_: int) -> int:
            connection = unit.connect()
            connection.request("GET", "/healthz")
            status, _session, _content = read_answer(connection)
            connection.close()
            return status

        with ThreadPoolExecutor(50) as clients:
            assert set(clients.map(ask, range(500))) == {200}
        assert unit.starts == 1


def test_it_is_refused_where_nothing_would_start_the_bridge_again() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "stdio_bridge", *IDLE, "--no-identity", "--listen", "127.0.0.1:0", "--", "true"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, "--idle-exit" in ended.stderr) == (2, True)
