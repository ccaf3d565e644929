"""A server that is read-only until its user has agreed to more, through the real router, with unmodified clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import requests
from mcp import Client, MCPError
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientMetadata
from mcp.types import CallToolResult

from auth_service.settings import load_credentials
from tests.browser import Browser, Form
from tests.peers import NODE, NPM_FOLDER
from tests.stdio_bridge.running import Bridge

from .conftest import RunningStack
from .flow import MCP_HEADERS, initialize, log_in
from .test_clients import CLIENT_SECONDS, Clicks, MemoryStorage

OFFERED = {"tools": ["get_issue", "create_issue", "delete_issue", "update"]}
RULES = {
    "default": "deny",
    "rules": {"get_*": {}, "create_*": {"scopes": ["write"]}, "admin_*": {"scopes": ["write", "admin"]}},
}
SCOPES: dict[str, Any] = {
    "read": {"description": "Read issues"},
    "write": {"description": "Create and change issues", "required": False},
}
# At the stand-in for GitHub, octocat is in the team, and hubot is not.
TEAM_SCOPES = {**SCOPES, "write": {**SCOPES["write"], "allowed": {"teams": ["acme/platform"]}}}
SERVER = str(Path(__file__).parents[1] / "stdio_bridge/offering_server.py")


@pytest.fixture(scope="module")
def trackers(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The URLs of servers of each era, whose rules their bridges have from a file.

    Of one everyone may be granted the scope to write, of the other one a team only.
    """
    folder: Path = tmp_path_factory.mktemp("trackers")
    credentials = load_credentials(stack.state_directory / "credentials")
    resources: dict[str, Any] = {}
    kinds = {"tracker": SCOPES, "team": TEAM_SCOPES}
    urls = {f"{kind}-{era}": stack.resource(f"{kind}-{era}") for kind in kinds for era in ("legacy", "modern")}
    with contextlib.ExitStack() as bridges:
        for name, url in urls.items():
            kind, _, era = name.partition("-")
            key, config = folder / f"{name}.key", folder / f"{name}.json"
            key.write_bytes(credentials.derive_key(f"identity-key:{name}"))
            config.write_text(json.dumps({"tools": RULES, "require-identity": str(key)}))
            command = (sys.executable, SERVER, era, json.dumps(OFFERED))
            bridge = bridges.enter_context(Bridge("--config", str(config), command=command))
            backends = [f"http://127.0.0.1:{bridge.port}/mcp"]
            resources[name] = {"url": url, "backends": backends, "scopes": kinds[kind]}
        with stack.serving(resources):
            yield urls


@pytest.fixture(params=["legacy", "modern"])
def tracker(request: pytest.FixtureRequest, trackers: dict[str, str]) -> str:
    """The URL of a server of one era."""
    return trackers[f"tracker-{request.param}"]


@pytest.fixture(params=["legacy", "modern"])
def team_tracker(request: pytest.FixtureRequest, trackers: dict[str, str]) -> str:
    """The URL of a server of one era that only a team may write to."""
    return trackers[f"team-{request.param}"]


def calls_in(result: CallToolResult) -> list[str]:
    """Return the tools that were called so far, as the server says it."""
    reached = json.loads(result.content[0].text)  # type: ignore[union-attr]  # it says text
    return [each["params"]["name"] for each in reached if each["method"] == "tools/call"]


class Careful(Browser):
    """Approves what a page asks for, but for scopes that the user does not want to give."""

    def submit(self, page_url: str, form: Form) -> requests.Response:
        form.fields.pop("scope:write", None)
        return super().submit(page_url, form)


def provider_for(url: str, storage: MemoryStorage, clicks: Clicks) -> OAuthClientProvider:
    metadata = {"client_name": "SDK", "redirect_uris": [clicks.redirect_uri]}
    return OAuthClientProvider(
        server_url=url,
        client_metadata=OAuthClientMetadata.model_validate(metadata),
        storage=storage,
        redirect_handler=clicks.open,
        callback_handler=clicks.wait,
    )


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_the_python_client_gets_the_scope_by_a_second_consent_and_repeats_the_call(tracker: str, mode: str) -> None:
    storage, clicks = MemoryStorage(), Clicks()

    async def run() -> None:
        async with (
            httpx2.AsyncClient(auth=provider_for(tracker, storage, clicks), timeout=60) as http,
            Client(streamable_http_client(tracker, http_client=http), mode=mode) as client,
        ):
            assert [tool.name for tool in (await client.list_tools()).tools] == ["get_issue", "create_issue"]
            before = calls_in(await client.call_tool("get_issue", {}))
            assert storage.tokens is not None
            assert storage.tokens.scope == "read"
            assert len(clicks.browser.pages) == 2  # consent, and the login at the identity provider
            # The first attempt has not reached the server.
            assert calls_in(await client.call_tool("create_issue", {})) == [*before, "create_issue"]
            await client.call_tool("create_issue", {})
            for unknown in ("delete_issue", "admin_users", "no_such_tool"):
                with pytest.raises(MCPError, match=f"Unknown tool: {unknown}"):
                    await client.call_tool(unknown, {})

    asyncio.run(run())
    assert storage.tokens is not None
    assert set((storage.tokens.scope or "").split()) == {"read", "write"}
    first, _, second, *more = clicks.browser.pages
    assert "Read issues" in first
    assert "Create and change issues" not in first
    assert "Create and change issues" in second
    assert not [page for page in more if "Create and change issues" in page], "it is asked for once"


