"""What bench.bridge found, as tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from .candidate import Figures
from .report import machine_line, markdown_table, median, shown, times


@dataclass
class StreamFigures:
    """Open event streams: how many the bridge held, what one costs, and how calls did beside all of them."""

    opened: int = 0
    kib_each: float = math.nan
    beside: Figures = field(default_factory=Figures)
    failure: str = ""


@dataclass
class Results:
    """All of one run, by the names of servers and bridges."""

    ours: str
    direct: str
    servers: dict[str, dict[str, Figures]] = field(default_factory=dict)
    streams: dict[str, StreamFigures] = field(default_factory=dict)


def write_tables(results: Results, machine: Mapping[str, object]) -> str:
    """Write everything as it stands in docs."""
    parts = [f"Medians of the rounds of one run: {machine_line(machine)}."]
    for server, figures in results.servers.items():
        parts += [f"In front of {server}:", _calls_table(figures), _comparison(results, figures)]
    parts += ["Open event streams, in front of echo server:", _streams_table(results.streams)]
    return "\n\n".join(parts)


def _calls_table(figures: Mapping[str, Figures]) -> str:
    header = ["", "one client, calls/s", "16 clients, calls/s", "p50 ms", "p99 ms", "first `initialize` ms"]
    header += ["MiB, 1 session", "MiB, 16 sessions", "failed calls"]
    rows = [
        [
            name,
            shown(median(one.sequential)),
            shown(median(one.concurrent)),
            shown(median(one.p50_ms), 1),
            shown(median(one.p99_ms), 1),
            shown(median(one.first_ms), 1),
            shown(one.memory_mib.get(1, math.nan), 1),
            shown(one.memory_mib.get(16, math.nan), 1),
            _failures(one),
        ]
        for name, one in figures.items()
    ]
    return markdown_table(header, rows)


def _failures(figures: Figures) -> str:
    return ", ".join(f"{count} ({reason})" for reason, count in figures.failures.items()) or "0"


def _comparison(results: Results, figures: Mapping[str, Figures]) -> str:
    """Ours as a multiple of the best of the others that answered every call as it has to be answered."""
    ours = figures[results.ours]
    valid = [
        one
        for name, one in figures.items()
        if not name.startswith(results.ours) and name != results.direct and one.sequential and not one.failures
    ]
    sequential = max((median(one.sequential) for one in valid), default=math.nan)
    concurrent = max((median(one.concurrent) for one in valid), default=math.nan)
    p99 = min((median(one.p99_ms) for one in valid), default=math.nan)
    start = median(figures[results.direct].first_ms)
    return (
        f"Next to the best of the others without a failed call: {times(median(ours.sequential), sequential)} the calls "
        f"of one client, {times(median(ours.concurrent), concurrent)} those of 16, at "
        f"{times(median(ours.p99_ms), p99)} the p99. The first `initialize` takes "
        f"{times(median(ours.first_ms), start)} the server's own start."
    )


def _streams_table(streams: Mapping[str, StreamFigures]) -> str:
    header = ["", "streams held", "KiB each", "16 clients beside 2,000, calls/s", "p99 ms", "failed calls"]
    rows = [
        [
            name,
            shown(one.opened),
            shown(one.kib_each, 1),
            shown(median(one.beside.concurrent)),
            shown(median(one.beside.p99_ms), 1),
            one.failure or _failures(one.beside),
        ]
        for name, one in streams.items()
    ]
    return markdown_table(header, rows)
