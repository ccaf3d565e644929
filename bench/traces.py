"""Measures what traces cost a bridge: `python -m bench.traces`.

One bridge without a collector and three with one are measured in turns, so that whatever else the machine does is
shared out among them. The collector is a process of its own, which takes everything.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from local.ports import free_port

from . import report
from .bridge import CLIENTS, DIRECT, measure_server
from .bridges import OURS, traced
from .calls import ECHO
from .candidate import Figures

_RATIOS = (0.0, 0.1, 1.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, keep the raw results."""
    parser = argparse.ArgumentParser(prog="python -m bench.traces", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of which medians are shown")
    parser.add_argument("--update-docs", action="store_true", help=f"put the table into {report.PAGE.name}")
    options = parser.parse_args(arguments)
    machine = report.describe_machine()
    with tempfile.TemporaryDirectory() as folder, _collector() as endpoint:
        bridges = [OURS, *(traced(endpoint, ratio) for ratio in _RATIOS)]
        figures = measure_server(ECHO, bridges, Path(folder), rounds=options.rounds)
    del figures[DIRECT]
    raw = {name: dataclasses.asdict(each) for name, each in figures.items()}
    path = report.save("traces", {"machine": machine, "bridges": raw})
    table = f"Medians of the rounds of one run: {report.machine_line(machine)}.\n\n{_table(figures)}"
    print(f"\n{table}\n\nraw results: {path}")
    if options.update_docs:
        report.update_page("traces", table)
    return 0


@contextlib.contextmanager
def _collector() -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "tests.nixos.stand_in_collector", "--port", str(port), "--file", "/dev/null"]
    with subprocess.Popen(command, cwd=report.ROOT) as process:
        try:
            yield f"http://127.0.0.1:{port}/v1/traces"
        finally:
            process.terminate()


def _table(figures: Mapping[str, Figures]) -> str:
    median, shown = report.median, report.shown
    off = figures[OURS.name]
    header = ["", "one client, calls/s", "of those without", f"{CLIENTS} clients, calls/s", "of those without", "MiB"]
    return report.markdown_table(
        header,
        [
            [
                name,
                shown(median(each.sequential)),
                report.times(median(each.sequential), median(off.sequential)),
                shown(median(each.concurrent)),
                report.times(median(each.concurrent), median(off.concurrent)),
                shown(each.memory_mib.get(CLIENTS, math.nan), 1),
            ]
            for name, each in figures.items()
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
