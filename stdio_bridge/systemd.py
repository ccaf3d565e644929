"""systemd's two small protocols: sockets handed over, and telling of readiness. sd_listen_fds(3), sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping

from .errors import UsageError

log = logging.getLogger(__name__)

_FIRST_FD = 3


def take_socket(environment: MutableMapping[str, str]) -> socket.socket | None:
    """Return the listening socket that systemd hands over, if it does. Raises UsageError on several."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = environment.get("LISTEN_FDS", "0")
    if count != "1":
        raise UsageError(f"LISTEN_FDS={count}: the bridge serves exactly one socket")
    os.set_inheritable(_FIRST_FD, False)
    try:
        return socket.socket(fileno=_FIRST_FD)
    except OSError as error:
        raise UsageError(f"the file descriptor handed over is no socket: {error.strerror}") from error


class Notifier:
    """Tells the service manager how it stands; does nothing where there is none."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watchdog = environment.get("WATCHDOG_USEC", "")
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_seconds = int(watchdog) / 1e6 if mine and watchdog.isdecimal() else None

    def tell(self, state: str) -> None:
        """Send a state, such as `READY=1`. Where nobody listens it is left, and clients are served all the same."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
                notify.sendto(state.encode(), self._address)
        except OSError as error:
            log.warning("NOTIFY_SOCKET=%s: %s cannot be told: %s", self._address, state, error.strerror or error)
            if state == "READY=1":
                self._address = ""
