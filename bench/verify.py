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
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from . import report, verifiers
from .verifiers import OurTokens, Verifier

CONNECTIONS = 64
FEW = 8
TEN = 10
MANY = 10_000
GRANTS = 100_000
_SCRIPT = Path(__file__).with_suffix(".lua")


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
    memory: list[float] = field(default_factory=list)
    """MiB of the worker, afterwards."""


@dataclass(frozen=True, eq=False)
class Case:
    """What to measure."""

    verifier: Verifier
    kind: str
    tokens: Path
    passes: bool = True
    used_before: bool = False
    """Whether the tokens are in use when the measurement begins, not all at once after a break."""


@dataclass(frozen=True)
class Figures:
    """All that was measured. The first row of each list is the ceiling, the second the other."""

    direct: list[Row]
    routed: list[Row]
    beside: Row


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables, keep the raw results."""
    parser = argparse.ArgumentParser(prog="python -m bench.verify", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of which medians are shown")
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    parser.add_argument("--update-docs", action="store_true", help=f"put the tables into {report.PAGE.name}")
    options = parser.parse_args(arguments)
    machine = report.describe_machine()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        figures = _measure(Path(name), stack, rounds=options.rounds, seconds=options.seconds)
    path = report.save("verify", {"machine": machine, **dataclasses.asdict(figures)})
    tables = _tables(figures, machine)
    print(f"\n{tables}\n\nraw results: {path}")
    if options.update_docs:
        report.update_page("verify", tables)
    return 0


def _measure(folder: Path, stack: ExitStack, *, rounds: int, seconds: float) -> Figures:
    # Two of ours: with few grants in their Redis, and with many.
    small, large = folder / "small", folder / "large"
    few, store = (stack.enter_context(verifiers.running_redis(each)) for each in (small, large))
    make, make_few = OurTokens(large, store), OurTokens(small, few)
    make.add_grants(GRANTS)
    bare = stack.enter_context(verifiers.ceiling(folder))
    service, at_ease = (stack.enter_context(verifiers.ours(each)) for each in (large, small))
    other = stack.enter_context(verifiers.rival(large))
    routed = stack.enter_context(verifiers.routed(large, [bare, other, service]))

    def file(name: str, tokens: Sequence[str]) -> Path:
        path = folder / name
        path.write_text("\n".join(tokens))
        return path

    one, many = file("one", make.live(1)), file("many", make.live(MANY))
    of_few = file("few", make_few.live(TEN))
    rivals = file("rival-one", verifiers.rival_tokens(large, store, 1))
    garbage = file("garbage", [secrets.token_urlsafe(400) for _ in range(MANY)])
    cases = [
        Case(bare, "any", one),
        Case(other, "one good token", rivals),
        Case(other, "bad tokens, all different", garbage, passes=False),
        Case(at_ease, f"{TEN} good tokens, as many grants in Redis", of_few),
        Case(service, f"one good token, {GRANTS + MANY:,} grants", one),
        Case(service, f"{MANY:,} good tokens", many, used_before=True),
        Case(service, "one revoked token", file("revoked", [make.token()]), passes=False),
        Case(service, "one forged token", file("forged-one", make.forged(1)), passes=False),
        Case(
            service,
            "expired tokens, all different",
            file("expired", [make.token(age=7200) for _ in range(MANY)]),
            passes=False,
        ),
        Case(service, "bad tokens, all different", garbage, passes=False),
        Case(service, "forged tokens, all different", file("forged", make.forged(MANY)), passes=False),
    ]
    direct = len(cases)
    cases += [
        Case(each, "one good token", tokens) for each, tokens in zip(routed, (one, rivals, one, one), strict=True)
    ]
    rows = {case: Row(case.verifier.name, case.kind) for case in cases}
    _wrk(service, many, seconds=10)  # remembers each of them
    for _ in range(rounds):
        for case, row in rows.items():
            _run(case, row, seconds=seconds)
    # How good tokens fare while someone sends forged ones as fast as they are answered.
    beside = Row(service.name, "one good token, beside a flood of forged ones")
    for _ in range(rounds):
        flood = _start_wrk(service, folder / "forged", seconds=seconds + 1)
        time.sleep(0.5)
        _run(Case(service, beside.kind, one), beside, seconds=seconds, connections=FEW)
        flood.communicate()
    measured = list(rows.values())
    return Figures(measured[:direct], measured[direct:], beside)


def _run(case: Case, row: Row, *, seconds: float, connections: int = CONNECTIONS) -> None:
    worker = case.verifier.worker
    if case.used_before:
        _wrk(case.verifier, case.tokens, seconds=seconds, connections=connections)
    before = worker.cpu_times()
    requests, microseconds, p50, p99, refused = _wrk(
        case.verifier, case.tokens, seconds=seconds, connections=connections
    )
    after = worker.cpu_times()
    row.per_second.append(requests / microseconds * 1e6)
    row.p50.append(p50 / 1000)
    row.p99.append(p99 / 1000)
    row.cpu.append((after.user + after.system - before.user - before.system) / requests * 1e6)
    if bool(refused) == case.passes or (refused and refused < requests):
        raise RuntimeError(f"{row.verifier}, {row.kind}: refused {refused} of {requests}")
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
    command += [f"--script={_SCRIPT}", f"http://127.0.0.1:{verifier.port}", "--"]
    command += [str(tokens), verifier.path, verifier.host]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _tables(figures: Figures, machine: Mapping[str, object]) -> str:
    median, shown = report.median, report.shown
    good, beside = figures.direct[4], figures.beside
    return (
        f"Medians of {len(good.per_second)} rounds of one run, {CONNECTIONS} connections: "
        f"{report.machine_line(machine)}.\n\n{_table(figures.direct, *figures.direct[:2])}\n\n"
        f"Beside {CONNECTIONS} connections that send forged tokens as fast as they are answered, {FEW} with a "
        f"good one get {shown(median(beside.per_second))} requests/s, p50 {shown(median(beside.p50), 1)} ms, p99 "
        f"{shown(median(beside.p99), 1)} ms. The worker's memory went from {shown(good.memory[0])} to "
        f"{shown(beside.memory[-1])} MiB over the whole run.\n\n"
        "The same through Traefik, which asks before each request, and then answers by itself. It needs more of the "
        f"two cores than what it asks:\n\n{_table(figures.routed, *figures.routed[:2])}"
    )


def _table(rows: Sequence[Row], top: Row, other: Row) -> str:
    median, shown = report.median, report.shown
    header = ["one worker", "token", "requests/s", "of the ceiling", "of the other", "p50 ms", "p99 ms", "p99/p50"]
    header += ["CPU µs each", "MiB after"]
    return report.markdown_table(
        header,
        [
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
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
