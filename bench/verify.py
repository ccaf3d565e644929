"""Measures `/verify` with wrk, next to another and to what the same worker can do at most: `python -m bench.verify`.

All run at the same time and are measured in turns, so that whatever else the machine does is shared out among them.
"""

from __future__ import annotations

import argparse
import dataclasses
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from . import report, verifiers
from .verifiers import OurTokens, Verifier

CONNECTIONS = 64
FEW = 8
MANY = 10_000
GRANTS = 100_000
_SCRIPT = Path(__file__).with_suffix(".lua")
_PAGE = report.ROOT / "docs" / "performance.md"


@dataclass
class Row:
    """One verifier with one kind of token, over the rounds."""

    verifier: str
    kind: str
    per_second: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    """Milliseconds."""
    p99: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Microseconds of the worker's processor time per request, which other load on the machine changes least."""
    refused: float = 0
    memory: list[float] = field(default_factory=list)
    """MiB of the worker, afterwards."""


@dataclass(frozen=True, eq=False)
class Case:
    """What to measure."""

    verifier: Verifier
    kind: str
    tokens: Path
    before: Callable[[], object] = lambda: None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables, keep the raw results."""
    parser = argparse.ArgumentParser(prog="python -m bench.verify", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of which medians are shown")
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    parser.add_argument("--update-docs", action="store_true", help=f"put the tables into {_PAGE.name}")
    options = parser.parse_args(arguments)
    machine = report.describe_machine()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        rows, beside = _measure(Path(name), stack, rounds=options.rounds, seconds=options.seconds)
    raw = {"machine": machine, "rows": [dataclasses.asdict(row) for row in rows], "beside": dataclasses.asdict(beside)}
    path = report.save("verify", raw)
    tables = _tables(rows, beside, machine)
    print(f"\n{tables}\n\nraw results: {path}")
    if options.update_docs:
        report.update_page(_PAGE, "verify", tables)
    return 0


def _measure(folder: Path, stack: ExitStack, *, rounds: int, seconds: float) -> tuple[list[Row], Row]:
    store = stack.enter_context(verifiers.running_redis(folder))
    make = OurTokens(folder, store)
    bare = stack.enter_context(verifiers.ceiling(folder))
    service = stack.enter_context(verifiers.ours(folder))
    other = stack.enter_context(verifiers.rival(folder))

    def file(name: str, tokens: Sequence[str]) -> Path:
        path = folder / name
        path.write_text("\n".join(tokens))
        return path

    one, many = file("one", make.live(1)), file("many", make.live(MANY))
    garbage = file("garbage", [secrets.token_urlsafe(400) for _ in range(MANY)])
    cases = [
        Case(bare, "any", one),
        Case(other, "one good token", file("rival-one", verifiers.rival_tokens(folder, store, 1))),
        Case(other, "bad tokens, all different", garbage),
        Case(service, "one good token", one),
        Case(service, f"{MANY:,} good tokens", many),
        Case(service, "one revoked token", file("revoked", [make.token()])),
        Case(service, "one forged token", file("forged-one", make.forged(1))),
        Case(service, "expired tokens, all different", file("expired", [make.token(age=7200) for _ in range(MANY)])),
        Case(service, "bad tokens, all different", garbage),
        Case(service, "forged tokens, all different", file("forged", make.forged(MANY))),
        Case(service, f"one good token, {GRANTS:,} grants in Redis", one, lambda: make.add_grants(GRANTS)),
    ]
    rows = {case: Row(case.verifier.name, case.kind) for case in cases}
    _wrk(service, many, seconds=10)  # remembers each of them
    for number in range(rounds):
        for case, row in rows.items():
            if number == 0:
                case.before()
            _run(case, row, seconds=seconds)
    # How good tokens fare while someone sends forged ones as fast as they are answered.
    beside = Row(service.name, "one good token, beside a flood of forged ones")
    for _ in range(rounds):
        flood = _start_wrk(service, folder / "forged", seconds=seconds + 1)
        time.sleep(0.5)
        _run(Case(service, beside.kind, one), beside, seconds=seconds, connections=FEW)
        flood.communicate()
    return list(rows.values()), beside


def _run(case: Case, row: Row, *, seconds: float, connections: int = CONNECTIONS) -> None:
    worker = case.verifier.worker
    before = worker.cpu_times()
    requests, microseconds, p50, p99, refused = _wrk(
        case.verifier, case.tokens, seconds=seconds, connections=connections
    )
    after = worker.cpu_times()
    row.per_second.append(requests / microseconds * 1e6)
    row.p50.append(p50 / 1000)
    row.p99.append(p99 / 1000)
    row.cpu.append((after.user + after.system - before.user - before.system) / requests * 1e6)
    row.refused = refused / requests
    row.memory.append(worker.memory_info().rss / 2**20)
    print(f"{row.verifier}, {row.kind}: {row.per_second[-1]:,.0f}/s", file=sys.stderr)


def _wrk(verifier: Verifier, tokens: Path, *, seconds: float, connections: int = CONNECTIONS) -> tuple[int, ...]:
    process = _start_wrk(verifier, tokens, seconds=seconds, connections=connections)
    output, _ = process.communicate()
    for line in output.splitlines():
        if line.startswith("figures "):
            return tuple(int(figure) for figure in line.split()[1:])
    raise RuntimeError(f"wrk said: {output}")


def _start_wrk(
    verifier: Verifier, tokens: Path, *, seconds: float, connections: int = CONNECTIONS
) -> subprocess.Popen[str]:
    command = ["wrk", "--threads=1", f"--connections={connections}", f"--duration={max(1, round(seconds))}s"]
    command += [f"--script={_SCRIPT}", f"http://127.0.0.1:{verifier.port}", "--", str(tokens), verifier.path]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _tables(rows: Sequence[Row], beside: Row, machine: Mapping[str, object]) -> str:
    median, shown = report.median, report.shown
    top, other = rows[0], rows[1]
    good = rows[3]
    header = ["one worker", "token", "requests/s", "of the ceiling", "of the other", "p50 ms", "p99 ms", "p99/p50"]
    header += ["CPU µs each", "MiB after"]
    lines = [
        [
            row.verifier,
            row.kind,
            shown(median(row.per_second)),
            report.times(median(row.per_second), median(top.per_second)),
            report.times(median(row.per_second), median(other.per_second)),
            shown(median(row.p50), 2),
            shown(median(row.p99), 2),
            shown(median(late / usual for late, usual in zip(row.p99, row.p50, strict=True)), 1),
            shown(median(row.cpu)),
            shown(row.memory[-1]),
        ]
        for row in rows
    ]
    return (
        f"Medians of {len(top.per_second)} rounds of one run, {CONNECTIONS} connections: "
        f"{report.machine_line(machine)}.\n\n{report.markdown_table(header, lines)}\n\n"
        f"Beside {CONNECTIONS} connections that send forged tokens as fast as they are answered, {FEW} with a "
        f"good one get {shown(median(beside.per_second))} requests/s, p50 {shown(median(beside.p50), 1)} ms, p99 "
        f"{shown(median(beside.p99), 1)} ms. The worker's memory went from {shown(good.memory[0])} to "
        f"{shown(beside.memory[-1])} MiB over the whole run."
    )


if __name__ == "__main__":
    sys.exit(main())
