"""The socket that the bridge listens on: handed over by systemd, or its own; and the limit on open files."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import socket
import stat
from pathlib import Path

from stdio_bridge.io.systemd import HandedOver
from stdio_bridge.options import Options
from stdio_bridge.protocol.errors import UsageError

log = logging.getLogger(__name__)

_SOCKET_MODE = 0o660
_FILES_PER_PROCESS = 4
_OTHER_FILES = 64


class Listener:
    """A listening socket. If `inherited`, systemd keeps it open for the next process."""

    def __init__(self, sock: socket.socket, *, inherited: bool) -> None:
        self.socket = sock
        self.inherited = inherited
        name = sock.getsockname()
        self._path = None if inherited or not isinstance(name, str) else Path(name)
        self._inode = self._path.stat().st_ino if self._path else 0

    @property
    def url(self) -> str:
        """The URL of the MCP endpoint, for the log."""
        name = self.socket.getsockname()
        if not isinstance(name, tuple):
            return f"unix:{name} (/mcp)"
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        return f"http://{host}:{name[1]}/mcp"

    def remove(self) -> None:
        """Remove the path of the bridge's own unix socket, unless another process has replaced it."""
        if self._path is not None:
            with contextlib.suppress(FileNotFoundError):
                if self._path.stat().st_ino == self._inode:
                    self._path.unlink()


def open_listener(options: Options, handed_over: HandedOver) -> Listener:
    """Take the socket that systemd hands over, or listen at the address of the options. Raises UsageError."""
    inherited = handed_over.take_socket()
    if inherited is not None:
        if options.listen is not None:
            raise UsageError("--listen: systemd hands over a socket already: leave it out")
        return Listener(inherited, inherited=True)
    if options.idle_exit:
        raise UsageError("--idle-exit: systemd hands over no socket, and nothing would start the bridge again")
    if options.listen is None:
        raise UsageError("--listen ADDRESS is missing, and systemd hands over no socket")
    if isinstance(options.listen, Path):
        return Listener(_listen_on_path(options.listen), inherited=False)
    host, port = options.listen
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return Listener(socket.create_server((host, port), family=family), inherited=False)
    except OSError as error:
        raise UsageError(f"--listen {host}:{port}: {error.strerror or error}") from error


def _listen_on_path(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        listener.bind(str(path))
        path.chmod(_SOCKET_MODE)
        listener.listen()
    except OSError as error:
        listener.close()
        raise UsageError(f"--listen unix:{path}: {error.strerror or error}") from error
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket without a listener, which a killed bridge leaves behind."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "there is a file that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def make_room(options: Options) -> int:
    """Raise the limit on open files as far as needed. Returns how many connections fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    others = _FILES_PER_PROCESS * (options.max_sessions + options.warm_spares) + _OTHER_FILES
    wanted = options.max_connections + others
    if hard != resource.RLIM_INFINITY and hard < wanted:
        room = max(hard - others, hard // 2)
        log.warning("the limit of %d open files leaves room for %d connections only", hard, room)
        wanted = hard
    else:
        room = options.max_connections
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return room
