"""Who shares a process, over HTTP: by session, by user, or everyone; and processes started ahead of need."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stdio_bridge.running import KEY, SCRIPTED, Bridge, EventReader, assertion, rpc
from tests.stdio_bridge.test_faults import FAULTY, Call, error_of, eventually, metric

ONE, OTHER = "github:1", "github:2"
# Answers everything, and writes to stderr which method was called.
WRITES = """
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if "id" in message:
        sys.stderr.write(message["method"] + "\\n")
        sys.stderr.flush()
        server = {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}}
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": server}), flush=True)
"""


@contextlib.contextmanager
def bridge(tmp_path: Path, mode: str, *options: str, command: tuple[str, ...] = FAULTY) -> Iterator[Bridge]:
    key = tmp_path / "key"
    key.write_text(KEY)
    identity, isolation = ("--require-identity", str(key)), ("--isolation", mode)
    with Bridge(*identity, *isolation, "--drain-timeout", "0.1", *options, command=command) as running:
        yield running
        assert running.stop() == 0


class User:
    """A session of a user's."""

    def __init__(self, bridge: Bridge, name: str, version: str = "2025-06-18", **capabilities: Any) -> None:
        self._bridge = bridge
        self.name = name
        info = {"name": "t", "version": "1"}
        params = {"protocolVersion": version, "capabilities": capabilities, "clientInfo": info}
        status, headers, content = bridge.request("POST", rpc("initialize", params), X_Gateway_Identity=assertion(name))
        assert status == 200, content
        self.initialized = json.loads(content)["result"]
        self.session = headers["mcp-session-id"]
        assert self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})[0] == 202

    @property
    def headers(self) -> dict[str, str]:
        return {"X_Gateway_Identity": assertion(self.name), "Mcp_Session_Id": self.session}

    def post(self, message: object) -> tuple[int, dict[str, str], bytes]:
        return self._bridge.request("POST", message, **self.headers)

    def pid(self) -> str:
        status, _, content = self.post(rpc("tools/call", {"name": "pid"}))
        assert status == 200, content
        return str(json.loads(content)["result"]["content"][0]["text"])

    def listen(self) -> EventReader:
        return EventReader(self._bridge, "GET", **self.headers)

    def steps(self, *steps: dict[str, Any]) -> EventReader:
        """Call the scripted server's tool, whose answer is a stream."""
        message = rpc("tools/call", {"name": "run", "arguments": {"steps": list(steps)}})
        return EventReader(self._bridge, "POST", message, **self.headers)


@pytest.mark.parametrize(
    ("mode", "options", "begins"),
    [
        ("per-session", (), ["1 of github:1", "2 of github:2", "3 of github:1"]),
        ("per-user", (), ["1 of github:1", "2 of github:2", "1 of github:1"]),
        ("shared", (), ["1", "1", "1"]),
        ("per-user", ("--warm-spares", "1"), ["1 of github:1"]),
    ],
)
def test_the_log_says_which_process_wrote_a_line_and_whose_it_is(
    tmp_path: Path, mode: str, options: tuple[str, ...], begins: list[str]
) -> None:
    with bridge(tmp_path, mode, *options, command=(sys.executable, "-c", WRITES)) as running:
        if options:
            eventually(lambda: metric(running, "mcp_bridge_spare_processes") == 1)
        for number, (name, begin) in enumerate(zip((ONE, OTHER, ONE), begins, strict=False)):
            session = User(running, name)
            session.post(rpc(f"line {number}", {}))
            running.wait_for_line(f"^INFO process {begin}: line {number}$")


@pytest.mark.parametrize(
    ("mode", "processes"),
    [("per-session", 3), ("per-user", 2), ("shared", 1)],
)
def test_sessions_share_a_process_as_the_isolation_says(tmp_path: Path, mode: str, processes: int) -> None:
    with bridge(tmp_path, mode) as running:
        pids = [User(running, name).pid() for name in (ONE, ONE, OTHER)]
        assert len(set(pids)) == processes
        assert (pids[0] == pids[1]) == (mode != "per-session")
        assert metric(running, "mcp_bridge_processes") == processes
        assert metric(running, "mcp_bridge_sessions") == 3


@pytest.mark.parametrize("mode", ["per-session", "per-user", "shared"])
def test_a_session_is_its_users_alone_in_every_mode(tmp_path: Path, mode: str) -> None:
    with bridge(tmp_path, mode) as running:
        owner = User(running, ONE)
        stolen = {"X_Gateway_Identity": assertion(OTHER), "Mcp_Session_Id": owner.session}
        User(running, OTHER)
        assert running.request("POST", rpc("tools/call", {"name": "pid"}), **stolen)[0] == 404
        assert running.request("DELETE", **stolen)[0] == 404
        assert owner.pid()