def provider_of(url: str, login: str, storage: MemoryStorage) -> OAuthClientProvider:
    """Return the SDK's provider for a client whose user logs in by this name."""
    clicks = Clicks()
    clicks.browser = Browser(login=login)
    return provider_for(url, storage, clicks)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_a_member_of_the_team_gets_the_scope_by_a_second_consent(team_tracker: str, mode: str) -> None:
    storage = MemoryStorage()

    async def run() -> None:
        async with (
            httpx2.AsyncClient(auth=provider_of(team_tracker, "octocat", storage), timeout=60) as http,
            Client(streamable_http_client(team_tracker, http_client=http), mode=mode) as client,
        ):
            assert [tool.name for tool in (await client.list_tools()).tools] == ["get_issue", "create_issue"]
            assert storage.tokens is not None
            assert storage.tokens.scope == "read"
            before = calls_in(await client.call_tool("get_issue", {}))
            assert calls_in(await client.call_tool("create_issue", {})) == [*before, "create_issue"]

    asyncio.run(run())
    assert storage.tokens is not None
    assert set((storage.tokens.scope or "").split()) == {"read", "write"}


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_for_a_user_outside_the_team_the_tool_does_not_exist(team_tracker: str, mode: str) -> None:
    storage = MemoryStorage()

    async def run() -> None:
        async with (
            httpx2.AsyncClient(auth=provider_of(team_tracker, "hubot", storage), timeout=60) as http,
            Client(streamable_http_client(team_tracker, http_client=http), mode=mode) as client,
        ):
            assert [tool.name for tool in (await client.list_tools()).tools] == ["get_issue"]
            before = calls_in(await client.call_tool("get_issue", {}))
            with pytest.raises(MCPError, match="Unknown tool: create_issue"):
                await client.call_tool("create_issue", {})
            assert calls_in(await client.call_tool("get_issue", {})) == [*before, "get_issue"]

    asyncio.run(run())
    assert storage.tokens is not None
    assert storage.tokens.scope == "read"


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_who_does_not_agree_goes_on_with_what_was_granted(tracker: str, mode: str) -> None:
    storage, clicks = MemoryStorage(), Clicks()
    clicks.browser = Careful()

    async def run() -> None:
        async with (
            httpx2.AsyncClient(auth=provider_for(tracker, storage, clicks), timeout=60) as http,
            Client(streamable_http_client(tracker, http_client=http), mode=mode) as client,
        ):
            before = calls_in(await client.call_tool("get_issue", {}))
            with pytest.raises((MCPError, httpx2.HTTPStatusError)):
                await client.call_tool("create_issue", {})
            assert calls_in(await client.call_tool("get_issue", {})) == [*before, "get_issue"]

    asyncio.run(run())
    assert storage.tokens is not None
    assert storage.tokens.scope == "read"


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_the_router_passes_the_challenge_on_and_nothing_of_a_client_can_widen_it(
    stack: RunningStack, tracker: str, era: str
) -> None:
    token = log_in(stack.issuer, tracker).access_token
    headers = {**MCP_HEADERS, "Authorization": f"Bearer {token}"}
    # What a client says of itself is nothing to the bridge.
    headers |= {"X-Scopes": "read write", "X-Gateway-Identity": "forged"}
    params: dict[str, Any] = {"name": "create_issue", "arguments": {}}
    if era == "legacy":
        opened = initialize(tracker, token)
        assert opened.status_code == 200
        headers["Mcp-Session-Id"] = opened.headers["Mcp-Session-Id"]
    else:
        headers |= {
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "tools/call",
            "Mcp-Name": "create_issue",
        }
        prefix = "io.modelcontextprotocol/"
        params["_meta"] = {prefix + "protocolVersion": "2026-07-28", prefix + "clientCapabilities": {}}
    message = {"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": params}
    answer = requests.post(tracker, json=message, headers=headers, timeout=60)
    assert answer.status_code == 403
    metadata = tracker.replace(stack.issuer, f"{stack.issuer}/.well-known/oauth-protected-resource")
    assert answer.headers["WWW-Authenticate"] == (
        'Bearer error="insufficient_scope", error_description="the access token lacks a scope that this needs", '
        f'resource_metadata="{metadata}", scope="read write"'
    )
    assert answer.json()["id"] == 5
    described = requests.get(metadata, timeout=60).json()
    assert described["resource"] == tracker
    assert described["scopes_supported"] == ["read", "write"]


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_the_typescript_client_gets_the_scope_by_a_second_consent_and_repeats_the_call(tracker: str, mode: str) -> None:
    if not (NPM_FOLDER / "node_modules/@modelcontextprotocol/client").exists():
        pytest.skip("the TypeScript client 2.x is not installed: run `make test-e2e`, with Node.js and npm")
    script = Path(__file__).with_name("step_up.mjs")
    browser = Browser()
    redirect_uri = "http://localhost:3031/callback"
    with subprocess.Popen(
        [NODE, script, NPM_FOLDER, tracker, redirect_uri, mode],
        env=os.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        opened = 0
        for line in process.stdout:
            if not line.startswith("OPEN "):
                break
            opened += 1
            target = browser.open(line.removeprefix("OPEN ").strip(), stop_at=redirect_uri)
            assert isinstance(target, str), target.text
            process.stdin.write(target + "\n")
        found: dict[str, Any] = json.loads(line)
        assert process.wait(CLIENT_SECONDS) == 0
    assert opened == 2
    assert found["tools"] == ["get_issue", "create_issue"]
    assert found["scopes"] == ["read", "read write"]
    assert found["called"] == ["get_issue", "create_issue"], "the first attempt has not reached the server"
    assert "Unknown tool: delete_issue" in found["unknown"]
