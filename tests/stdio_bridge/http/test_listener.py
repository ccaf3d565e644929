"""A unix socket of the bridge's own."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stdio_bridge.running import ECHO, ROOT


@contextlib.contextmanager
def started(path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "stdio_bridge", "--listen", f"unix:{path}", "--no-identity", "--", *ECHO]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def serving(path: Path) -> Iterator[subprocess.Popen[str]]:
    with started(path) as process:
        assert process.stderr is not None
        assert any("serving" in line for line in process.stderr)
        yield process


def stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    assert process.wait(60) == 0


def status_of(path: Path) -> int:
    connection = http.client.HTTPConnection("localhost", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    connection.request("GET", "/healthz")
    status = connection.getresponse().status
    connection.close()
    return status


def test_it_is_served_for_its_owner_and_group_and_removed_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "bridge"
    with serving(path) as process:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert status_of(path) == 200
        stop(process)
    assert not path.exists()


def test_one_that_a_killed_bridge_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "bridge"
    with serving(path) as process:
        process.kill()
    assert path.exists()
    with serving(path) as process:
        assert status_of(path) == 200
        stop(process)


def test_one_that_is_served_by_another_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "bridge"
    with serving(path) as process:
        with started(path) as second:
            _, error = second.communicate(timeout=60)
        assert (second.returncode, error.count("\n")) == (2, 1)
        assert str(path) in error
        assert status_of(path) == 200
        stop(process)


@pytest.mark.parametrize("kind", ["file", "missing folder"])
def test_a_path_that_cannot_be_listened_on_is_one_line_and_left_as_it_is(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "precious" if kind == "file" else tmp_path / "none" / "bridge"
    if kind == "file":
        path.write_text("data")
    with started(path) as process:
        _, error = process.communicate(timeout=60)
    assert (process.returncode, error.count("\n")) == (2, 1)
    assert str(path) in error
    assert os.path.lexists(path) == (kind == "file")
    if kind == "file":
        assert path.read_text() == "data"
