"""Measures whole logins, from registration to token: `python -m bench.logins`.

Each is a new client of a user whose browser is new, too: register, authorize, approve, log in at the stand-in for
GitHub, come back, redeem. Nothing that a second login could save is saved.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from local.ports import free_port
from tests.e2e.flow import log_in

from . import report, verifiers

PEOPLE = (1, 8)
"""How many log in at the same time."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, keep the raw results."""
    parser = argparse.ArgumentParser(prog="python -m bench.logins", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of which medians are shown")
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--update-docs", action="store_true", help=f"put the table into {report.PAGE.name}")
    options = parser.parse_args(arguments)
    machine = report.describe_machine()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name) / "ours"
        stack.enter_context(verifiers.running_redis(folder))
        verifiers.write_credentials(folder)
        service = stack.enter_context(_service(folder))
        people = stack.enter_context(ProcessPoolExecutor(max(PEOPLE)))
        rounds = {
            count: [_measure(service, people, count, seconds=options.seconds) for _ in range(options.rounds)]
            for count in PEOPLE
        }
    path = report.save("logins", {"machine": machine, "rounds": rounds})
    table = _table(rounds, machine)
    print(f"\n{table}\n\nraw results: {path}")
    if options.update_docs:
        report.update_page("logins", table)
    return 0


@contextmanager
def _service(folder: Path) -> Iterator[verifiers.Verifier]:
    """Run the auth service, and a stand-in for GitHub."""
    port, github_port = free_port(), free_port()
    issuer, github = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{github_port}"
    command = [sys.executable, "-m", "local.github", "--listen", f"127.0.0.1:{github_port}", "--client-id", "x"]
    command += ["--client-secret-file", str(folder / "client-secret"), "--callback-url", f"{issuer}/callback"]
    stand_in = subprocess.Popen(command, cwd=report.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with verifiers.ours(
            folder,
            port=port,
            issuer=issuer,
            identity_provider={"type": "github", "client_id": "x", "url": github, "api_url": github},
            allowed={"users": ["octocat"]},
            limits={"registrations_per_hour": 1_000_000, "unused_clients": 1_000_000},
            resources={"time": {"url": f"{issuer}/mcp", "backends": ["http://127.0.0.1:1/mcp"]}},
        ) as service:
            yield service
    finally:
        stand_in.terminate()
        stand_in.wait()


def _measure(service: verifiers.Verifier, people: Executor, count: int, *, seconds: float) -> dict[str, float]:
    issuer = f"http://127.0.0.1:{service.port}"
    before = service.worker.cpu_times()
    began = time.monotonic()
    latencies = [each for some in people.map(_log_in_for, [issuer] * count, [seconds] * count) for each in some]
    elapsed = time.monotonic() - began
    after = service.worker.cpu_times()
    figures = {
        "per_second": len(latencies) / elapsed,
        "p50": report.percentile(latencies, 50) * 1000,
        "p99": report.percentile(latencies, 99) * 1000,
        "cpu": (after.user + after.system - before.user - before.system) / len(latencies) * 1000,
    }
    print(f"{count} at once: {figures['per_second']:.0f} logins/s", file=sys.stderr)
    return figures


def _log_in_for(issuer: str, seconds: float) -> list[float]:
    """Log in again and again; return how long each took."""
    latencies = []
    end = time.monotonic() + seconds
    while (began := time.monotonic()) < end:
        log_in(issuer, f"{issuer}/mcp")
        latencies.append(time.monotonic() - began)
    return latencies


def _table(rounds: Mapping[int, Sequence[Mapping[str, float]]], machine: Mapping[str, object]) -> str:
    columns = {"logins/s": "per_second", "p50 ms": "p50", "p99 ms": "p99", "CPU ms of the worker, each": "cpu"}
    rows = [
        [
            str(count),
            *(report.shown(report.median(figures[key] for figures in measured), 1) for key in columns.values()),
        ]
        for count, measured in rounds.items()
    ]
    return (
        f"Medians of {len(rounds[PEOPLE[0]])} rounds: {report.machine_line(machine)}.\n\n"
        f"{report.markdown_table(['people at once', *columns], rows)}"
    )


if __name__ == "__main__":
    sys.exit(main())
