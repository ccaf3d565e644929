"""What the operator learns of a server's tools: from a bridge that runs, and before one does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from stdio_bridge.protocol.tool_lock import render_lock
from tests.stdio_bridge.running import KEY, ROOT, Bridge, assertion, signed

Message = dict[str, Any]

FOLDER = Path(__file__).parent
LOOK: Message = {"name": "look", "inputSchema": {"type": "object"}, "description": "It looks."}
TOOLS: list[Message] = [LOOK, *({"name": f"tool {number}", "inputSchema": {}} for number in range(50))]
REFUSING = "import sys; sys.exit(3)"


def changing(era: str, tools: list[Message]) -> tuple[str, ...]:
    return sys.executable, str(FOLDER / "changing_server.py"), era, json.dumps(tools)


def offering(era: str, **offered: list[str]) -> tuple[str, ...]:
    return sys.executable, str(FOLDER / "offering_server.py"), era, json.dumps(offered)


Start = Callable[..., Bridge]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[Bridge] = []

    def start_one(command: tuple[str, ...], *, locked: list[Message] | None = None, **members: object) -> Bridge:
        (tmp_path / "key").write_text(KEY)
        (tmp_path / "lock.json").write_text(render_lock(locked or []))
        config = {"require-identity": str(tmp_path / "key"), "drain-timeout": 0.1, **members}
        if locked is not None:
            config["tools-lock"] = str(tmp_path / "lock.json")
        (tmp_path / "bridge.json").write_text(json.dumps(config))
        running.append(Bridge("--config", str(tmp_path / "bridge.json"), command=command))
        return running[-1]

    yield start_one
    for each in running:
        each.end()


def survey(bridge: Bridge) -> Message:
    status, _, content = bridge.request("POST", signed("survey", {}).encode(), path="/survey")
    assert status == 200, content
    report: Message = json.loads(content)["mcp-stdio-bridge"]
    return report


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_a_survey_tells_of_all_tools_whatever_is_hidden(start: Start, era: str) -> None:
    bridge = start(changing(era, TOOLS), locked=[], tools={"default": "deny"})
    report = survey(bridge)
    assert report["lock"] == render_lock(TOOLS)
    assert report["tools"] == len(TOOLS)
    assert {each["reason"] for each in report["differences"]} == {"new"}
    left = psutil.wait_procs(bridge.children(), timeout=60)[1]
    assert left == []


def test_without_a_lock_there_are_no_differences(start: Start) -> None:
    report = survey(start(changing("legacy", TOOLS)))
    assert (report["locked"], report["differences"]) == (False, [])


def test_a_survey_says_what_differs(start: Start) -> None:
    listed = [{**LOOK, "description": "It looks.\u200b"}, {"name": "n\u200bew"}]
    bridge = start(changing("legacy", listed), locked=[LOOK, {"name": "gone"}])
    report = survey(bridge)
    change = {"path": "description", "locked": '"It looks."', "listed": r'"It looks.\u200b"'}
    assert report["locked"] is True
    assert report["differences"] == [
        {"tool": '"gone"', "reason": "missing", "changes": []},
        {"tool": '"look"', "reason": "changed", "changes": [change]},
        {"tool": r'"n\u200bew"', "reason": "new", "changes": []},
    ]


def test_two_tools_of_one_name_are_a_problem_of_their_own(start: Start) -> None:
    report = survey(start(changing("legacy", [LOOK, LOOK]), locked=[LOOK]))
    assert report["lock"] is None
    assert report["problem"] == 'the server lists two tools of the name "look"'
    assert report["differences"] == [{"tool": '"look"', "reason": "duplicate", "changes": []}]


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_a_survey_says_which_rules_match_nothing(start: Start, era: str) -> None:
    command = offering(
        era,
        tools=["look", "create_issue"],
        prompts=["hello"],
        resources=["memo://a/1"],
        templates=["memo://b/{id}"],
    )
    bridge = start(
        command,
        tools={"rules": {"look": {}, "create_*": {}, "drop_*": {"deny": True}, "Look": {"deny": True}}},
        prompts={"rules": {"hello": {}, "bye": {}}},
        resources={"rules": {"memo://a/*": {}, "memo://b/secret/*": {}, "memo://c/*": {}, "memo://a/2": {}}},
    )
    assert survey(bridge)["unmatched_rules"] == {
        "tools": ["Look", "drop_*"],
        "prompts": ["bye"],
        "resources": ["memo://a/2", "memo://c/*"],
    }


def test_a_server_that_fails_is_told_of_with_the_reason(start: Start) -> None:
    bridge = start((sys.executable, "-c", REFUSING))
    status, _, content = bridge.request("POST", signed("survey", {}).encode(), path="/survey")
    assert status == 502
    assert json.loads(content)["error"]["message"] == "the MCP server exited with status 3"


@pytest.mark.parametrize(
    "body",
    [b"", signed("identity", {}).encode(), signed("revocation", {"sid": "g"}).encode(), assertion("u").encode()],
    ids=["none", "of another purpose", "a revocation", "an assertion"],
)
def test_only_the_operator_gets_a_survey(start: Start, body: bytes) -> None:
    bridge = start(changing("legacy", TOOLS))
    assert bridge.request("POST", body, path="/survey")[0] == 403
    assert bridge.request("GET", path="/survey")[0] == 405
    assert bridge.children() == []


def test_a_bridge_without_a_key_makes_no_survey() -> None:
    with Bridge("--no-identity") as bridge:
        assert bridge.request("POST", signed("survey", {}).encode(), path="/survey")[0] == 403


def print_lock(*command: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", "stdio_bridge", "--print-tools-lock", "--", *command]
    return subprocess.run(arguments, check=False, capture_output=True, text=True, cwd=ROOT, timeout=100)


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_a_lock_can_be_made_before_a_server_is_deployed(era: str) -> None:
    printed = print_lock(*changing(era, TOOLS))
    assert (printed.returncode, printed.stdout) == (0, render_lock(TOOLS))


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ((sys.executable, "-c", REFUSING), "the MCP server exited with status 3"),
        (changing("legacy", [LOOK, LOOK]), 'the server lists two tools of the name "look"'),
    ],
    ids=["it fails", "two of one name"],
)
def test_what_cannot_be_locked_is_told_and_prints_nothing(command: tuple[str, ...], reason: str) -> None:
    printed = print_lock(*command)
    assert (printed.returncode, printed.stdout) == (1, "")
    assert f"mcp-stdio-bridge: {reason}\n" in printed.stderr
