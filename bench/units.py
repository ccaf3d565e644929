"""Measures what a systemd unit for each process costs, next to child processes: `python -m bench.units`, as root.

The module's own units run in the container of tests/systemd, with every part of the sandbox, in front of the echo
server. Beside them, the same bridge, in the same sandbox and with the same options, starts the same server as children
of its own, which have its sandbox. Both keep records of calls and hold them to a rule, as the module's bridge does.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.systemd.driver import QemuMachine
from tests.systemd.programs import PYTHON, SOURCE
from tests.systemd.test_units import deployed, has_container

from . import report
from .unit_client import CLIENTS

CHILDREN, UNITS = "child processes", "systemd units"
_KEY = "/run/mcp-oauth-gateway/identity-time"
_ECHO = ("/usr/bin/python3", f"{SOURCE}/bench/echo_server.py")
_UNITS = "/etc/systemd/system"
_CONFIGURATION = "/etc/mcp-oauth-gateway/bridge-time.json"
# Not in /run, of which the bridges see little.
_OTHER_CONFIGURATION = "/opt/bridge-{}.json"
_UNLIMITED = 1_000_000_000
_PORT_OF_UNITS, _PORT_OF_CHILDREN = 22456, 22999


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, keep the raw results."""
    parser = argparse.ArgumentParser(prog="python -m bench.units", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which medians are shown")
    parser.add_argument("--update-docs", action="store_true", help=f"put the table into {report.PAGE.name}")
    options = parser.parse_args(arguments)
    if not has_container():
        print("needs root, debootstrap and systemd-nspawn: left out", file=sys.stderr)
        return 0
    machine = report.describe_machine()
    with tempfile.TemporaryDirectory() as folder, deployed("full_flow", Path(folder)) as machines:
        shutil.copytree(Path(__file__).parent, Path(folder) / "machine/upper" / SOURCE[1:] / "bench")
        figures = _measure(machines["machine"], options.rounds)
    path = report.save("units", {"machine": machine, "figures": figures})
    table = write_table(figures, machine)
    print(f"\n{table}\n\nraw results: {path}")
    if options.update_docs:
        report.update_page("units", table)
    return 0


def _measure(machine: QemuMachine, rounds: int) -> dict[str, Any]:
    machine.start()
    machine.wait_for_unit("mcp-auth-service.service")
    unit = _read(machine, f"{_UNITS}/mcp-server-time@.service")
    (start,) = (line for line in unit.splitlines() if line.startswith("ExecStart="))
    init = start.partition(' "')[0]  # the server's own command follows in quotes
    _write(machine, f"{_UNITS}/mcp-server-time@.service", unit.replace(start, f"{init} {' '.join(_ECHO)}"))
    # Two bridges that differ in nothing but how they start processes.
    options = {**json.loads(_read(machine, _CONFIGURATION)), "calls-per-minute": _UNLIMITED}
    _set_up_bridge(machine, "units", _PORT_OF_UNITS, options)
    own = {name: value for name, value in options.items() if name != "server-socket"}
    _set_up_bridge(machine, "children", _PORT_OF_CHILDREN, {**own, "command": _ECHO})
    machine.succeed(
        "systemctl daemon-reload",
        "systemctl stop mcp-bridge-time.socket mcp-bridge-time.service",
        "systemctl start bench-units.service bench-children.service",
    )
    ways = {
        CHILDREN: (_PORT_OF_CHILDREN, "bench-children.service", ""),
        # There is a control group of the server's slice only while a process runs.
        UNITS: (_PORT_OF_UNITS, "mcp-gateway.slice", "/mcp-gateway-time.slice"),
    }
    places = []
    for name, (port, group, below) in ways.items():
        cgroup = machine.succeed(f"systemctl show --property=ControlGroup --value {group}").strip()
        places.append(f"'{name}={port},{cgroup}{below}'")
    client = f"cd {SOURCE} && {PYTHON} -m bench.unit_client {_KEY} {rounds} {' '.join(places)}"
    figures: dict[str, Any] = json.loads(machine.succeed(client))
    return figures


def _set_up_bridge(machine: QemuMachine, name: str, port: int, options: dict[str, Any]) -> None:
    """Copy the units of the module's bridge, with other options."""
    path = _OTHER_CONFIGURATION.format(name)
    _write(machine, path, json.dumps(options))
    for kind in ("socket", "service"):
        text = _read(machine, f"{_UNITS}/mcp-bridge-time.{kind}").replace("mcp-bridge-time", f"bench-{name}")
        lines = text.replace(f":{_PORT_OF_UNITS}", f":{port}").splitlines()
        # It keeps the module's bridge, which starts no process, from starting any.
        kept = [line for line in lines if not line.startswith("LimitNPROC=")]
        changed = [re.sub("--config .*", f"--config {path}", line) for line in kept]
        _write(machine, f"{_UNITS}/bench-{name}.{kind}", "\n".join(changed))


def _read(machine: QemuMachine, path: str) -> str:
    return machine.succeed(f"cat {path}")


def _write(machine: QemuMachine, path: str, text: str) -> None:
    machine.succeed(f"printf %s {shlex.quote(text)} > {path}")


def write_table(figures: dict[str, Any], machine: dict[str, str | int | float]) -> str:
    """Write the figures, and what a unit costs more than a child."""
    header = [
        "",
        "first `initialize` ms",
        f"{CLIENTS} at once, all ms",
        "one client, calls/s",
        f"{CLIENTS} clients, calls/s",
        "p99 ms",
        "MiB of a session",
        "KiB of PID 1, each",
    ]
    rows = [
        [
            name,
            report.shown(report.median(each["first_ms"]), 1),
            report.shown(report.median(each["all_ms"]), 0),
            report.shown(report.median(each["sequential"])),
            report.shown(report.median(each["concurrent"])),
            report.shown(report.median(each["p99_ms"]), 1),
            report.shown(each["session_mib"], 1),
            report.shown(each["manager_kib"], 1),
        ]
        for name, each in figures.items()
    ]
    child, unit = figures[CHILDREN], figures[UNITS]
    more_ms = report.median(unit["first_ms"]) - report.median(child["first_ms"])
    more_mib = unit["session_mib"] - child["session_mib"]
    calls = [
        report.times(report.median(unit[kind]), report.median(child[kind])) for kind in ("sequential", "concurrent")
    ]
    difference = (
        f"A unit takes {more_ms:.0f} ms and {more_mib:.1f} MiB more than a child. Calls/s are {calls[0]} of one client "
        f"and {calls[1]} of {CLIENTS}."
    )
    intro = f"Medians of the rounds of one run: {report.machine_line(machine)}."
    return f"{intro}\n\n{report.markdown_table(header, rows)}\n\n{difference}"


if __name__ == "__main__":
    sys.exit(main())
