"""Whose server process a modern request reaches, and what becomes of its response."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.stdio_bridge.modern_client import ALL, LEGACY_SERVER, MODERN_SERVER, PREFIX, ModernClient
from tests.stdio_bridge.running import KEY, Bridge, assertion, signed
from tests.stdio_bridge.test_faults import FAULTY, eventually, metric

EXITING = (sys.executable, "-c", "import sys; sys.stderr.write('no luck'); sys.exit(5)")
MUTE = (sys.executable, "-c", "import sys; [None for _ in sys.stdin]")


# Its tools change while the bridge reads the second page of them.
CHANGING = """
import json, sys

def say(**message):
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)

schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
changed = False
for line in sys.stdin:
    request = json.loads(line)
    method = request["method"]
    if method == "initialize":
        capabilities = {"tools": {"listChanged": True}}
        info = {"name": "changing", "version": "1"}
        result = {"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": info}
        say(id=request["id"], result=result)
    elif method == "tools/list" and "cursor" not in request["params"]:
        say(id=request["id"], result={"tools": [{"name": "first", "inputSchema": schema}], "nextCursor": "2"})
    elif method == "tools/list":
        if not changed:
            say(method="notifications/tools/list_changed")
        changed = True
        say(id=request["id"], result={"tools": []})
    elif "id" in request:
        say(id=request["id"], result={"content": []})
