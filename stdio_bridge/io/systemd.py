"""Two protocols of systemd: it hands over sockets and files, and programs notify it of their state.

sd_listen_fds(3), sd_notify(3).
"""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import MutableMapping
from typing import BinaryIO

from stdio_bridge.options import DescriptorName
from stdio_bridge.protocol.errors import UsageError

log = logging.getLogger(__name__)

_FIRST_FD = 3


class HandedOver:
    """The descriptors that systemd hands over to this process. Each can be taken once. Raises UsageError."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._descriptors: list[tuple[str, int]] = []
        self._count = environment.get("LISTEN_FDS", "0")
        if environment.get("LISTEN_PID") != str(os.getpid()):
            return
        if not self._count.isdecimal():
            raise UsageError(f"LISTEN_FDS={self._count}: is not a number")
        count = int(self._count)
        # Names are assigned from the end, where those of the files are: a socket has the name of its unit, which may
        # contain colons.
        names = [""] * count + environment.get("LISTEN_FDNAMES", "").split(":")
        for number in range(count):
            fd = _FIRST_FD + number
            try:
                os.set_inheritable(fd, False)  # so that processes which the bridge starts do not get it
            except OSError as error:
                raise UsageError(f"LISTEN_FDS={self._count}: file descriptor {fd} is not open") from error
            self._descriptors.append((names[number - count], fd))

    def take_socket(self) -> socket.socket | None:
        """Return the listening socket, None if systemd hands over nothing. Raises UsageError for several sockets."""
        if not self._descriptors:
            return None
        sockets = [fd for _, fd in self._descriptors if _is_socket(fd)]
        if len(sockets) != 1:
            raise UsageError(
                f"LISTEN_FDS={self._count}: {len(sockets)} of them are sockets, and the bridge serves exactly one"
            )
        return socket.socket(fileno=sockets[0])

    def take_file(self, name: DescriptorName) -> BinaryIO:
        """Return the file of that name. Raises UsageError if there is none."""
        for each in self._descriptors:
            given, fd = each
            if given == name and not _is_socket(fd):
                self._descriptors.remove(each)
                return os.fdopen(fd, "rb")
        raise UsageError(f"fd:{name}: systemd hands over no file of this name: set OpenFile=PATH:{name}")


def _is_socket(fd: int) -> bool:
    return stat.S_ISSOCK(os.fstat(fd).st_mode)


class Notifier:
    """Notifies the service manager of the bridge's state; does nothing without one."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watchdog = environment.get("WATCHDOG_USEC", "")
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_seconds = int(watchdog) / 1e6 if mine and watchdog.isdecimal() else None

    def tell(self, state: str) -> None:
        """Send a state, such as `READY=1`. A failure is logged, and the bridge serves its clients nevertheless."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
                notify.sendto(state.encode(), self._address)
        except OSError as error:
            log.warning("NOTIFY_SOCKET=%s: %s cannot be sent: %s", self._address, state, error.strerror or error)
            if state == "READY=1":
                self._address = ""
