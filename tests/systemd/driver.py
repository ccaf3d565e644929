"""The part of the NixOS test driver's API that the test scripts use, for a container."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tests.systemd.container import Container

RETRY_SECONDS = 30


class Machine:
    """A container as a test script sees it (nixpkgs, nixos/lib/test-driver)."""

    def __init__(self, container: Container, *, name: str, path: str) -> None:
        self.name = name
        self._container = container
        self._path = path
        self._running = False

    def start(self) -> None:
        """Boot; does nothing on a machine that runs."""
        if not self._running:
            self._container.boot()
            self._running = True

    def crash(self) -> None:
        """End at once, as by pulling the plug."""
        self._container.stop()
        self._running = False

    def block(self) -> None:
        """Pull the machine's network cable."""
        self._container.network.unplug()

    def unblock(self) -> None:
        """Put it back."""
        self._container.network.plug()

    def execute(self, command: str, timeout: float = 60) -> tuple[int, str]:
        """Run a command; return its exit status and output."""
        done = self._container.run(command, path=self._path, timeout=timeout)
        return done.returncode, done.stdout

    def succeed(self, *commands: str) -> str:
        """Run commands, each of which must succeed; return their output."""
        output = ""
        for command in commands:
            status, text = self.execute(command)
            assert status == 0, f"{command}: exit status {status}\n{text}\n{self.journal()}"
            output += text
        return output

    def fail(self, *commands: str) -> str:
        """Run commands, each of which must fail; return their output."""
        output = ""
        for command in commands:
            status, text = self.execute(command)
            assert status != 0, f"{command}: succeeded\n{text}"
            output += text
        return output

    def wait_until_succeeds(self, command: str, timeout: float = RETRY_SECONDS) -> str:
        """Run a command until it succeeds; return its output."""
        deadline = time.monotonic() + timeout
        while True:
            status, text = self.execute(command)
            if status == 0:
                return text
            assert time.monotonic() < deadline, f"{command}: exit status {status}\n{text}\n{self.journal()}"
            time.sleep(0.2)

    def wait_until_fails(self, command: str, timeout: float = RETRY_SECONDS) -> str:
        """Run a command until it fails; return its output."""
        deadline = time.monotonic() + timeout
        while True:
            status, text = self.execute(command)
            if status != 0:
                return text
            assert time.monotonic() < deadline, f"{command}: succeeds\n{text}\n{self.journal()}"
            time.sleep(0.2)

    def wait_for_unit(self, unit: str, timeout: float = RETRY_SECONDS) -> None:
        """Wait until a unit is active."""
        self.wait_until_succeeds(f"systemctl is-active {unit}", timeout)

    def wait_for_open_port(self, port: int, timeout: float = RETRY_SECONDS) -> None:
        """Wait until something listens on a port."""
        self.wait_until_succeeds(f"ss --listening --tcp --numeric --no-header | grep ':{port} '", timeout)

    def journal(self) -> str:
        """Return the end of the journal, for a failure's message."""
        return self.execute("journalctl --namespace=* --boot --no-pager --lines=80")[1]


@contextlib.contextmanager
def subtest(name: str) -> Iterator[None]:
    """Name what a failure inside was about."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{name}: {error}") from error


if TYPE_CHECKING:
    # What scripts find in their scope.
    machine: Machine
    machines: list[Machine]
    auth1: Machine
    auth2: Machine
    edge: Machine
    tools1: Machine
    tools2: Machine

    def start_all() -> None:
        """Boot every machine."""


def run_script(script: Path, machines: Mapping[str, Machine]) -> None:
    """Run a test script; each machine is a variable in it, and `machine` is the one, where there is but one."""

    def boot_all() -> None:
        for each in machines.values():
            each.start()

    scope = {**machines, "machines": list(machines.values()), "start_all": boot_all, "subtest": subtest}
    exec(compile(script.read_text(), str(script), "exec"), scope)
