"""Puts an evaluated configuration on a machine: what nixos-rebuild does, as far as the module asks for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.systemd.programs import PYTHON, SOURCE

UNITS = Path("etc/systemd/system")
SYSTEM = Path("opt/system")
SWITCH = f"""#!{PYTHON}
import sys
sys.path.insert(0, {SOURCE!r})
from tests.systemd.switch import main
sys.exit(main())
"""


@dataclass(frozen=True)
class Configuration:
    """What evaluate.nix answers."""

    units: dict[str, list[str]]
    files: dict[str, str]
    tmpfiles: list[str]
    users: dict[str, str]
    hosts: dict[str, list[str]]
    builds: dict[str, str]
    stored: dict[str, str]
    programs: list[str]
    ports: list[int]
    warnings: list[str]
    failedAssertions: list[str]  # noqa: N815 - evaluate.nix's own key
    specialisations: dict[str, Any] = field(default_factory=dict)


def load(path: Path) -> Configuration:
    """Read the evaluated configuration of one machine."""
    return Configuration(**json.loads(path.read_text()))


def load_machines(path: Path) -> dict[str, Configuration]:
    """Read the evaluated configurations of all machines of a scenario, by name."""
    document = json.loads(path.read_text())
    return {name: Configuration(**each) for name, each in document.get("nodes", {"machine": document}).items()}


def install(configuration: Configuration, root: Path, *, neighbours: Mapping[str, str]) -> None:
    """Write a whole machine's configuration below `root`, specialisations included.

    `neighbours` are the addresses of the scenario's machines by their names.
    """
    write_files(configuration, root)
    enable(configuration, root)
    _write(root / SYSTEM / "units.json", json.dumps(configuration.units))
    for name, other in configuration.specialisations.items():
        folder = root / SYSTEM / "specialisation" / name
        _write(folder / "configuration.json", json.dumps(other))
        _write(folder / "bin/switch-to-configuration", SWITCH)
        (folder / "bin/switch-to-configuration").chmod(0o755)
    hosts = [
        ("127.0.0.1", ["localhost"]),
        *configuration.hosts.items(),
        *((address, [name]) for name, address in neighbours.items()),
    ]
    _write(root / "etc/hosts", "".join(f"{address} {' '.join(names)}\n" for address, names in hosts))


def write_files(configuration: Configuration, root: Path) -> None:
    """Write units and files below `root`."""
    for name, text in configuration.files.items():
        _write(root / "etc" / name, text)
    for name, path in configuration.stored.items():
        _write(root / path.removeprefix("/"), configuration.files[name])
    for name, lines in configuration.units.items():
        _write(root / UNITS / name, "\n".join(lines) + "\n")
    rules = [*configuration.tmpfiles, f"L /run/current-system - - - - /{SYSTEM}"]
    _write(root / "etc/tmpfiles.d/gateway.conf", "".join(f"{rule}\n" for rule in rules))
    people = "".join(f"g {group} -\nu {user} -:{group}\n" for user, group in configuration.users.items())
    _write(root / "etc/sysusers.d/gateway.conf", people)


def enable(configuration: Configuration, root: Path) -> None:
    """Link the units as their `[Install]` section says."""
    for name, lines in configuration.units.items():
        for line in lines:
            if line.startswith("WantedBy="):
                wants = root / UNITS / f"{line.removeprefix('WantedBy=')}.wants"
                wants.mkdir(parents=True, exist_ok=True)
                if not (wants / name).is_symlink():
                    (wants / name).symlink_to(f"../{name}")


def _write(path: Path, text: str) -> None:
    # What has not changed is not touched: a program may be watching it. The rest is replaced at once, as NixOS
    # replaces /etc/static: systemd loads a unit for each connection, and must find it at every moment.
    if not path.is_file() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.write_text(text)
        new.replace(path)
