"""The reference servers through the bridge, in both eras; and real clients of both, in front of servers of either."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mcp.client.client import Client

from tests.peers import NODE, NPM_FOLDER, mcp1_python, npm_command
from tests.stdio_bridge.running import ROOT, Bridge

CLIENTS = Path(__file__).with_name("client_programs")
PROGRAMS = Path(sys.executable).parent
CLIENT_SECONDS = 60
MODERN = "2026-07-28"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A reference server, one call of it, and what the answer has to hold."""

    command: tuple[str, ...]
    tool: str
    arguments: dict[str, Any]
    expected: str


def _time(_: Path) -> Peer:
    return Peer(
        command=(str(PROGRAMS / "mcp-server-time"),),
        tool="get_current_time",
        arguments={"timezone": "Europe/Berlin"},
        expected="Europe/Berlin",
    )


def _fetch(_: Path) -> Peer:
    return Peer(
        command=(str(PROGRAMS / "mcp-server-fetch"), "--ignore-robots-txt", "--allow-private-ips"),
        tool="fetch",
        arguments={"url": "the page"},
        expected="a page to be fetched",
    )


def _git(folder: Path) -> Peer:
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "trunk", folder], check=True)
    return Peer(
        command=(str(PROGRAMS / "mcp-server-git"), "--repository", str(folder)),
        tool="git_status",
        arguments={"repo_path": str(folder)},
        expected="trunk",
    )


def _everything(_: Path) -> Peer:
    return Peer(
        command=tuple(npm_command("@modelcontextprotocol/server-everything")),
        tool="echo",
        arguments={"message": "over the bridge"},
        expected="over the bridge",
    )


def _memory(folder: Path) -> Peer:
    memory = "env", f"MEMORY_FILE_PATH={folder / 'memory.jsonl'}"
    return Peer(
        command=(*memory, *npm_command("@modelcontextprotocol/server-memory")),
        tool="read_graph",
        arguments={},
        expected="entities",
    )


def _filesystem(folder: Path) -> Peer:
    (folder / "note.txt").write_text("what it says")
    return Peer(
        command=(*npm_command("@modelcontextprotocol/server-filesystem"), str(folder)),
        tool="read_text_file",
        arguments={"path": str(folder / "note.txt")},
        expected="what it says",
    )


def _thinking(_: Path) -> Peer:
    return Peer(
        command=tuple(npm_command("@modelcontextprotocol/server-sequential-thinking")),
        tool="sequentialthinking",
        arguments={"thought": "so", "nextThoughtNeeded": False, "thoughtNumber": 1, "totalThoughts": 1},
        expected="thoughtHistoryLength",
    )


PEERS: dict[str, Callable[[Path], Peer]] = {
    "time": _time,
    "fetch": _fetch,
    "git": _git,
    "everything": _everything,
    "memory": _memory,
    "filesystem": _filesystem,
    "sequential-thinking": _thinking,
}


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(b"a page to be fetched")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@dataclass(frozen=True)
class Served:
    """A reference server behind a bridge."""

    peer: Peer
    url: str


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory, page: str) -> Iterator[Callable[[str], Served]]:
    """Put a reference server behind a bridge, once for all tests. A spare is started before it is wanted."""
    served: dict[str, Served] = {}
    with ExitStack() as running:

        def start(name: str) -> Served:
            if name not in served:
                peer = PEERS[name](tmp_path_factory.mktemp(name))
                if "url" in peer.arguments:
                    peer.arguments["url"] = page
                bridge = running.enter_context(Bridge("--no-identity", "--warm-spares", "1", command=peer.command))
                running.callback(lambda: bridge.stop() == 0 or pytest.fail("the bridge did not end cleanly"))
                served[name] = Served(peer, f"http://127.0.0.1:{bridge.port}/mcp")
            return served[name]

        yield start


@pytest.mark.parametrize("mode", ["legacy", "auto", MODERN])
@pytest.mark.parametrize("name", PEERS)
def test_a_reference_server_is_listed_called_and_left(serve: Callable[[str], Served], name: str, mode: str) -> None:
    served = serve(name)

    async def use() -> tuple[set[str], str, str]:
        async with Client(served.url, mode=mode) as client:
            tools = await client.list_tools()
            result = await client.call_tool(served.peer.tool, served.peer.arguments)
            return {tool.name for tool in tools.tools}, str(result.content), client.protocol_version

    tools, content, version = asyncio.run(use())
    assert served.peer.tool in tools
    assert served.peer.expected in content
    assert (version >= MODERN) == (mode != "legacy")


