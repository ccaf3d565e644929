"""The whole local stack, as its launcher starts it, once for all end-to-end tests."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from local.ports import free_port
from tests.e2e.echo import EchoServer
from tests.service.conftest import eventually
from tests.stdio_bridge.modern_client import LEGACY_SERVER

PROJECT = Path(__file__).parents[2]
START_SECONDS = 100
STOP_SECONDS = 60


class RunningStack:
    """A launcher process and what it has printed."""

    def __init__(self, state_directory: Path, *arguments: str, port: int | None = None) -> None:
        self.state_directory = state_directory
        self.port = port or free_port()
        self.issuer = f"http://localhost:{self.port}"
        self.lines: list[str] = []
        self._healthy = threading.Event()
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "local", "--port", str(self.port)),
                # Nothing on the internet is asked, whatever way out this machine has.
                *("--state-directory", str(state_directory), "--no-client-documents", *arguments),
            ],
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if "everything is healthy" in line:
                self._healthy.set()
        self._healthy.set()

    def wait_until_healthy(self) -> None:
        """Wait for the launcher's own word."""
        assert self._healthy.wait(START_SECONDS), self.output
        assert self.process.poll() is None, self.output

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Stop as a person does, and return the exit status."""
        self.process.send_signal(number)
        status = self.process.wait(STOP_SECONDS)
        self._reader.join(STOP_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    @property
    def output(self) -> str:
        """Everything printed so far."""
        return "".join(self.lines)

    def resource(self, name: str) -> str:
        """Return the URL of a server."""
        return f"{self.issuer}/{name}/mcp"

    def auth_service(self) -> psutil.Process:
        """Return the parent of the auth service's workers."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # a worker that has just been replaced
                if "auth_service" in process.cmdline():
                    found.append(process)
        return min(found, key=lambda each: each.create_time())

    def load(self, settings: str) -> None:
        """Write settings and have the auth service load them."""
        (self.state_directory / "settings.json").write_text(settings)
        self.auth_service().send_signal(signal.SIGHUP)

    @contextlib.contextmanager
    def serving(self, resources: dict[str, dict[str, Any]]) -> Iterator[None]:
        """Add servers to the settings, by name, and remove them in the end. Wait each time until the router follows."""
        former = (self.state_directory / "settings.json").read_text()
        document: dict[str, Any] = json.loads(former)
        document["resources"] |= resources
        self.load(json.dumps(document))
        self._wait_for_status(401, resources)
        yield
        self.load(former)
        self._wait_for_status(404, resources)

    @staticmethod
    def _wait_for_status(status: int, resources: dict[str, dict[str, Any]]) -> None:
        for resource in resources.values():
            url = resource["url"]
            eventually(lambda url=url: requests.post(url, json={}, timeout=60).status_code == status)  # type: ignore[misc]


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """The healthy stack; behind it, beside the usual servers, one that tells what reached it (`echo`).

    Another asks each user for a token (`vault`).
    """
    echo = EchoServer()
    running = RunningStack(
        tmp_path_factory.mktemp("stack"),
        *("--server", f"echo={echo.url}", "--server", f"vault={shlex.join(LEGACY_SERVER)}"),
        *("--user-credential", "vault:TOKEN=Token of the vault"),
    )
    try:
        running.wait_until_healthy()
        yield running
    finally:
        running.stop()
        echo.stop()


@pytest.fixture
def browser_script(tmp_path: Path) -> Path:
    """A program for $BROWSER: returns at once, as browsers do, and clicks through in the background."""
    script = tmp_path / "browser"
    script.write_text(
        f'#!/bin/sh\ncd "{PROJECT}" && "{sys.executable}" -m tests.browser "$1" >"{tmp_path}/browser.log" 2>&1 &\n'
    )
    script.chmod(0o755)
    return script


@pytest.fixture
def client_environment(tmp_path: Path, browser_script: Path) -> dict[str, str]:
    """The environment of a client program that has never run before."""
    return {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "BROWSER": str(browser_script)}
