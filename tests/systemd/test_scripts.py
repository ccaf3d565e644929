"""The scripts of the VM tests, checked as the NixOS test driver checks them: types, and names that nothing defines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.systemd.deployment import load_machines
from tests.systemd.evaluation import CHECKOUT, evaluated

SCENARIOS = CHECKOUT / "tests/nixos"
# What the driver gives each script beside its machines, as far as these scripts use it.
SYMBOLS = """\
from collections.abc import Callable
from contextlib import AbstractContextManager
from tests.systemd.driver import QemuMachine
start_all: Callable[[], None]
subtest: Callable[[str], AbstractContextManager[None]]
"""


def scripts() -> dict[Path, list[str]]:
    """Return the machines of each script: those of the scenario of its name, or of the first one."""
    found = {}
    for path in sorted(SCENARIOS.glob("*.py")):
        if "subtest(" in path.read_text():
            scenario = evaluated(path.stem if evaluated(path.stem).exists() else "full_flow")
            found[path] = sorted(load_machines(scenario))
    return found


def type_check(files: list[Path]) -> str:
    """Return what mypy finds with the driver's own options."""
    command = [sys.executable, "-m", "mypy", "--no-implicit-optional", "--no-color-output", "--config-file="]
    checked = subprocess.run(
        [*command, "--no-error-summary", f"--cache-dir={files[0].parent}/cache", *map(str, files)],
        cwd=CHECKOUT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return checked.stdout + checked.stderr


def with_types(script: str, machines: list[str]) -> str:
    """Return a script with the types of what is in its scope."""
    return SYMBOLS + "".join(f"{name}: QemuMachine\n" for name in machines) + script


def lint(script: str, machines: list[str]) -> str:
    """Return what pyflakes' rules find where these machines are there."""
    names = ", ".join(f'"{name}"' for name in (*machines, "start_all", "subtest"))
    ruff = os.environ.get("RUFF") or str(Path(sys.executable).with_name("ruff"))
    command = [ruff, "check", "--isolated", "--select=F", "--output-format=concise"]
    checked = subprocess.run(
        [*command, "--config", f"builtins = [{names}]", "--stdin-filename=script.py", "-"],
        input=script, cwd=CHECKOUT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return "" if checked.returncode == 0 else checked.stdout + checked.stderr


def test_every_script_has_the_types_that_the_driver_asks_for(tmp_path: Path) -> None:
    files = []
    for path, machines in scripts().items():
        files.append(tmp_path / f"script_{path.name}")
        files[-1].write_text(with_types(path.read_text(), machines))
    assert len(files) > 8
    assert type_check(files) == ""


@pytest.mark.parametrize("path", scripts(), ids=lambda path: path.stem)
def test_every_script_uses_only_names_that_the_driver_defines(path: Path) -> None:
    assert lint(path.read_text(), scripts()[path]) == ""


def test_a_wrong_type_and_an_unknown_name_are_found(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(with_types('machine.wait_for_open_port("443")\n', ["machine"]))
    assert "arg-type" in type_check([tmp_path / "script.py"])
    assert "F821" in lint("for machine in machines: machine.start()\n", ["edge"])
