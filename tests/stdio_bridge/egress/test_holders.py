"""Which session holds a connection, as the kernel says."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stdio_bridge.egress import holders
from stdio_bridge.egress.holders import holder_of


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "proxy"))
        made.listen()
        yield made


def accept(listener: socket.socket, *, by_child: bool) -> object:
    """Connect, maybe by a child that has exited when the connection is accepted, and return its holder."""
    with socket.socket(socket.AF_UNIX) as client:
        if by_child:
            connect = "import socket, sys; socket.socket(fileno=int(sys.argv[1])).connect(sys.argv[2])"
            arguments = (str(client.fileno()), listener.getsockname())
            subprocess.run((sys.executable, "-c", connect, *arguments), pass_fds=[client.fileno()], check=True)
        else:
            client.connect(listener.getsockname())
        accepted, _ = listener.accept()
        with accepted:
            return holder_of(accepted)


def give_pidfds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be a descriptor for a peer's process, also with a kernel that has none."""
    real = socket.socket.getsockopt

    def getsockopt(self: socket.socket, level: int, name: int, *size: int) -> int | bytes:
        return os.open("/dev/null", os.O_RDONLY) if name == holders._SO_PEERPIDFD else real(self, level, name, *size)

    monkeypatch.setattr(socket.socket, "getsockopt", getsockopt)


def test_children_that_connect_and_exit_hold_as_one(listener: socket.socket) -> None:
    assert len({accept(listener, by_child=True) for _ in range(3)}) == 1


def test_a_process_holds_all_its_connections(listener: socket.socket) -> None:
    assert len({accept(listener, by_child=False) for _ in range(5)}) == 1
    assert accept(listener, by_child=False) is not None


def test_control_groups_tell_sessions_apart(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = iter([7, 7, 8])
    give_pidfds(monkeypatch)
    monkeypatch.setattr(fcntl, "ioctl", lambda *_: holders._INFO.pack(holders._CONTROL_GROUP, next(groups)))
    first, second, other = (accept(listener, by_child=False) for _ in range(3))
    assert first == second != other


@pytest.mark.parametrize(("number", "is_known"), [(errno.ENOTTY, True), (errno.EINVAL, True), (errno.ESRCH, False)])
def test_without_control_groups_processes_count_and_exited_ones_are_one(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, number: int, is_known: bool
) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(number, os.strerror(number))

    give_pidfds(monkeypatch)
    monkeypatch.setattr(fcntl, "ioctl", fail)
    assert accept(listener, by_child=False) == (("process", os.getpid()) if is_known else None)
