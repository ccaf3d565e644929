"""The MCP project's conformance suite over the bridge, in front of a server of both eras."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.peers import npm_command
from tests.stdio_bridge.running import Bridge

SERVER = (sys.executable, str(Path(__file__).with_name("conformance_server.py")))


# The legacy requirements start a process for each scenario, and the server takes its time to import.
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("requirements", "scenarios"), [("2025-11-25", 30), ("2026-07-28", 37)])
def test_nothing_that_is_required_fails(requirements: str, scenarios: int) -> None:
    command = npm_command("@modelcontextprotocol/conformance")
    bridge = Bridge("--no-identity", command=SERVER)
    url = f"http://127.0.0.1:{bridge.port}/mcp"
    suite = subprocess.run(
        [*command, "server", "--url", url, "--requirements", requirements],
        capture_output=True, text=True, timeout=390, check=False,
    )  # fmt: skip
    assert bridge.stop() == 0
    required, _, not_scored = suite.stdout.partition("=== SUMMARY ===")[2].partition("Not scored for")
    extra = {line.split()[1] for line in not_scored.splitlines() if line.startswith("  ")}
    lines = [line for line in required.splitlines() if line[:1] in {"✓", "✗"}]
    scored = [line for line in lines if line.split()[1].removesuffix(":") not in extra]
    assert [line for line in scored if line.startswith("✗")] == []
    assert len(scored) == scenarios
    assert suite.returncode == 0