def test_the_second_session_gets_the_first_ones_answer_in_its_own_revision_if_that_is_older(tmp_path: Path) -> None:
    with bridge(tmp_path, "shared") as running:
        first = User(running, ONE, "2025-06-18").initialized
        assert User(running, OTHER, "2025-06-18").initialized == first
        older, newer = User(running, OTHER, "2025-03-26"), User(running, OTHER, "2025-11-25")
        assert older.initialized == {**first, "protocolVersion": "2025-03-26"}
        assert newer.initialized == first


def test_the_server_is_initialized_once_however_many_sessions_begin_at_once(tmp_path: Path) -> None:
    with bridge(tmp_path, "shared", command=SCRIPTED) as running:
        users = [User(running, name) for name in (ONE, OTHER, ONE)]
        reader = users[0].steps({"notify": "notifications/message", "params": {"data": "x"}}, {"heard": True})
        heard = json.loads(reader.rest()[-1]["result"]["content"][0]["text"])[0]
        reader.close()
        assert [note["method"] for note in heard] == ["notifications/initialized"]


@pytest.mark.parametrize("mode", ["per-user", "shared"])
def test_ending_a_session_leaves_the_process_to_the_others_and_fails_its_own_calls(tmp_path: Path, mode: str) -> None:
    with bridge(tmp_path, mode) as running:
        ending, staying = User(running, ONE), User(running, ONE)
        pid = staying.pid()
        waiting = Call(running, ending.session, "never", identity=assertion(ONE))
        eventually(lambda: metric(running, "mcp_bridge_calls_in_flight") == 1)
        assert running.request("DELETE", **ending.headers)[0] == 204
        assert "session was ended" in error_of(waiting.content())
        assert ending.post(rpc("tools/call", {"name": "pid"}))[0] == 404
        assert staying.pid() == pid


def test_a_process_that_dies_ends_its_sessions_and_no_other_users(tmp_path: Path) -> None:
    with bridge(tmp_path, "per-user") as running:
        dying, same, other = User(running, ONE), User(running, ONE), User(running, OTHER)
        pid = other.pid()
        assert "exited with status 7" in error_of(dying.post(rpc("tools/call", {"name": "exit"}))[2])
        for session in (dying, same):
            assert session.post(rpc("tools/call", {"name": "pid"}))[0] == 404
        assert other.pid() == pid
        assert User(running, ONE).pid()


def test_a_shared_process_ends_when_nobody_has_used_it_for_the_idle_time(tmp_path: Path) -> None:
    with bridge(tmp_path, "shared", "--idle-timeout", "1") as running:
        leaving, staying = User(running, ONE), User(running, OTHER)
        stream = staying.listen()
        running.request("DELETE", **leaving.headers)
        never_used = User(running, OTHER)
        # When the session that nobody uses is gone, as idle as the one that listens: the process is still there.
        eventually(lambda: metric(running, "mcp_bridge_sessions") == 1)
        assert never_used.post(rpc("tools/call", {"name": "pid"}))[0] == 404
        assert len(running.children()) == 1
        stream.close()
        eventually(lambda: running.children() == [])


def test_a_list_change_reaches_every_session_of_a_shared_process_and_a_log_line_only_the_caller(
    tmp_path: Path,
) -> None:
    with bridge(tmp_path, "shared", command=SCRIPTED) as running:
        caller, other = User(running, ONE), User(running, OTHER)
        stream = other.listen()
        log = {"notify": "notifications/message", "params": {"data": "secret"}}
        call = caller.steps(log, {"notify": "notifications/tools/list_changed"})
        methods = [event.get("method") for event in call.rest()]
        assert methods == ["notifications/message", "notifications/tools/list_changed", None]
        assert stream.next()["method"] == "notifications/tools/list_changed"
        call.close()
        stream.close()


def test_only_a_caller_that_has_declared_sampling_is_asked_for_it(tmp_path: Path) -> None:
    with bridge(tmp_path, "shared", command=SCRIPTED) as running:
        able, unable = User(running, ONE, sampling={}), User(running, OTHER)
        log = {"notify": "notifications/message", "params": {"data": "x"}}
        ask = {"ask": "sampling/createMessage", "params": {}}
        refused = unable.steps(log, ask).rest()
        assert "error" in json.loads(refused[-1]["result"]["content"][0]["text"])[0]
        call = able.steps(ask)
        asked = call.next()
        assert asked["method"] == "sampling/createMessage"
        assert unable.post({"jsonrpc": "2.0", "id": asked["id"], "result": {"stolen": True}})[0] == 202
        assert able.post({"jsonrpc": "2.0", "id": asked["id"], "result": {"mine": True}})[0] == 202
        assert json.loads(call.rest()[-1]["result"]["content"][0]["text"]) == [{"result": {"mine": True}}]
        call.close()


def test_a_warm_spare_is_taken_first_replaced_and_counts_to_no_limit(tmp_path: Path) -> None:
    options = ("--warm-spares", "1", "--max-sessions", "1")
    with bridge(tmp_path, "per-session", *options) as running:
        eventually(lambda: metric(running, "mcp_bridge_spare_processes") == 1)
        (spare,) = running.children()
        user = User(running, ONE)
        assert user.pid() == str(spare.pid)
        eventually(lambda: metric(running, "mcp_bridge_spare_processes") == 1)
        assert metric(running, "mcp_bridge_processes") == 1
        assert len(running.children()) == 2


