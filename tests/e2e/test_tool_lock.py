"""A server whose tools are held to a lock file, through the real router, and what the operator learns of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from auth_service import cli
from auth_service.settings import load_credentials
from stdio_bridge.protocol.tool_lock import render_lock
from tests.stdio_bridge.modern_client import PREFIX, VERSION
from tests.stdio_bridge.running import Bridge

from .conftest import RunningStack
from .flow import MCP_HEADERS, initialize, log_in

Message = dict[str, Any]

SERVER = str(Path(__file__).parents[1] / "stdio_bridge/changing_server.py")
TOOLS: list[Message] = [
    {"name": name, "description": f"It does {name}.", "inputSchema": {"type": "object"}}
    for name in ("look", "become", "seen")
]
ALTERED: list[Message] = [{**TOOLS[0], "description": "It does\u200b look."}, *TOOLS[1:], {"name": "wipe"}]
ERAS = ("legacy", "modern")


@pytest.fixture(scope="module")
def locked(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The URLs of servers of each era, one process for all, whose bridges have a lock file."""
    folder: Path = tmp_path_factory.mktemp("locked")
    (folder / "tools.lock.json").write_text(render_lock(TOOLS))
    credentials = load_credentials(stack.state_directory / "credentials")
    resources: Message = {}
    urls = {f"locked-{era}": stack.resource(f"locked-{era}") for era in ERAS}
    bridges: list[Bridge] = []
    try:
        for name, url in urls.items():
            key = folder / f"{name}.key"
            key.write_bytes(credentials.derive_key(f"identity-key:{name}"))
            options = ("--require-identity", str(key), "--tools-lock", str(folder / "tools.lock.json"))
            command = (sys.executable, SERVER, name.removeprefix("locked-"), json.dumps(TOOLS))
            bridges.append(Bridge(*options, "--isolation", "shared", command=command))
            resources[name] = {"url": url, "backends": [f"http://127.0.0.1:{bridges[-1].port}/mcp"]}
        with stack.serving(resources):
            yield urls
    finally:
        for bridge in bridges:
            bridge.end()


class Client:
    """A client of one era with a token."""

    def __init__(self, stack: RunningStack, url: str, era: str) -> None:
        token = log_in(stack.issuer, url).access_token
        self._url = url
        self._era = era
        self._headers = {**MCP_HEADERS, "Authorization": f"Bearer {token}"}
        if era == "legacy":
            self._headers["Mcp-Session-Id"] = initialize(url, token).headers["Mcp-Session-Id"]

    def send(self, method: str, params: Message) -> Message:
        headers = dict(self._headers)
        if self._era == "modern":
            meta = {PREFIX + "protocolVersion": VERSION, PREFIX + "clientCapabilities": {}}
            params = {**params, "_meta": meta}
            headers |= {"MCP-Protocol-Version": VERSION, "Mcp-Method": method, "Mcp-Name": params.get("name", "")}
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = requests.post(self._url, json=message, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        read = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
        found: Message = json.loads(read[-1] if read else answer.text)
        return found

    def names(self) -> list[str]:
        names: list[str] = []
        params: Message = {}
        while True:
            result = self.send("tools/list", params)["result"]
            names += [tool["name"] for tool in result["tools"]]
            if "nextCursor" not in result:
                return names
            params = {"cursor": result["nextCursor"]}

    def call(self, name: str, **arguments: object) -> Message:
        return self.send("tools/call", {"name": name, "arguments": arguments})


@pytest.mark.parametrize("client_era", ERAS)
@pytest.mark.parametrize("server_era", ERAS)
def test_a_tool_that_changes_under_its_clients_is_gone_for_them(
    stack: RunningStack, locked: dict[str, str], server_era: str, client_era: str
) -> None:
    client = Client(stack, locked[f"locked-{server_era}"], client_era)
    assert client.names() == ["look", "become", "seen"]
    assert "result" in client.call("look")
    client.call("become", tools=ALTERED)
    for name in ("look", "wipe"):
        assert client.call(name)["error"] == {"code": -32602, "message": f"Unknown tool: {name}"}
    assert client.names() == ["become", "seen"]
    seen = json.loads(client.call("seen")["result"]["content"][0]["text"])
    assert seen.count("tools/call wipe") == 0
    client.call("become", tools=TOOLS)
    assert client.names() == ["look", "become", "seen"]


def operate(stack: RunningStack, *arguments: str) -> int:
    folder = stack.state_directory
    where = ("--settings", str(folder / "settings.json"), "--master-key", str(folder / "credentials/master-key"))
    return cli.main(["tools", *arguments, *where])


@pytest.mark.parametrize("server_era", ERAS)
def test_the_operator_locks_and_checks_what_runs(
    stack: RunningStack, locked: dict[str, str], server_era: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert operate(stack, "lock", f"locked-{server_era}") == 0
    assert capsys.readouterr().out == render_lock(TOOLS)
    assert operate(stack, "check", f"locked-{server_era}") == 0
    assert "3 tools, all as in the lock file" in capsys.readouterr().out


def test_the_tools_of_the_usual_servers_can_be_locked(stack: RunningStack, capsys: pytest.CaptureFixture[str]) -> None:
    assert operate(stack, "lock", "time") == 0
    assert set(json.loads(capsys.readouterr().out)["tools"]) == {"convert_time", "get_current_time"}
    assert operate(stack, "check", "time") == 1
    assert "2 tools, and no lock file" in capsys.readouterr().out


def test_no_survey_can_be_had_from_outside(stack: RunningStack, locked: dict[str, str]) -> None:
    for url in (f"{stack.issuer}/survey", f"{stack.resource('time')}/survey", f"{stack.issuer}/locked-legacy/survey"):
        assert requests.post(url, data=b"", timeout=60).status_code in {401, 404}
