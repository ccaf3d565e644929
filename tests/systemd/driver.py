"""The part of the NixOS test driver's API that the test scripts use, for a container."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.systemd.container import Container

RETRY_SECONDS = 120
"""What a script waits for unless it says otherwise; the real driver waits for 900 s."""


class QemuMachine:
    """A container as a test script sees a virtual machine."""

    def __init__(self, container: Container, *, name: str, path: str) -> None:
        self.name = name
        self._container = container
        self._path = path
        self._booted = False
        self._connected = False
        self._errors = ""

    def start(self) -> None:
        """Boot, and do not wait for it; does nothing on a machine that runs."""
        if not self._booted:
            self._container.boot()
            self._booted = True

    def crash(self) -> None:
        """End at once, as by pulling the plug."""
        self._container.stop()
        self._booted = self._connected = False

    def block(self) -> None:
        """Pull the machine's network cable."""
        self._container.network.unplug()

    def unblock(self) -> None:
        """Put it back."""
        self._container.network.plug()

    def execute(
        self, command: str, check_return: bool = True, check_output: bool = True, timeout: int | None = 900
    ) -> tuple[int, str]:
        """Run a command; return its exit status and what it wrote to standard output, and nothing else."""
        assert check_return, "no script has a command that ends the machine"
        assert check_output, "no script has a command that goes on"
        self._connect()
        try:
            done = self._container.run(command, path=self._path, timeout=timeout)
        except subprocess.TimeoutExpired:
            return 124, ""
        self._errors = done.stderr
        return done.returncode, done.stdout

    def succeed(self, *commands: str, timeout: int | None = None) -> str:
        """Run commands, each of which must succeed; return their output."""
        output = ""
        for command in commands:
            status, text = self.execute(command, timeout=timeout)
            assert status == 0, f"{command}: exit status {status}\n{text}\n{self._explanation()}"
            output += text
        return output

    def fail(self, *commands: str, timeout: int | None = None) -> str:
        """Run commands, each of which must fail; return their output."""
        output = ""
        for command in commands:
            status, text = self.execute(command, timeout=timeout)
            assert status != 0, f"{command}: succeeded\n{text}"
            output += text
        return output

    def wait_until_succeeds(self, command: str, timeout: int = RETRY_SECONDS) -> str:
        """Run a command until it succeeds; return its output."""
        output = ""

        def succeeds() -> bool:
            nonlocal output
            status, output = self.execute(command, timeout=timeout)
            return status == 0

        self._retry(succeeds, timeout, lambda: f"{command}: still fails\n{output}")
        return output

    def wait_until_fails(self, command: str, timeout: int = RETRY_SECONDS) -> str:
        """Run a command until it fails; return its output."""
        output = ""

        def fails() -> bool:
            nonlocal output
            status, output = self.execute(command, timeout=timeout)
            return status != 0

        self._retry(fails, timeout, lambda: f"{command}: still succeeds\n{output}")
        return output

    def wait_for_unit(self, unit: str, user: str | None = None, timeout: int = RETRY_SECONDS) -> None:
        """Wait until a unit is active; one that has failed, or that nothing is about to start, never will be."""
        assert user is None, "there are no users' own units here"

        def is_active() -> bool:
            state = self._state(unit)
            assert state != "failed", f"{unit} has failed\n{self._explanation()}"
            if state == "inactive" and "No jobs" in self.execute("systemctl list-jobs --full 2>&1")[1]:
                assert self._state(unit) != "inactive", f"{unit} is inactive, and no job is pending"
            return state == "active"

        self._retry(is_active, timeout, lambda: f"{unit} is {self._state(unit)}")

    def wait_for_open_port(self, port: int, addr: str = "localhost", timeout: int = RETRY_SECONDS) -> None:
        """Wait until something listens on a port of this address."""
        self._retry(
            lambda: self.execute(f"nc -z {addr} {port}")[0] == 0, timeout, lambda: f"nothing listens on {addr}:{port}"
        )

    def _state(self, unit: str) -> str:
        status, text = self.execute(f'systemctl --no-pager show "{unit}" --property=ActiveState')
        assert status == 0, f"{unit}: systemctl has exit status {status}"
        return text.strip().partition("=")[2]

    def _connect(self) -> None:
        """Wait until the machine has a shell: not before systemd has queued what it starts at boot."""
        self.start()
        if not self._connected:
            ready = "systemctl show --property=Version > /dev/null 2>&1"
            self._retry(
                lambda: self._container.run(ready, path=self._path, timeout=900).returncode == 0,
                RETRY_SECONDS,
                lambda: "it did not boot",
            )
            self._connected = True

    def _retry(self, condition: Callable[[], bool], timeout: int, explain: Callable[[], str]) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"{self.name}: {explain()}\n{self._explanation()}"
            time.sleep(0.2)

    def _explanation(self) -> str:
        """Return what the last command wrote to standard error, and the end of the journal."""
        journal = "journalctl --namespace=* --boot --no-pager --lines=80"
        return f"{self._errors}\n{self._container.run(journal, path=self._path, timeout=60).stdout}"


@contextlib.contextmanager
def subtest(name: str) -> Iterator[None]:
    """Name what a failure inside was about."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{name}: {error}") from error


def run_script(script: Path, machines: Mapping[str, QemuMachine]) -> None:
    """Run a test script; each machine is a variable in it, and `machine` is the one, where there is but one."""

    def boot_all() -> None:
        for each in machines.values():
            each.start()

    scope = {**machines, "machines": list(machines.values()), "start_all": boot_all, "subtest": subtest}
    if len(machines) == 1:
        (scope["machine"],) = machines.values()
    exec(compile(script.read_text(), str(script), "exec"), scope)
