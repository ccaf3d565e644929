"""Which session a connection to the proxy belongs to: that of the control group of the process that connected.

With the module, all processes of a session are in one control group, which they cannot leave. Process identifiers would
not do: a session can have many processes, and each of them can exit when it has connected.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
from pathlib import Path

_SO_PEERPIDFD = 77  # Linux 6.5
_CREDENTIALS = struct.Struct("3i")  # struct ucred
_INFO = struct.Struct("=QQ48x")  # struct pidfd_info, as Linux 6.13 began with it: the mask, the control group
_GET_INFO = 3 << 30 | _INFO.size << 16 | 0xFF << 8 | 11  # PIDFD_GET_INFO
_CONTROL_GROUP = 1 << 2
_OF_THE_EXITED = 1 << 3
_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_OWN_CONTROL_GROUP = Path("/proc/self/cgroup")


def find_control_group(client: socket.socket) -> int | None:
    """Return the identifier of the control group of the process that connected, None where it cannot be known.

    It cannot be known of a process that has exited, before Linux 6.15.
    """
    try:
        pidfd = client.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            return None  # it has exited
        return search_control_group(_process_of(client))
    try:
        return ask_for_control_group(pidfd)
    except OSError as error:
        if error.errno == errno.ESRCH:
            return None  # it has exited
        found = search_control_group(_process_of(client))
        # If it has exited, its identifier may be that of another process by now.
        return None if _has_exited(pidfd) else found
    finally:
        os.close(pidfd)


def ask_for_control_group(pidfd: int) -> int | None:
    """Ask the kernel for the control group of a process. Raises OSError before Linux 6.13."""
    mask, control_group = _INFO.unpack(fcntl.ioctl(pidfd, _GET_INFO, _INFO.pack(_CONTROL_GROUP | _OF_THE_EXITED, 0)))
    return control_group if mask & _CONTROL_GROUP else None


def search_control_group(pid: int) -> int | None:
    """Search a process in the control groups of the proxy's own slice, which is that of its server.

    The sandbox shows other users' processes in /proc to nobody, but control groups with the identifiers of their
    processes. The number of a control group's directory is the identifier that the kernel tells.
    """
    try:
        for path in _own_slice().iterdir():
            if _has_process(path, b"%d" % pid):
                return path.stat().st_ino
    except OSError:
        pass  # the one that was found has gone, or this host has no such hierarchy
    return None


def _own_slice() -> Path:
    """Raises OSError where there is none."""
    for line in _OWN_CONTROL_GROUP.read_text().splitlines():
        if line.startswith("0::/"):  # the entry of version 2 (cgroups(7))
            return (_CONTROL_GROUPS / line.removeprefix("0::/")).parent
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def _has_process(control_group: Path, pid: bytes) -> bool:
    try:
        return pid in (control_group / "cgroup.procs").read_bytes().split()
    except OSError:
        return False  # it is a file, or has gone


def _has_exited(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _process_of(client: socket.socket) -> int:
    pid: int
    pid, _, _ = _CREDENTIALS.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid
