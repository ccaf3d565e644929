"""Real, unmodified clients go from a 401 to a tool's answer; only the user's clicks are scripted."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from mcp import ClientSession
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken

from tests.browser import Browser
from tests.e2e.conftest import RunningStack
from tests.peers import npm_command

CLIENT_SECONDS = 60


class MemoryStorage:
    """Where the SDK keeps what it got."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


class Clicks:
    """The SDK's two callbacks: opens the browser, and hands over what it was sent back with."""

    redirect_uri = "http://localhost:3030/callback"

    def __init__(self) -> None:
        self.browser = Browser()
        self._target = ""

    async def open(self, url: str) -> None:
        target = await asyncio.to_thread(self.browser.open, url, stop_at=self.redirect_uri)
        assert isinstance(target, str), target.text
        self._target = target

    async def wait(self) -> AuthorizationCodeResult:
        answer = {name: values[0] for name, values in parse_qs(urlsplit(self._target).query).items()}
        return AuthorizationCodeResult(code=answer["code"], state=answer["state"], iss=answer["iss"])


def test_the_python_sdk_logs_in_and_calls_a_tool(stack: RunningStack) -> None:
    storage, clicks = MemoryStorage(), Clicks()
    url = stack.resource("time")

    async def run() -> None:
        provider = OAuthClientProvider(
            server_url=url,
            client_metadata=OAuthClientMetadata.model_validate(
                {"client_name": "SDK", "redirect_uris": [clicks.redirect_uri], "scope": "mcp"}
            ),
            storage=storage,
            redirect_handler=clicks.open,
            callback_handler=clicks.wait,
        )
        async with (
            httpx2.AsyncClient(auth=provider, timeout=60) as http,
            streamable_http_client(url, http_client=http) as streams,
            ClientSession(streams[0], streams[1]) as session,
        ):
            await session.initialize()
            tools = await session.list_tools()
            assert "get_current_time" in {tool.name for tool in tools.tools}
            result = await session.call_tool("get_current_time", {"timezone": "Europe/Berlin"})
            assert "Europe/Berlin" in str(result.content)

    asyncio.run(run())
    assert storage.tokens is not None
    assert storage.tokens.refresh_token
    consent, chooser = clicks.browser.pages
    assert "SDK" in consent
    assert url in consent
    assert "Who are you?" in chooser


def test_fastmcp_logs_in_and_calls_a_tool(stack: RunningStack, client_environment: dict[str, str]) -> None:
    fastmcp = Path(sys.executable).parent / "fastmcp"
    done = subprocess.run(
        [
            *(fastmcp, "call", stack.resource("time"), "get_current_time", "timezone=Europe/Berlin"),
            *("--auth", "oauth", "--json"),
        ],
        env=client_environment,
        capture_output=True,
        text=True,
        timeout=CLIENT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Europe/Berlin" in done.stdout


@pytest.fixture
def mcp_remote(stack: RunningStack, client_environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """`mcp-remote` between us and the gateway: a stdio server as far as we are concerned."""
    process = subprocess.Popen(
        [*npm_command("mcp-remote", "mcp-remote"), stack.resource("time"), "--transport", "http-only"],
        env={**client_environment, "MCP_REMOTE_CONFIG_DIR": client_environment["HOME"]},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        bufsize=1,
        start_new_session=True,
    )
    yield process
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    os.killpg(process.pid, 15)
    process.wait(CLIENT_SECONDS)
    process.stdout.close()


def test_mcp_remote_logs_in_and_calls_a_tool(mcp_remote: subprocess.Popen[str]) -> None:
    def ask(message: dict[str, object]) -> dict[str, object]:
        assert mcp_remote.stdin is not None
        assert mcp_remote.stdout is not None
        mcp_remote.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        if "id" not in message:
            return {}
        for line in mcp_remote.stdout:
            answer: dict[str, object] = json.loads(line)
            if answer.get("id") == message["id"]:
                return answer
        raise AssertionError("mcp-remote has ended")

    client = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    assert "result" in ask({"id": 1, "method": "initialize", "params": client})
    ask({"method": "notifications/initialized"})
    call = {"name": "get_current_time", "arguments": {"timezone": "Europe/Berlin"}}
    assert "Europe/Berlin" in str(ask({"id": 2, "method": "tools/call", "params": call})["result"])
