"""Rules, quotas and schemas in front of a server whose list of tools is a burden."""

from __future__ import annotations

import concurrent.futures
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stdio_bridge.large_lists_server import COUNT
from tests.stdio_bridge.running import KEY, Bridge
from tests.stdio_bridge.user_client import Client

RULES: dict[str, Any] = {
    "calls-per-minute": 1000,
    "tools": {
        "rules": {
            "tool_*": {"arguments": {"properties": {"x": {"maxLength": 3}}}},
            "tool_1*": {"deny": True},
            "tool_2*": {"scopes": ["write"], "calls-per-minute": 1000},
        }
    },
}
DENIED = sum(str(number).startswith(("1", "2")) for number in range(3, COUNT))


@pytest.fixture(scope="module", params=["legacy server", "modern server"])
def bridge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    folder: Path = tmp_path_factory.mktemp("large")
    (folder / "key").write_text(KEY)
    (folder / "bridge.json").write_text(json.dumps({**RULES, "require-identity": str(folder / "key")}))
    options = ("--config", str(folder / "bridge.json"), "--isolation", "shared", "--drain-timeout", "0.1")
    server = str(Path(__file__).parents[1] / "large_lists_server.py")
    with Bridge(*options, command=(sys.executable, server, request.param.split()[0])) as running:
        yield running


@pytest.fixture(params=["legacy client", "modern client"])
def era(request: pytest.FixtureRequest) -> str:
    return str(request.param.split()[0])


def test_a_list_of_ten_thousand_tools_is_filtered_and_both_of_one_name_stay(bridge: Bridge, era: str) -> None:
    listed = Client(bridge, era).send("tools/list").message["result"]["tools"]
    assert len(listed) == COUNT - DENIED
    assert [tool["description"] for tool in listed if tool["name"] == "twice"] == ["first", "second"]
    (large,) = (tool for tool in listed if tool["name"] == "large")
    assert len(large["inputSchema"]["properties"]["x"]["description"]) == 1 << 20


def test_calls_are_decided_as_in_front_of_any_server(bridge: Bridge, era: str) -> None:
    client = Client(bridge, era)
    for name in ("twice", "large", "tool_5"):
        assert client.send("tools/call", {"name": name, "arguments": {"x": "abc"}}).message["result"]["content"]
    refused = client.send("tools/call", {"name": "tool_9999", "arguments": {"x": "abcd"}}).message["error"]
    assert refused["message"] == "Invalid arguments: arguments.x: the value is longer than 3 characters"
    assert client.call("tool_17").message["error"]["message"] == "Unknown tool: tool_17"


def test_while_some_list_all_of_it_the_calls_of_others_are_answered(bridge: Bridge, era: str) -> None:
    listing = [Client(bridge, era, user=f"lists {number}") for number in range(2)]
    calling = Client(bridge, era, user="calls")
    with concurrent.futures.ThreadPoolExecutor(len(listing)) as pool:
        lists = [pool.submit(client.send, "tools/list") for client in listing for _ in range(2)]
        called = [calling.call("tool_5").message for _ in range(10)]
        assert all(len(each.result(60).message["result"]["tools"]) == COUNT - DENIED for each in lists)
    assert all(each["result"]["content"][0]["text"] == "tool_5" for each in called)
