"""`switch-to-configuration` for a container: what NixOS does with units that have changed.

After nixpkgs' pkgs/by-name/sw/switch-to-configuration-ng: a unit that is gone stops; one that differs in its reload
triggers alone reloads. Any other difference restarts it where it says so; else it stops before the new configuration is
there and starts afterwards, a socket-activated service by its socket. Changed sockets are left as they are.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.systemd.deployment import SYSTEM, UNITS, Configuration, enable, write_files

ROOT = Path("/")
RELOAD_TRIGGERS = "X-Reload-Triggers="
RESTARTS = "X-StopIfChanged=false"


def main() -> int:
    """Switch to the specialisation that this command belongs to."""
    name = Path(sys.argv[0]).parents[1].name
    system = ROOT / SYSTEM
    old = json.loads((system / "units.json").read_text())
    new = Configuration(**json.loads((system / f"specialisation/{name}/configuration.json").read_text()))
    _switch(old, new)
    (system / "units.json").write_text(json.dumps(new.units))
    return 0


def _switch(old: dict[str, list[str]], new: Configuration) -> None:
    changed = {unit for unit, lines in old.items() if unit in new.units and lines != new.units[unit]}
    reloads = {unit for unit in changed if _without_triggers(old[unit]) == _without_triggers(new.units[unit])}
    affected = {unit for unit in changed - reloads if _is_active(unit) and not unit.endswith(".socket")}
    restarts = {unit for unit in affected if RESTARTS in new.units[unit]}
    stops = affected - restarts
    sockets = {socket for unit in stops if (socket := unit.replace(".service", ".socket")) in old}
    started_by_socket = {socket.replace(".socket", ".service") for socket in sockets}

    # Of a template that is gone, its instances stop.
    gone = {unit.replace("@.", "@*.") for unit in old if unit not in new.units}
    _systemctl("stop", *sorted(gone | stops | sockets))
    write_files(new, ROOT)
    enable(new, ROOT)
    for unit in old.keys() - new.units.keys():
        (ROOT / UNITS / unit).unlink()
    for link in (ROOT / UNITS).glob("*.wants/*"):
        if link.name in old and f"WantedBy={link.parent.stem}" not in new.units.get(link.name, ()):
            link.unlink()
    subprocess.run(("systemd-sysusers",), check=True)
    subprocess.run(("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/gateway.conf"), check=True)
    _systemctl("daemon-reload")
    _systemctl("reload", *sorted(unit for unit in reloads if _is_active(unit)))
    _systemctl("restart", *sorted(restarts))
    _systemctl("start", "multi-user.target", "sockets.target", "timers.target")
    _systemctl("start", *sorted(sockets | (stops - started_by_socket)))


def _without_triggers(lines: list[str]) -> list[str]:
    return [line for line in lines if not line.startswith(RELOAD_TRIGGERS)]


def _is_active(unit: str) -> bool:
    return subprocess.run(("systemctl", "is-active", "--quiet", unit), check=False).returncode == 0


def _systemctl(verb: str, *units: str) -> None:
    if units or verb == "daemon-reload":
        subprocess.run(("systemctl", verb, *units), check=True)


if __name__ == "__main__":
    sys.exit(main())
