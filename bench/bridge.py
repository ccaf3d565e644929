"""Measures our bridge next to others, in one run: `python -m bench.bridge`.

Ours has every check on: signed identity assertions, origins, hosts. In front of one server all bridges run at the same
time and are measured in turns, so that whatever else the machine does is shared out among them.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from . import report
from .bridge_tables import Results, StreamFigures, write_tables
from .bridges import OTHERS, OURS, OURS_SHARED, OURS_WARM, Bridge, Running
from .calls import ECHO, TIME, Server
from .candidate import Candidate, Figures, Streams
from .clients import Failed

DIRECT = "direct stdio"
CLIENTS = 16
STREAMS = 1500
BUSY_STREAMS = 2000
_SEQUENTIAL_SECONDS = 1.0
_CONCURRENT_SECONDS = 1.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables, keep the raw results."""
    parser = argparse.ArgumentParser(prog="python -m bench.bridge", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds per server, of which medians are shown")
    parser.add_argument("--only", default="", metavar="TEXT", help="leave out other bridges unless named so")
    parser.add_argument("--update-docs", action="store_true", help=f"put the tables into {report.PAGE.name}")
    options = parser.parse_args(arguments)
    others = [bridge for bridge in OTHERS if options.only in bridge.name]
    _allow_open_files()
    machine = report.describe_machine()
    results = Results(ours=OURS.name, direct=DIRECT)
    with tempfile.TemporaryDirectory() as folder:
        for server in (ECHO, TIME):
            figures = measure_server(server, (OURS, *others), Path(folder) / server.name, rounds=options.rounds)
            start_seconds = report.median(figures[DIRECT].first_ms) / 1000
            figures[OURS_WARM.name] = measure_warm(server, start_seconds, Path(folder) / "warm", rounds=options.rounds)
            results.servers[server.name] = figures
        for bridge, sessions in [(OURS, CLIENTS), (OURS_SHARED, 0), *((other, CLIENTS) for other in others)]:
            streams = measure_streams(bridge, sessions, Path(folder) / "streams" / bridge.name)
            results.streams[bridge.name] = streams
    path = report.save("bridge", {"machine": machine, **dataclasses.asdict(results)})
    tables = write_tables(results, machine)
    print(f"\n{tables}\n\nraw results: {path}")
    if options.update_docs:
        report.update_page("bridge", tables)
    return 0


def measure_server(server: Server, bridges: Sequence[Bridge], folder: Path, *, rounds: int) -> dict[str, Figures]:
    """Measure every bridge in front of a server, and the server without one, in turns."""
    figures: dict[str, Figures] = {}
    candidates: list[Candidate] = []
    with contextlib.ExitStack() as cleanup:
        for bridge in bridges:
            _say(f"{server.name}: starting {bridge.name}")
            try:
                candidate = Candidate(bridge.name, server, Running(bridge, server, folder / bridge.name))
            except (Failed, OSError) as error:
                figures[bridge.name] = Figures()
                figures[bridge.name].failures[str(error)] += 1
                continue
            cleanup.callback(candidate.close)
            candidates.append(candidate)
        candidates.append(Candidate(DIRECT, server, None))
        cleanup.callback(candidates[-1].close)
        for candidate in candidates:
            figures[candidate.name] = candidate.figures
            for clients in (1, CLIENTS):
                candidate.connect(clients)
        for number in range(rounds):
            _say(f"{server.name}: round {number + 1} of {rounds}")
            for candidate in candidates:
                candidate.measure_sequential(_SEQUENTIAL_SECONDS)
                candidate.measure_concurrent(_CONCURRENT_SECONDS)
                candidate.measure_first()
    return figures


def measure_warm(server: Server, start_seconds: float, folder: Path, *, rounds: int) -> Figures:
    """Measure the first answer of a session whose server was started ahead of need."""
    _say(f"{server.name}: {OURS_WARM.name}")
    candidate = Candidate(OURS_WARM.name, server, Running(OURS_WARM, server, folder / server.name))
    try:
        for _ in range(rounds):
            time.sleep(3 * start_seconds)
            candidate.measure_first()
    finally:
        candidate.close()
    return candidate.figures


def measure_streams(bridge: Bridge, sessions: int, folder: Path) -> StreamFigures:
    """Say what an idle stream costs a bridge, and how calls fare next to many."""
    _say(f"streams: {bridge.name}")
    with contextlib.ExitStack() as cleanup:
        try:
            running = Running(bridge, ECHO, folder)
            candidate = Candidate(bridge.name, ECHO, running)
            cleanup.callback(candidate.close)
            candidate.connect(CLIENTS)
            streams = Streams(running, sessions)
            cleanup.callback(streams.close)
            before = running.memory()
            opened = streams.open(STREAMS)
            if opened < STREAMS:
                return StreamFigures(opened=opened, failure=streams.failure)
            kib_each = (running.memory() - before) / 1024 / STREAMS
            opened = streams.open(BUSY_STREAMS)
            candidate.measure_concurrent(_CONCURRENT_SECONDS)
        except (Failed, OSError) as error:
            return StreamFigures(failure=str(error))
        return StreamFigures(opened=opened, kib_each=kib_each, beside=candidate.figures)


def _allow_open_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
