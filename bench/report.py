"""What every benchmark shares: the machine's name, statistics, raw results as JSON, tables for docs.

Raw results go to `bench/results/`, which git ignores. A table stands in docs/performance.md between two comments,
`<!-- bench:NAME -->` and `<!-- /bench:NAME -->`, and is put there by a run with `--update-docs`.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import platform
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "performance.md"


def describe_machine() -> dict[str, str | int | float]:
    """Name what the figures were taken on, and how busy it was before they were."""
    cpu = re.search(r"^model name\s*: (.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB$", _read("/proc/meminfo"), re.MULTILINE)
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory[1]) / 2**20, 1) if memory else 0,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "load_before": os.getloadavg()[0],
    }


def machine_line(machine: Mapping[str, object]) -> str:
    """Say in one line what `describe_machine` returned."""
    return (
        f"{machine['date']}, {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"Linux {machine['kernel']}, Python {machine['python']}, load {machine['load_before']:.1f} before"
    )


def median(values: Iterable[float]) -> float:
    """Return the median; NaN of nothing, which tables show as a dash."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan


def percentile(values: Iterable[float], percent: float) -> float:
    """Return the value that `percent` of all do not exceed (nearest rank); NaN of nothing."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def shown(value: float, digits: int = 0) -> str:
    """Write a figure for a table."""
    return "-" if math.isnan(value) else f"{value:,.{digits}f}"


def times(value: float, reference: float) -> str:
    """Write a figure's ratio to another one: `2.3x`."""
    ratio = value / reference if reference else math.nan
    return "-" if math.isnan(ratio) else f"{ratio:.2f}x"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table; the first column holds names, the others figures."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def save(name: str, results: Mapping[str, object]) -> Path:
    """Keep the raw results of a run, and return where."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    return path


def update_page(name: str, text: str) -> None:
    """Put a run's tables between the page's comments of that name. Raises ValueError if it has none."""
    begin, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    before, found_begin, rest = PAGE.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"{PAGE}: has no place for these tables: {begin} and {end}")
    PAGE.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}")


def _read(path: str) -> str:
    return Path(path).read_text()
