"""The MCP project's conformance suite, run against an endpoint."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.peers import npm_command

# A stdio server of both eras that has everything the suite asks for.
SERVER = Path(__file__).with_name("conformance_server.py")
COMMAND = (sys.executable, str(SERVER))
# Requirements -> how many of its scenarios count for a server.
SCENARIOS = {"2025-11-25": 30, "2026-07-28": 37}


@dataclass(frozen=True, kw_only=True)
class Score:
    """The scenarios that count: how many ran, and the lines of those that failed."""

    scenarios: int
    failed: list[str]
    status: int


def suite_command() -> list[str]:
    """Return the command of the suite; skips the test where it is not installed."""
    return npm_command("@modelcontextprotocol/conformance")


def run_suite(url: str, requirements: str, *, seconds: float = 110) -> Score:
    """Run the suite. Raises subprocess.TimeoutExpired; skips the test where it is not installed."""
    suite = subprocess.run(
        [*suite_command(), "server", "--url", url, "--requirements", requirements],
        capture_output=True, text=True, timeout=seconds, check=False,
    )  # fmt: skip
    required, _, not_scored = suite.stdout.partition("=== SUMMARY ===")[2].partition("Not scored for")
    extra = {line.split()[1] for line in not_scored.splitlines() if line.startswith("  ")}
    lines = [line for line in required.splitlines() if line[:1] in {"✓", "✗"}]
    scored = [line for line in lines if line.split()[1].removesuffix(":") not in extra]
    return Score(
        scenarios=len(scored), failed=[line for line in scored if line.startswith("✗")], status=suite.returncode
    )
