"""Measures two bridges, of which one starts child processes and the other systemd's units, on the machine of both.

`python -m bench.unit_client KEYFILE NAME=PORT,CGROUP…` prints figures as JSON. CGROUP is that of the server's
processes, below /sys/fs/cgroup; the bridge's own process is not counted.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import report
from .assertion import headers_of
from .calls import ECHO, initialize
from .clients import Caller, Connection, HttpCaller, Site, leave, open_session
from .load import drive

CLIENTS = 16
_STARTS = 10
_SECONDS = 1.5
_END_SECONDS = 60.0


@dataclass
class Figures:
    """What was measured of one way of starting. Lists have one value per measurement."""

    first_ms: list[float] = field(default_factory=list)
    all_ms: list[float] = field(default_factory=list)
    sequential: list[float] = field(default_factory=list)
    concurrent: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    session_mib: float = 0.0
    manager_kib: float = 0.0


class Way:
    """One way of starting processes, by the bridge at a port."""

    def __init__(self, key: str, port: int, cgroup: Path) -> None:
        self.figures = Figures()
        self._key = key
        self._port = port
        self._cgroup = cgroup
        self._callers: list[Caller] = []

    def site(self) -> Site:
        """Return the endpoint, with headers that no request has had."""
        return Site(port=self._port, headers=headers_of(self._key))

    def measure_starts(self) -> None:
        """Take the time to a session's first answer, for one session and for several at once."""
        for _ in range(_STARTS):
            since = time.perf_counter()
            connection = Connection(self.site())
            connection.initialize()
            self.figures.first_ms.append(1000 * (time.perf_counter() - since))
            leave(connection)
        connections = [Connection(self.site()) for _ in range(CLIENTS)]
        since = time.perf_counter()
        for connection in connections:
            connection.send(json.dumps(initialize()).encode())
        for connection in connections:
            while not (response := connection.receive()).complete:
                pass
            connection.use(self.site(), response.header(b"mcp-session-id").decode())
        self.figures.all_ms.append(1000 * (time.perf_counter() - since))
        for connection in connections:
            leave(connection)

    def measure_memory(self) -> None:
        """Take the memory of a session: shares of its processes' pages, and what the service manager has grown by."""
        self._wait_until_idle()
        before = _resident_kib(1)
        with ExitStack() as sessions:
            for _ in range(CLIENTS):
                sessions.callback(leave, open_session(self.site()))
            self.figures.session_mib = sum(map(_proportional_kib, self._processes())) / 1024 / CLIENTS
            self.figures.manager_kib = (_resident_kib(1) - before) / CLIENTS

    def measure_calls(self) -> None:
        """Let one client call, and then all of them."""
        while len(self._callers) < CLIENTS:
            self._callers.append(HttpCaller(self.site, ECHO))
        self.figures.sequential.append(drive(self._callers[:1], _SECONDS).per_second)
        measured = drive(self._callers, _SECONDS)
        if measured.failures:
            raise RuntimeError(f"calls failed: {measured.failures}")
        self.figures.concurrent.append(measured.per_second)
        self.figures.p99_ms.append(1000 * report.percentile(measured.latencies, 99))

    def _wait_until_idle(self) -> None:
        deadline = time.monotonic() + _END_SECONDS
        while self._processes():
            if time.monotonic() > deadline:
                raise RuntimeError("processes of ended sessions still run")
            time.sleep(0.1)

    def _processes(self) -> list[int]:
        listed = [int(pid) for file in self._cgroup.rglob("cgroup.procs") for pid in file.read_text().split()]
        return [pid for pid in listed if "stdio-bridge" not in Path(f"/proc/{pid}/cmdline").read_text()]


def _resident_kib(pid: int) -> int:
    return _find_kib(Path(f"/proc/{pid}/status"), "VmRSS")


def _proportional_kib(pid: int) -> int:
    return _find_kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss")


def _find_kib(path: Path, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", path.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure in turns, and print the figures."""
    key_file, rounds, *named = sys.argv[1:] if arguments is None else arguments
    key = Path(key_file).read_text().strip()
    ways: dict[str, Way] = {}
    for each in named:
        name, _, place = each.partition("=")
        port, _, cgroup = place.partition(",")
        ways[name] = Way(key, int(port), Path("/sys/fs/cgroup") / cgroup.lstrip("/"))
    for way in ways.values():
        leave(open_session(way.site()))
    for _ in range(int(rounds)):
        for way in ways.values():
            way.measure_starts()
    for way in ways.values():
        way.measure_memory()
    for _ in range(int(rounds)):
        for way in ways.values():
            way.measure_calls()
    figures: dict[str, Any] = {name: asdict(way.figures) for name, way in ways.items()}
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
