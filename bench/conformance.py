"""Holds our bridge and others to the MCP project's conformance suite: `python -m bench.conformance`."""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.stdio_bridge.conformance import COMMAND, SCENARIOS, SERVER, run_suite

from . import report
from .bridges import OTHERS, OURS_BY_ITSELF, Bridge, Running
from .calls import ECHO
from .clients import Failed

_SUITE_SECONDS = 180.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite for every bridge, print the table, keep the lines of what failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.conformance", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="leave out other bridges unless named so")
    parser.add_argument("--update-docs", action="store_true", help=f"put the table into {report.PAGE.name}")
    options = parser.parse_args(arguments)
    bridges = (OURS_BY_ITSELF, *(bridge for bridge in OTHERS if options.only in bridge.name))
    with tempfile.TemporaryDirectory() as folder:
        results = {
            bridge.name: {name: run(bridge, name, Path(folder) / bridge.name / name) for name in SCENARIOS}
            for bridge in bridges
        }
    path = report.save("conformance", {"machine": report.describe_machine(), "results": results})
    header = ["", *(f"{name}: failed, of {count} scenarios" for name, count in SCENARIOS.items())]
    rows = [[name, *(_shown(score) for score in scores.values())] for name, scores in results.items()]
    table = report.markdown_table(header, rows)
    print(f"\n{table}\n\nraw results: {path}")
    if options.update_docs:
        report.update_page("conformance", table)
    return 0


def run(bridge: Bridge, requirements: str, folder: Path) -> list[str] | str:
    """Return the lines of the scenarios that failed, or why there are none."""
    print(f"{bridge.name}: {requirements}", file=sys.stderr, flush=True)
    server = dataclasses.replace(ECHO, command=COMMAND, script=str(SERVER))
    try:
        running = Running(bridge, server, folder)
    except (Failed, OSError) as error:
        return str(error)
    try:
        score = run_suite(f"http://127.0.0.1:{running.site().port}/mcp", requirements, seconds=_SUITE_SECONDS)
    except subprocess.TimeoutExpired:
        return f"not done after {_SUITE_SECONDS:.0f} s"
    finally:
        running.stop()
    missing = SCENARIOS[requirements] - score.scenarios
    return [*score.failed, *["a scenario that did not run"] * missing]


def _shown(score: list[str] | str) -> str:
    return score if isinstance(score, str) else str(len(score))


if __name__ == "__main__":
    sys.exit(main())
