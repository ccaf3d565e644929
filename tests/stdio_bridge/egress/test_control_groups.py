"""Which session a connection belongs to, as the kernel says."""

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

from stdio_bridge.egress import control_groups
from stdio_bridge.egress.control_groups import find_control_group, search_control_group

OTHER = 2**31 - 1  # more than the kernel gives any process


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "proxy"))
        made.listen()
        yield made


@pytest.fixture
def own_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the slice of the proxy, whose only process is no client."""
    made = tmp_path / "groups/server.slice"
    (tmp_path / "own").write_text("4:memory:/elsewhere\n0::/server.slice/mcp-egress-x.service\n")
    monkeypatch.setattr(control_groups, "_CONTROL_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(control_groups, "_OWN_CONTROL_GROUP", tmp_path / "own")
    fill(made / "mcp-egress-x.service", OTHER)
    (made / "cgroup.procs").write_text("")
    return made


def fill(group: Path, *pids: int) -> int:
    """Let a control group have these processes, as the kernel shows them; return its identifier."""
    group.mkdir(parents=True, exist_ok=True)
    (group / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    return group.stat().st_ino


def find(listener: socket.socket, *, by_child: bool = False) -> int | None:
    """Connect, maybe by a child that has exited when the connection is accepted, and find the control group."""
    with socket.socket(socket.AF_UNIX) as client:
        if by_child:
            connect = "import socket, sys; socket.socket(fileno=int(sys.argv[1])).connect(sys.argv[2])"
            arguments = (str(client.fileno()), listener.getsockname())
            subprocess.run((sys.executable, "-c", connect, *arguments), pass_fds=[client.fileno()], check=True)
        else:
            client.connect(listener.getsockname())
        accepted, _ = listener.accept()
        with accepted:
            return find_control_group(accepted)


def answer_peer_pidfd(monkeypatch: pytest.MonkeyPatch, error: int | None = None) -> None:
    """Let the kernel give a descriptor of this process for each peer's, or an error."""
    real = socket.socket.getsockopt

    def getsockopt(self: socket.socket, level: int, name: int, *size: int) -> int | bytes:
        if name != control_groups._SO_PEERPIDFD:
            return real(self, level, name, *size)
        if error is not None:
            raise OSError(error, os.strerror(error))
        return os.pidfd_open(os.getpid())

    monkeypatch.setattr(socket.socket, "getsockopt", getsockopt)


def refuse_information(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    """Let the kernel tell nothing about a process by its descriptor."""

    def fail(*_: object) -> bytes:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "ioctl", fail)


def test_children_that_connect_and_exit_belong_to_one_session(listener: socket.socket) -> None:
    assert len({find(listener, by_child=True) for _ in range(3)}) == 1


def test_a_connection_belongs_to_the_control_group_that_the_kernel_names(
    listener: socket.socket, own_slice: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(own_slice / "a", os.getpid())
    groups = iter([7, 7, 8])
    answer_peer_pidfd(monkeypatch)
    monkeypatch.setattr(
        fcntl, "ioctl", lambda *_: control_groups._INFO.pack(control_groups._CONTROL_GROUP, next(groups))
    )
    assert [find(listener) for _ in range(3)] == [7, 7, 8]


def test_a_kernel_that_answers_without_a_control_group_tells_none(
    listener: socket.socket, own_slice: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(own_slice / "a", os.getpid())
    answer_peer_pidfd(monkeypatch)
    monkeypatch.setattr(fcntl, "ioctl", lambda *_: control_groups._INFO.pack(0, 7))
    assert find(listener) is None


# Before Linux 6.13, and where a filter of system calls forbids it.
@pytest.mark.parametrize("error", [errno.ENOTTY, errno.EINVAL, errno.EPERM])
def test_where_the_kernel_names_none_the_control_group_is_searched(
    listener: socket.socket, own_slice: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    fill(own_slice / "a", OTHER, os.getpid() * 10)
    group = fill(own_slice / "b", OTHER, os.getpid())
    answer_peer_pidfd(monkeypatch)
    refuse_information(monkeypatch, error)
    assert find(listener) == group


def test_before_linux_6_5_the_control_group_is_searched(
    listener: socket.socket, own_slice: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = fill(own_slice / "a", os.getpid())
    answer_peer_pidfd(monkeypatch, errno.ENOPROTOOPT)
    assert find(listener) == group


def test_a_process_that_has_exited_belongs_to_no_known_session(
    listener: socket.socket, own_slice: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(own_slice / "a", os.getpid())
    answer_peer_pidfd(monkeypatch, errno.ESRCH)
    assert find(listener) is None
    answer_peer_pidfd(monkeypatch)
    refuse_information(monkeypatch, errno.ESRCH)
    assert find(listener) is None


def test_the_identifier_of_a_process_that_has_exited_is_not_believed(
    listener: socket.socket, own_slice: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may have it by then, and with it another session would have this connection."""
    fill(own_slice / "a", os.getpid())
    ended = subprocess.Popen((sys.executable, "-c", ""))
    descriptor = os.pidfd_open(ended.pid)
    ended.wait()
    real = socket.socket.getsockopt
    monkeypatch.setattr(
        socket.socket,
        "getsockopt",
        lambda self, level, name, *size: (
            descriptor if name == control_groups._SO_PEERPIDFD else real(self, level, name, *size)
        ),
    )
    refuse_information(monkeypatch, errno.ENOTTY)
    assert find(listener) is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_process_outside_the_slice_of_the_server_is_not_found(own_slice: Path) -> None:
    fill(own_slice.with_name("other.slice") / "a", os.getpid())
    assert search_control_group(os.getpid()) is None


@pytest.mark.parametrize("entry", ["4:memory:/elsewhere\n", "0::/gone.slice/mcp-egress-x.service\n"])
def test_without_such_control_groups_none_is_found(own_slice: Path, tmp_path: Path, entry: str) -> None:
    fill(own_slice / "a", os.getpid())
    (tmp_path / "own").write_text(entry)
    assert search_control_group(os.getpid()) is None
    (tmp_path / "own").unlink()
    assert search_control_group(os.getpid()) is None