@pytest.mark.parametrize("name", ["git", "everything", "memory"])
def test_a_reference_server_is_as_its_own_lock_file_says(
    serve: Callable[[str], Served], name: str, tmp_path: Path
) -> None:
    served = serve(name)
    lock = tmp_path / "tools.lock.json"
    printing = [sys.executable, "-m", "stdio_bridge", "--print-tools-lock", "--", *served.peer.command]
    printed = subprocess.run(printing, capture_output=True, text=True, check=True, cwd=ROOT, timeout=CLIENT_SECONDS)
    lock.write_text(printed.stdout)

    async def use(url: str, mode: str) -> tuple[list[str], str]:
        async with Client(url, mode=mode) as client:
            tools = await client.list_tools()
            result = await client.call_tool(served.peer.tool, served.peer.arguments)
            return [tool.name for tool in tools.tools], str(result.content)

    with Bridge("--no-identity", "--tools-lock", str(lock), command=served.peer.command) as bridge:
        for mode in ("legacy", MODERN):
            names, content = asyncio.run(use(f"http://127.0.0.1:{bridge.port}/mcp", mode))
            assert names == asyncio.run(use(served.url, mode))[0]
            assert served.peer.expected in content
        assert b'mcp_bridge_hidden_tools{reason="changed"} 0' in bridge.request("GET", path="/metrics")[2]


def _script(name: str, *mode: str) -> Callable[[Served], list[str]]:
    def command(served: Served) -> list[str]:
        peer = served.peer
        return [
            *(str(NODE), str(CLIENTS / name), str(NPM_FOLDER), served.url),
            *(peer.tool, json.dumps(peer.arguments), *mode),
        ]

    return command


def _inspector(era: str) -> Callable[[Served], list[str]]:
    def command(served: Served) -> list[str]:
        pairs = [f"{name}={json.dumps(value)}" for name, value in served.peer.arguments.items()]
        return [
            *npm_command("@modelcontextprotocol/inspector", "inspector"),
            *("--cli", "--server-url", served.url, "--transport", "http", "--protocol-era", era),
            *("--method", "tools/call", "--tool-name", served.peer.tool, "--tool-arg", *pairs),
        ]

    return command


def _fastmcp(served: Served) -> list[str]:
    arguments = json.dumps(served.peer.arguments)
    return [str(PROGRAMS / "fastmcp"), "call", served.url, served.peer.tool, "--input-json", arguments, "--json"]


def _mcp1(served: Served) -> list[str]:
    return [mcp1_python(), str(CLIENTS / "sdk1.py"), served.url, served.peer.tool, json.dumps(served.peer.arguments)]


PROGRAM_CLIENTS: dict[str, Callable[[Served], list[str]]] = {
    "Python SDK 1.x": _mcp1,
    "TypeScript SDK 1.x": _script("sdk1.mjs"),
    "TypeScript client 2.x, legacy": _script("client2.mjs", "legacy"),
    "TypeScript client 2.x, auto": _script("client2.mjs", "auto"),
    "TypeScript client 2.x, modern": _script("client2.mjs", MODERN),
    "fastmcp": _fastmcp,
    "inspector, legacy": _inspector("legacy"),
    "inspector, auto": _inspector("auto"),
    "inspector, modern": _inspector("modern"),
}

Running = dict[tuple[str, str], "Future[subprocess.CompletedProcess[str]]"]


@pytest.fixture(scope="module")
def program_clients(serve: Callable[[str], Served], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Every client program in front of a server of both eras and one of the legacy era, two at a time."""
    home = str(tmp_path_factory.mktemp("home"))
    environment = {**os.environ, "HOME": home, "XDG_CONFIG_HOME": home}

    def run(command: Callable[[Served], list[str]], served: Served) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(served),
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CLIENT_SECONDS,
            check=False,
        )

    with ThreadPoolExecutor(2) as pool:
        yield {
            (client, server): pool.submit(run, command, serve(server))
            for client, command in PROGRAM_CLIENTS.items()
            for server in ("time", "everything")
        }


@pytest.mark.parametrize("server", ["time", "everything"])
@pytest.mark.parametrize("client", PROGRAM_CLIENTS)
def test_a_client_program_gets_its_answer(
    program_clients: Running, serve: Callable[[str], Served], client: str, server: str
) -> None:
    done = program_clients[client, server].result()
    assert done.returncode == 0, done.stdout + done.stderr
    assert serve(server).peer.expected in done.stdout
