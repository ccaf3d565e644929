"""Bounds of sessions and processes: what is not in use makes room, and only then a new one is refused."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from stdio_bridge.servers.eviction import Bounds, Full, find_victim
from tests.stdio_bridge.modern_client import ModernClient
from tests.stdio_bridge.running import SCRIPTED, Bridge, EventReader, assertion, rpc
from tests.stdio_bridge.servers.test_isolation import ONE, OTHER, User, bridge
from tests.stdio_bridge.test_faults import FAULTY, Call, error_of, eventually, initialize_params, metric

TWO_OF_USER = ("--max-sessions", "9", "--max-sessions-per-user", "2")
THIRD = "github:3"


@dataclass(frozen=True)
class Place:
    """A place that someone takes, in use or not."""

    user: str
    idle_since: float | None
    seconds_in_use: float = 0.0

    def evict(self) -> None:
        raise AssertionError("to find what has to end ends nothing")


def idle(user: str, since: float) -> Place:
    return Place(user, since)


def busy(user: str, seconds: float = 5.0) -> Place:
    return Place(user, None, seconds)


BOUNDS = Bounds(in_all=5, of_user=3)


def test_nothing_ends_while_a_place_is_free() -> None:
    assert find_victim([idle("a", 1), idle("a", 2), busy("b")], "a", BOUNDS) is None


def test_at_a_users_bound_their_own_least_recently_used_place_is_freed_and_no_other_users() -> None:
    places = [idle("b", 0), idle("a", 3), busy("a"), idle("a", 2)]
    assert find_victim(places, "a", BOUNDS) is places[3]


def test_at_the_bound_of_all_the_user_who_holds_most_makes_room_whatever_others_used_last() -> None:
    places = [idle("b", 0), idle("c", 1), idle("a", 9), idle("a", 8), busy("a")]
    assert find_victim(places, "d", BOUNDS) is places[3]


def test_of_users_who_hold_the_same_number_the_one_who_asks_makes_room() -> None:
    places = [idle("a", 0), idle("b", 5), idle("a", 1), idle("b", 6), busy("c")]
    assert find_victim(places, "b", BOUNDS) is places[1]


def test_a_user_who_holds_less_than_the_one_who_asks_keeps_what_they_have() -> None:
    places = [idle("b", 0), busy("a", 40), busy("a", 30), busy("c", 20), busy("c", 10)]
    with pytest.raises(Full) as refused:
        find_victim(places, "a", BOUNDS)
    assert (refused.value.of_user, refused.value.retry_seconds) == (False, 10)
    assert find_victim(places, "d", BOUNDS) is places[0]


@pytest.mark.parametrize(
    ("seconds", "told"), [((30.2, 90), 31), ((math.inf, 7), 7), ((math.inf, math.inf), 60), ((0, 5), 1)]
)
def test_when_all_are_in_use_the_time_to_come_back_is_when_the_first_may_be_free(
    seconds: tuple[float, float], told: int
) -> None:
    with pytest.raises(Full) as refused:
        find_victim([busy("a", seconds[0]), busy("b", 1), busy("a", seconds[1])], "a", Bounds(in_all=9, of_user=2))
    assert (refused.value.of_user, refused.value.retry_seconds) == (True, told)


def begin(running: Bridge, user: str, *, seconds: int = 60) -> tuple[int, dict[str, str], bytes]:
    identity = assertion(user, seconds=seconds)
    return running.request("POST", rpc("initialize", initialize_params()), X_Gateway_Identity=identity)


@pytest.mark.parametrize("mode", ["per-session", "per-user", "shared"])
def test_a_client_that_never_ends_its_sessions_can_always_begin_another(tmp_path: Path, mode: str) -> None:
    shared = ("--max-shared-sessions", "9", "--max-shared-sessions-per-user", "2")
    with bridge(tmp_path, mode, *TWO_OF_USER, *shared) as running:
        others = User(running, OTHER)
        users = [User(running, ONE)]
        first_pid = users[0].pid()
        users += [User(running, ONE) for _ in range(7)]
        assert [user.post(rpc("ping", {}))[0] for user in users] == [404] * 6 + [200] * 2
        assert others.pid() != first_pid or mode == "shared"
        assert metric(running, "mcp_bridge_evicted_total") == 6
        assert metric(running, "mcp_bridge_sessions") == 3
        eventually(lambda: len(running.children()) == {"per-session": 3, "per-user": 2, "shared": 1}[mode])


def test_a_session_that_was_used_lately_outlives_one_that_is_older(tmp_path: Path) -> None:
    with bridge(tmp_path, "per-session", *TWO_OF_USER) as running:
        older, newer = User(running, ONE), User(running, ONE)
        older.pid()
        User(running, ONE)
        assert older.post(rpc("ping", {}))[0] == 200
        assert newer.post(rpc("ping", {}))[0] == 404


def test_a_session_with_a_call_or_a_stream_never_makes_room_and_a_new_one_is_told_when_to_come_back(
    tmp_path: Path,
) -> None:
    with bridge(tmp_path, "per-session", *TWO_OF_USER) as running:
        calling, listening = User(running, ONE), User(running, ONE)
        call = Call(running, calling.session, "never", identity=assertion(ONE))
        stream = listening.listen()
        eventually(lambda: metric(running, "mcp_bridge_calls_in_flight") == 1)
        status, headers, content = begin(running, ONE)
        assert (status, headers["retry-after"]) == (503, "5")
        assert "each of the 2 that are allowed has a running call or an open stream" in error_of(content)
        assert json.loads(content)["id"] == 1
        running.wait_for_line("WARNING refused a session of 'github:1': .* 2 that --max-sessions-per-user allows")
        assert begin(running, OTHER)[0] == 200
        stream.close()
        eventually(lambda: begin(running, ONE)[0] == 200)
        assert listening.post(rpc("ping", {}))[0] == 404
        assert calling.post(rpc("ping", {}))[0] == 200
        call.close()


def test_where_streams_take_all_places_the_time_to_come_back_is_when_a_token_ends(tmp_path: Path) -> None:
    with bridge(tmp_path, "shared", "--max-shared-sessions", "1") as running:
        user = User(running, ONE)
        identity = assertion(ONE, seconds=1000)
        stream = EventReader(running, "GET", X_Gateway_Identity=identity, Mcp_Session_Id=user.session)
        status, headers, _ = begin(running, OTHER)
        assert status == 503
        assert 900 < int(headers["retry-after"]) <= 1000
        running.wait_for_line("1 that --max-shared-sessions allows")
        stream.close()


def test_at_the_bound_of_all_a_user_with_one_session_is_not_evicted_for_one_with_many(tmp_path: Path) -> None:
    with bridge(tmp_path, "per-session", "--max-sessions", "4") as running:
        lone = User(running, OTHER)
        many = [User(running, ONE) for _ in range(5)]
        newcomer = User(running, THIRD)
        assert lone.post(rpc("ping", {}))[0] == newcomer.post(rpc("ping", {}))[0] == 200
        assert [user.post(rpc("ping", {}))[0] for user in many] == [404, 404, 404, 200, 200]


def test_a_modern_clients_warm_process_makes_room_too_unless_a_call_needs_it(tmp_path: Path) -> None:
    options = ("--server-era", "legacy", "--max-sessions-per-user", "1")
    with bridge(tmp_path, "per-session", *options) as running:
        client = ModernClient(running, X_Gateway_Identity=assertion(ONE))
        first = client.call("pid").result
        user = User(running, ONE)
        assert user.pid() not in str(first)
        assert client.call("pid").result
        assert user.post(rpc("ping", {}))[0] == 404


def test_processes_that_are_being_ended_have_a_bound_of_their_own(tmp_path: Path) -> None:
    stubborn = (sys.executable, FAULTY[1], "--stubborn")
    options = ("--max-sessions-per-user", "2", "--stop-timeout", "9")
    with bridge(tmp_path, "per-session", *options, command=stubborn) as running:
        for _ in range(4):
            assert begin(running, ONE)[0] == 200
        status, headers, content = begin(running, ONE)
        assert (status, headers["retry-after"]) == (503, "9")
        assert "processes are being ended" in error_of(content)
        assert begin(running, OTHER)[0] == 200
        eventually(lambda: begin(running, ONE)[0] == 200)


def test_a_session_whose_client_left_without_answering_a_question_makes_room() -> None:
    with Bridge("--no-identity", "--max-sessions", "2", command=SCRIPTED) as running:
        for _ in range(2):
            answered = running.request("POST", rpc("initialize", initialize_params(sampling={})))[1]
            steps = {"steps": [{"ask": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}}]}
            call = rpc("tools/call", {"name": "do", "arguments": steps}, request_id=2)
            stream = EventReader(running, "POST", call, Mcp_Session_Id=answered["mcp-session-id"])
            assert stream.next()["method"] == "sampling/createMessage"
            stream.close()
        eventually(lambda: metric(running, "mcp_bridge_open_streams") == 0)
        assert running.initialize()


def test_a_session_whose_client_still_listens_to_a_question_does_not_make_room() -> None:
    with Bridge("--no-identity", "--max-sessions", "1", command=SCRIPTED) as running:
        session = running.request("POST", rpc("initialize", initialize_params(sampling={})))[1]["mcp-session-id"]
        steps = {"steps": [{"ask": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}}]}
        call = rpc("tools/call", {"name": "do", "arguments": steps}, request_id=2)
        stream = EventReader(running, "POST", call, Mcp_Session_Id=session)
        question = stream.next()
        assert running.request("POST", rpc("initialize", initialize_params()))[0] == 503
        result = {"role": "assistant", "content": {"type": "text", "text": "x"}, "model": "m"}
        answer = {"jsonrpc": "2.0", "id": question["id"], "result": result}
        assert running.request("POST", answer, Mcp_Session_Id=session)[0] == 202
        assert [message["id"] for message in stream.rest()] == [2]