"""


@contextlib.contextmanager
def bridge(*options: str, command: tuple[str, ...]) -> Iterator[Bridge]:
    with Bridge(*options, command=command) as running:
        yield running
        assert running.stop() == 0


@pytest.fixture
def key(tmp_path: Path) -> str:
    (tmp_path / "key").write_text(KEY)
    return str(tmp_path / "key")


def of_user(running: Bridge, user: str, **capabilities: object) -> ModernClient:
    return ModernClient(running, dict(capabilities), X_Gateway_Identity=assertion(user, f"grant of {user}"))


@pytest.mark.parametrize("command", [LEGACY_SERVER, MODERN_SERVER])
def test_two_users_never_share_a_process(key: str, command: tuple[str, ...]) -> None:
    with bridge("--require-identity", key, command=command) as running:
        ada, bob = of_user(running, "github:1"), of_user(running, "github:2")
        assert ada.call("pid").said == ada.call("pid").said != bob.call("pid").said


@pytest.mark.parametrize("command", [LEGACY_SERVER, MODERN_SERVER])
def test_a_shared_server_is_one_for_all(key: str, command: tuple[str, ...]) -> None:
    with bridge("--require-identity", key, "--isolation", "shared", command=command) as running:
        ada, bob = of_user(running, "github:1"), of_user(running, "github:2")
        assert ada.call("pid").said == bob.call("pid").said


def test_a_question_of_a_shared_server_reaches_nobody_while_two_users_call(key: str) -> None:
    with bridge("--require-identity", key, "--isolation", "shared", command=LEGACY_SERVER) as running:
        ada, bob = of_user(running, "github:1", **ALL), of_user(running, "github:2", **ALL)
        suspended = ada.call("ask")
        assert suspended.result["resultType"] == "input_required"
        (answer,) = bob.call("ask").said
        assert answer["code"] == -32603


def test_only_a_legacy_server_is_started_for_each_set_of_capabilities() -> None:
    with bridge("--no-identity", command=LEGACY_SERVER) as running:
        assert ModernClient(running, ALL).call("pid").said != ModernClient(running).call("pid").said
    with bridge("--no-identity", command=MODERN_SERVER) as running:
        assert ModernClient(running, ALL).call("pid").said == ModernClient(running).call("pid").said


def test_a_process_that_turns_out_to_be_one_too_many_ends_when_it_is_idle(tmp_path: Path) -> None:
    # Neither says of which era it is before both are asked, for clients that declare different things.
    gated = f"until test -e {tmp_path}/gate; do sleep 0.02; done; exec {shlex.join(MODERN_SERVER)}"
    with bridge("--no-identity", "--idle-timeout", "3", command=("sh", "-c", gated)) as running:
        clients = ModernClient(running), ModernClient(running, ALL)
        with ThreadPoolExecutor(2) as pool:
            calls = [pool.submit(client.call, "pid") for client in clients]
            eventually(lambda: metric(running, "mcp_bridge_processes") == 2)
            (tmp_path / "gate").touch()
            assert len({call.result().said for call in calls}) == 2
        assert clients[0].call("pid").said == clients[1].call("pid").said
        eventually(lambda: running.children() == [])


def test_too_many_processes_of_a_user_are_refused_for_a_while(key: str) -> None:
    options = ("--require-identity", key, "--max-sessions-per-user", "1", "--keep-alive", "0.2")
    with (
        bridge(*options, command=FAULTY) as running,
        of_user(running, "github:1").stream("tools/call", {"name": "never"}),
    ):
        refused = of_user(running, "github:1", roots={}).call("pid")
        assert (refused.status, refused.last["id"]) == (503, 7)
        assert int(refused.headers["retry-after"]) > 0
        assert of_user(running, "github:2").call("pid").status == 200


def test_a_server_that_exits_at_once_fails_the_request_and_says_why() -> None:
    with bridge("--no-identity", command=EXITING) as running:
        error = ModernClient(running).call("pid").error
        assert "exited with status 5" in error["message"]
        assert "no luck" in error["message"]


def test_a_server_that_exits_at_any_first_request_but_initialize_is_served_as_a_legacy_one() -> None:
    with bridge("--no-identity", command=(*FAULTY, "--strict")) as running:
        client = ModernClient(running)
        pid = client.call("pid").result["content"]
        assert client.call("pid").result["content"] == pid
        # That it is one is not found out anew for another client, at the cost of another process.
        assert ModernClient(running, ALL).call("pid").status == 200
        assert metric(running, "mcp_bridge_crashes_total") == 1


def test_a_server_that_never_answers_fails_the_request_in_time() -> None:
    with bridge("--no-identity", "--call-timeout", "0.5", command=MUTE) as running:
        assert "error" in ModernClient(running).call("pid").last


def test_the_era_is_asked_for_once_and_not_where_it_is_told() -> None:
    with bridge("--no-identity", "--server-era", "legacy", command=MODERN_SERVER) as running:
        assert "2026-07-28 only" in ModernClient(running).call("pid").error["message"]
    with bridge("--no-identity", "--server-era", "dual", command=MODERN_SERVER) as running:
        assert ModernClient(running).call("pid").status == 200


def test_a_revoked_grant_ends_its_streams_and_cancels_its_calls(key: str) -> None:
    with bridge("--require-identity", key, command=MODERN_SERVER) as running:
        ada, bob = of_user(running, "github:1"), of_user(running, "github:2")
        wanted = {"notifications": {"toolsListChanged": True}}
        with (
            ada.stream("subscriptions/listen", wanted) as hers,
            bob.stream("subscriptions/listen", wanted) as his,
        ):
            next(hers), next(his)
            push = signed("revocation", {"sid": "grant of github:1"}).encode()
            assert running.request("POST", push, path="/revocations")[0] == 204
            assert list(hers) == []
            bob.call("change")
            assert next(his)["method"] == "notifications/tools/list_changed"
        assert "notifications/cancelled" in ada.call("seen").said


def test_a_log_message_that_may_be_of_two_requests_reaches_neither() -> None:
    with bridge("--no-identity", command=MODERN_SERVER) as running:
        client = ModernClient(running)
        meta = {PREFIX + "logLevel": "debug"}
        message = client.message("tools/call", {"name": "hang"}, meta)
        asking = partial(running.request, "POST", message, **client.headers_for(message))
        hanging = threading.Thread(target=asking, daemon=True)
        hanging.start()
        while "mcp_bridge_calls_in_flight 1\n" not in running.request("GET", path="/metrics")[2].decode():
            pass
        assert len(client.call("log", meta=meta).messages) == 1
        # A request that asked for none delays no other.
        assert len(client.call("log").messages) == 1
        client.call("die")
        hanging.join(60)
        assert len(client.call("log", meta=meta).messages) == 3


def test_a_user_can_have_so_many_calls_wait_and_no_more() -> None:
    with bridge("--no-identity", command=LEGACY_SERVER) as running:
        client = ModernClient(running, ALL)
        assert all(client.call("ask").result["resultType"] == "input_required" for _ in range(100))
        (refused,) = client.call("ask").said
        assert "too many" in refused["message"]
        page = running.request("GET", path="/metrics")[2].decode()
        assert "mcp_bridge_parked_calls 100\n" in page


def test_many_modern_requests_at_once_are_all_answered() -> None:
    with bridge("--no-identity", command=MODERN_SERVER) as running:
        client = ModernClient(running)
        ids: list[int] = []

        def ask(number: int) -> None:
            message = {**client.message("tools/call", {"name": "pid", "arguments": {"n": number}}), "id": number}
            ids.append(json.loads(running.request("POST", message, **client.headers_for(message))[2])["id"])

        threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(ids) == list(range(200))
        assert len(running.children()) == 1


@pytest.mark.parametrize("command", [LEGACY_SERVER, MODERN_SERVER])
def test_a_crash_ends_a_subscription_with_an_error_so_that_its_client_begins_another(command: tuple[str, ...]) -> None:
    with bridge("--no-identity", command=command) as running:
        client = ModernClient(running)
        wanted = {"notifications": {"toolsListChanged": True}}
        with client.stream("subscriptions/listen", wanted) as messages:
            next(messages)
            client.call("die")
            (ended,) = messages
            assert "exited with status 4" in ended["error"]["message"]
        with client.stream("subscriptions/listen", wanted) as messages:
            next(messages)
            client.call("change")
            assert next(messages)["method"] == "notifications/tools/list_changed"


def test_a_subscription_to_more_than_can_be_kept_for_a_legacy_server_is_refused() -> None:
    with bridge("--no-identity", command=LEGACY_SERVER) as running:
        client = ModernClient(running)
        wanted = {"notifications": {"resourceSubscriptions": [f"a:{number}" for number in range(10_000)]}}
        error = client.request("subscriptions/listen", wanted).error
        assert error["code"] == -32602
        assert "too many" in error["message"]
        wanted["notifications"]["resourceSubscriptions"] = ["a:1"]
        with client.stream("subscriptions/listen", wanted) as messages:
            assert next(messages)["params"]["notifications"] == wanted["notifications"]


def test_tools_that_change_while_they_are_listed_are_listed_anew() -> None:
    with bridge("--no-identity", "--server-era", "legacy", command=(sys.executable, "-c", CHANGING)) as running:
        client = ModernClient(running)
        assert client.call("first", {"region": "eu"}).error["code"] == -32020
        assert client.call("first", {"region": "eu"}, Mcp_Param_Region="eu").status == 200
