"""Which session holds a connection to the proxy: the control group of the process that connected."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Hashable

_SO_PEERPIDFD = 77  # Linux 6.5
_CREDENTIALS = struct.Struct("3i")  # struct ucred
_INFO = struct.Struct("=QQ48x")  # struct pidfd_info, as Linux 6.13 began with it: the mask, the control group
_GET_INFO = 3 << 30 | _INFO.size << 16 | 0xFF << 8 | 11  # PIDFD_GET_INFO
_CONTROL_GROUP = 1 << 2
_OF_THE_EXITED = 1 << 3


def holder_of(client: socket.socket) -> Hashable:
    """Return what the connections of one session have in common.

    With the module, all processes of a session are in one control group, which they cannot leave. A process identifier
    would not do: a session could connect by many processes, which need not live on. Where the kernel names no control
    group it is what tells connections apart, and those of processes that have exited count as one session's.
    """
    try:
        number = client.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        return _process_of(client) if error.errno == errno.ENOPROTOOPT else None
    try:
        info = fcntl.ioctl(number, _GET_INFO, _INFO.pack(_CONTROL_GROUP | _OF_THE_EXITED, 0))
    except OSError as error:
        return None if error.errno == errno.ESRCH else _process_of(client)
    finally:
        os.close(number)
    mask, control_group = _INFO.unpack(info)
    return ("control group", control_group) if mask & _CONTROL_GROUP else None


def _process_of(client: socket.socket) -> Hashable:
    pid, _, _ = _CREDENTIALS.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return ("process", pid)