def test_spares_of_a_broken_server_are_not_replaced_without_pause(tmp_path: Path) -> None:
    with bridge(tmp_path, "per-session", "--warm-spares", "2", command=(*FAULTY, "--exit-at-start")) as running:
        eventually(lambda: metric(running, "mcp_bridge_crashes_total") >= 2)
        assert metric(running, "mcp_bridge_spawns_total") <= 4


def test_session_ids_begin_with_the_replicas_name(tmp_path: Path) -> None:
    with bridge(tmp_path, "per-session", "--replica", "host-2") as running:
        assert User(running, ONE).session.startswith("host-2.")


ASKED_FOR: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("sampling/createMessage", {}, {"roots": {}}),
    ("sampling/createMessage", {"tools": []}, {"sampling": {}}),
    ("elicitation/create", {"mode": "url"}, {"elicitation": {}}),
    ("elicitation/create", {}, {"sampling": {}}),
    ("roots/list", {}, {}),
]


@pytest.mark.parametrize("mode", ["per-session", "per-user", "shared"])
def test_a_question_that_the_client_has_not_declared_to_answer_is_refused_to_the_server(
    tmp_path: Path, mode: str
) -> None:
    with bridge(tmp_path, mode, command=SCRIPTED) as running:
        for method, params, declared in ASKED_FOR:
            steps = [{"ask": method, "params": params}]
            message = rpc("tools/call", {"name": "run", "arguments": {"steps": steps}})
            content = User(running, ONE, "2025-11-25", **declared).post(message)[2]
            (brought,) = json.loads(json.loads(content)["result"]["content"][0]["text"])
            assert "no connected client that it may ask declared support for it" in brought["error"]["message"]


@pytest.mark.parametrize("mode", ["per-session", "shared"])
def test_a_question_is_refused_to_the_server_when_its_client_has_no_stream_to_be_asked_on(
    tmp_path: Path, mode: str
) -> None:
    with bridge(tmp_path, mode, command=SCRIPTED) as running:
        user = User(running, ONE, elicitation={})
        # With two calls in flight the question goes with neither of them.
        waiting = user.steps({"notify": "notifications/message", "params": {"level": "info"}}, {"wait": "go on"})
        waiting.next()
        steps = [{"ask": "elicitation/create"}, {"release": "go on"}]
        message = rpc("tools/call", {"name": "steps", "arguments": {"steps": steps}}, 2)
        asking = Call(running, user.session, "", message=message, identity=assertion(ONE))
        assert "result" in waiting.rest()[-1]
        assert "has no open stream" in json.loads(asking.content())["result"]["content"][0]["text"]


@pytest.mark.parametrize("mode", ["per-session", "shared"])
def test_a_request_without_a_session_id_is_of_its_grants_newest_session_and_of_no_other(
    tmp_path: Path, mode: str
) -> None:
    with bridge(tmp_path, mode, command=SCRIPTED) as running:
        ping = rpc("ping", {})
        mine, same_user, another = (
            {"X_Gateway_Identity": assertion(user, grant)}
            for user, grant in ((ONE, "mine"), (ONE, "another of mine"), (OTHER, "mine"))
        )
        older, newer = running.initialize(**mine), running.initialize(**mine)
        assert running.request("POST", ping, **mine)[0] == 200
        stream = EventReader(running, "GET", **mine)
        for stranger in (same_user, another):
            status, _, content = running.request("POST", ping, **stranger)
            assert (status, "initialize first" in error_of(content)) == (400, True)
            assert running.request("DELETE", **stranger)[0] == 400
        # It is the newest: the stream, which a later one takes the place of, and the end are its own.
        later = EventReader(running, "GET", **mine, Mcp_Session_Id=newer)
        assert stream.rest() == []
        later.close()
        assert running.request("DELETE", **mine)[0] == 204
        assert running.request("POST", ping, **mine, Mcp_Session_Id=newer)[0] == 404
        assert running.request("POST", ping, **mine)[0] == 200
        assert running.request("DELETE", **mine, Mcp_Session_Id=older)[0] == 204
        assert running.request("POST", ping, **mine)[0] == 400


def test_a_replica_without_a_session_of_the_grant_leaves_the_request_to_another_replica(tmp_path: Path) -> None:
    with bridge(tmp_path, "per-session", "--replica", "a") as running:
        for method, body in (("POST", rpc("ping", {})), ("GET", None), ("DELETE", None)):
            status, _, content = running.request(method, body, X_Gateway_Identity=assertion(ONE))
            assert (status, "initialize first" in error_of(content)) == (421, True)
        running.initialize(X_Gateway_Identity=assertion(ONE))
        assert running.request("POST", rpc("ping", {}), X_Gateway_Identity=assertion(ONE))[0] == 200
