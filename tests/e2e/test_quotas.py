"""Quotas and schemas for arguments through the real router: what a bridge says reaches the client as it is."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import requests
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

from auth_service.settings import load_credentials
from tests.stdio_bridge.modern_client import PREFIX, VERSION
from tests.stdio_bridge.running import Bridge, rpc

from .conftest import RunningStack
from .flow import MCP_HEADERS, initialize, log_in

SERVER = str(Path(__file__).parents[1] / "stdio_bridge/offering_server.py")
OFFERED = {"tools": ["look", "make"]}
OPTIONS = {
    "calls-per-minute": 1000,
    "max-calls-per-user": 1000,
    "tools": {
        "rules": {
            "make": {"calls-per-minute": 2, "arguments": {"properties": {"path": {"pattern": "^/srv/"}}}},
        }
    },
}
LIMIT = "the limit of calls to tool make is 2 per minute and user"


@pytest.fixture(params=["legacy", "modern"])
def limited(request: pytest.FixtureRequest, stack: RunningStack, tmp_path: Path) -> Iterator[str]:
    """The URL of a server of each era, whose bridge begins with nothing counted."""
    # A name of its own: the router may still have the routes of the test before when the auth service has these.
    name = f"limited-{request.param}-{secrets.token_hex(4)}"
    url = stack.resource(name)
    credentials = load_credentials(stack.state_directory / "credentials")
    (tmp_path / "key").write_bytes(credentials.derive_key(f"identity-key:{name}"))
    (tmp_path / "bridge.json").write_text(json.dumps({**OPTIONS, "require-identity": str(tmp_path / "key")}))
    command = (sys.executable, SERVER, request.param, json.dumps(OFFERED))
    with (
        Bridge("--config", str(tmp_path / "bridge.json"), command=command) as bridge,
        stack.serving({name: {"url": url, "backends": [f"http://127.0.0.1:{bridge.port}/mcp"]}}),
    ):
        yield url


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_the_refusal_of_a_call_over_a_quota_passes_the_router_as_it_is(
    stack: RunningStack, limited: str, era: str
) -> None:
    token = log_in(stack.issuer, limited).access_token
    headers = {**MCP_HEADERS, "Authorization": f"Bearer {token}", "Origin": "https://app.example.com"}
    meta: dict[str, Any] = {}
    if era == "legacy":
        headers["Mcp-Session-Id"] = initialize(limited, token).headers["Mcp-Session-Id"]
    else:
        headers |= {"Mcp-Method": "tools/call", "MCP-Protocol-Version": VERSION, "Mcp-Name": "make"}
        meta["_meta"] = {PREFIX + "protocolVersion": VERSION, PREFIX + "clientCapabilities": {}}

    def call(path: str) -> requests.Response:
        message = rpc("tools/call", {"name": "make", "arguments": {"path": path}, **meta}, 5)
        return requests.post(limited, json=message, headers=headers, timeout=60)

    refused = call("/etc/secret")
    told = 'Invalid arguments: arguments.path: the value does not match "^/srv/"'
    assert (refused.status_code, refused.json()["error"]) == (200, {"code": -32602, "message": told})
    assert [call("/srv/a").status_code for _ in range(2)] == [200, 200]
    answer = call("/srv/a")
    assert answer.status_code == 429
    seconds = int(answer.headers["Retry-After"])
    assert 1 <= seconds <= 60
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == {
        "jsonrpc": "2.0",
        "id": 5,
        "error": {"code": -32000, "message": f"over quota: {LIMIT}; try again in {seconds} s"},
    }
    # A page may read when to try again.
    assert "Retry-After" in answer.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_an_unmodified_client_says_so_and_goes_on_after_a_call_over_a_quota(
    stack: RunningStack, limited: str, mode: str
) -> None:
    token = log_in(stack.issuer, limited).access_token

    async def run() -> None:
        async with (
            httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=60) as http,
            Client(streamable_http_client(limited, http_client=http), mode=mode) as client,
        ):
            for _ in range(2):
                await client.call_tool("make", {"path": "/srv/a"})
            # What a model is told says which quota it is, and when to try again.
            with pytest.raises(MCPError, match=f"over quota: {LIMIT}; try again in"):
                await client.call_tool("make", {"path": "/srv/a"})
            assert [tool.name for tool in (await client.list_tools()).tools] == ["look", "make"]
            with pytest.raises(MCPError, match="Invalid arguments"):
                await client.call_tool("make", {"path": "/etc/a"})
            reached = json.loads((await client.call_tool("look", {})).content[0].text)  # type: ignore[union-attr]
            assert [each["params"]["name"] for each in reached if each["method"] == "tools/call"] == [
                "make",
                "make",
                "look",
            ]

    asyncio.run(run())
