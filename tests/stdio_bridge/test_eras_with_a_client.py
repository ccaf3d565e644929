"""A client that is not ours, in each era, in front of servers of each era: what they ask of each other arrives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import mcp_types as types
import pytest
from mcp import Client

from tests.stdio_bridge.modern_client import LEGACY_SERVER, MODERN_SERVER
from tests.stdio_bridge.running import Bridge

ELICITED = {"action": "accept", "content": {"name": "Ada"}}
SAMPLED = {"role": "assistant", "content": {"type": "text", "text": "hi"}, "model": "m"}
ROOTS: dict[str, Any] = {"roots": []}


@pytest.fixture(scope="module", params=["legacy", "modern"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with Bridge("--no-identity", command=LEGACY_SERVER if request.param == "legacy" else MODERN_SERVER) as running:
        yield f"http://127.0.0.1:{running.port}/mcp"


async def elicit(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
    return types.ElicitResult.model_validate(ELICITED)


async def sample(context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    return types.CreateMessageResult.model_validate(SAMPLED)


async def roots(context: Any) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[])


async def answers(url: str, mode: str) -> tuple[str, list[Any]]:
    callbacks: Any = {"elicitation_callback": elicit, "sampling_callback": sample, "list_roots_callback": roots}
    said = []
    async with Client(url, mode=mode, **callbacks) as client:
        version = client.session.protocol_version
        await client.list_tools()
        for tool in ("ask", "ask twice", "ask all", "mirrored"):
            result = await client.call_tool(tool, {"region": "eü"} if tool == "mirrored" else {})
            said.append(json.loads(result.content[0].text))  # type: ignore[union-attr]  # the tools say text
    return str(version), said


# The client warns that what these servers ask for is to be asked for in another way one day.
@pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")
@pytest.mark.parametrize(("mode", "version"), [("auto", "2026-07-28"), ("legacy", "2025-11-25")])
def test_it_is_asked_for_what_the_server_needs(url: str, mode: str, version: str) -> None:
    expected = [[ELICITED], [ELICITED, ELICITED], [ELICITED, SAMPLED, ROOTS], "ok"]
    assert asyncio.run(answers(url, mode)) == (version, expected)
