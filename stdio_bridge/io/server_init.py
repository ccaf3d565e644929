"""The first process of a unit that runs one server process for the bridge.

systemd starts it for each connection to the server's socket (`Accept=yes`). Over that connection it gets the pipes for
the server's standard input, output and error, and variables for its environment. It starts the server, reaps orphaned
processes, carries out the bridge's orders, and reports how the server ended. When it ends, by itself or because the
bridge has closed the connection, systemd ends all other processes of the unit.

Run it as a script: `python3 -I -S server_init.py [--per-user DIRECTORY] [--relay PORT PROGRAM PATH] COMMAND ARG…`. It
imports nothing of the package, nor pathlib, so that it starts fast and takes little memory. With `--per-user`, the
server sees, in place of the directory, the subdirectory of its user; for that the unit gives this process CAP_SYS_ADMIN
in a user namespace of the unit, and the server does not get it. With `--relay`, the program passes on connections from
a port of loopback to the socket at that path.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import signal
import socket
import sys
from collections.abc import Mapping

TERMINATE = b"terminate"
KILL = b"kill"
MAX_ENVIRONMENT_BYTES = 128 * 1024
MAX_REPORT_BYTES = 4096
PIPES = 3
# How a report begins. A text for people follows, or the exit status as os.waitstatus_to_exitcode returns it.
FAILED = "failed "
EXITED = "exited "
# What may follow the exit status: a limit that the unit has reached.
OUT_OF_MEMORY = "memory"
TOO_MANY_TASKS = "tasks"

_CONNECTION_FD = 3  # sd_listen_fds(3)
# linux/prctl.h, linux/sched.h, linux/mount.h, linux/capability.h
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CLONE_NEWNS = 0x00020000
_MS_NOSUID, _MS_NODEV, _MS_BIND = 2, 4, 4096
_CAPABILITY_VERSION_3 = 0x20080522
# linux/landlock.h, and the numbers of its system calls, which are the same on every architecture.
_SCOPE_ABSTRACT_UNIX_SOCKET = 1
_SCOPE_SIGNAL = 2
_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_RESTRICT_SELF = 446
_PER_USER = "--per-user"
_CGROUPS = "/sys/fs/cgroup"
_RELAY = "--relay"
_RELAY_ADDRESS = "127.0.0.1"
# They describe this process, not the server.
_NEVER_PASSED = (
    "CREDENTIALS_DIRECTORY", "INVOCATION_ID", "JOURNAL_STREAM", "LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID",
    "MAINPID", "MANAGERPID", "NOTIFY_SOCKET", "SYSTEMD_EXEC_PID", "WATCHDOG_PID", "WATCHDOG_USEC",
)  # fmt: skip
# Signals that are ignored here, by Python or by systemd. The server gets their default actions.
_RESTORED = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


def pack(environment: Mapping[str, str], user: str) -> bytes:
    """Return the bridge's first message, which it sends with the three descriptors. Raises OSError and ValueError.

    `user` names a user in hexadecimal digits; it is empty if there is none.
    """
    variables = [f"{name}={value}" for name, value in environment.items()]
    if any("\0" in variable for variable in variables):
        raise ValueError("a variable with NUL would be two")
    packed = b"".join(os.fsencode(part) + b"\0" for part in (user, *variables))
    if len(packed) > MAX_ENVIRONMENT_BYTES:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
    return packed


def main(command: list[str]) -> int:
    """Run one server process. Returns this process' own exit status."""
    directory, relay = None, None
    if command[0] == _PER_USER:
        _, directory, *command = command
    if command[0] == _RELAY:
        _, *relay = command[:4]
        command = command[4:]
    # The server runs as the same user. It must not reach the connection, nor manipulate this process.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        return 1
    _enter_landlock_domain(libc)
    os.set_inheritable(_CONNECTION_FD, False)
    with socket.socket(fileno=_CONNECTION_FD) as bridge:
        packed, pipes, _, _ = socket.recv_fds(bridge, MAX_ENVIRONMENT_BYTES, PIPES)
        if len(pipes) != PIPES:
            return 0  # the bridge has closed the connection
        for pipe in pipes:
            os.set_inheritable(pipe, False)
        user, *variables = os.fsdecode(packed).split("\0")
        given = dict(each.split("=", 1) for each in variables if each)
        step = ""
        try:
            if directory is not None:
                step = directory
                _show_only(libc, directory, user)
            if relay is not None:
                step = " ".join(relay)
                _start_relay(*relay)
            step = command[0]
            children = _watch_children()
            server = _spawn(command, given, pipes)
        except OSError as error:
            _report(bridge, f"{FAILED}{step}: {error.strerror}")
            return 0
        for pipe in pipes:
            os.close(pipe)
        status = _wait(bridge, children, server)
        _kill(server)
        if status is not None:
            _report(bridge, " ".join([f"{EXITED}{status}", *find_limits_met(_find_cgroup())]))
    return 0


def _spawn(command: list[str], variables: Mapping[str, str], pipes: list[int]) -> int:
    """Start the server. Raises OSError."""
    own = {name: value for name, value in os.environ.items() if name not in _NEVER_PASSED}
    return os.posix_spawnp(
        command[0],
        command,
        {**own, **variables},
        file_actions=[(os.POSIX_SPAWN_DUP2, pipe, number) for number, pipe in enumerate(pipes)],
        setsid=True,
        setsigmask=(),
        setsigdef=_RESTORED,
    )


def _enter_landlock_domain(libc: ctypes.CDLL) -> None:
    """Isolate this process and its children from other units of the same user, by Landlock. Needs Linux 6.12.

    They can then not signal or trace processes outside the domain, nor read what /proc protects of them, nor connect to
    their abstract sockets, which units in one network namespace share.
    """
    handled = (ctypes.c_uint64 * 3)(0, 0, _SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL)  # files, TCP ports, scopes
    domain = libc.syscall(_LANDLOCK_CREATE_RULESET, handled, ctypes.sizeof(handled), 0)
    if domain >= 0:
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        libc.syscall(_LANDLOCK_RESTRICT_SELF, domain, 0)
        os.close(domain)


def _show_only(libc: ctypes.CDLL, directory: str, user: str) -> None:
    """Mount a user's subdirectory over a directory, an empty one if there is no user, and drop all capabilities.

    To remove the mount, a process in this mount namespace would need a capability, which the server does not have. If
    it may make user namespaces of its own, the kernel locks the mount in them. Raises OSError.
    """
    working_directory = os.getcwd()
    _checked(libc.unshare(_CLONE_NEWNS))
    target = os.fsencode(directory)
    if user:
        if not user.isalnum():  # and so has no slash
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        _enter(f"{directory}/{user}")
        _checked(libc.mount(b".", target, None, _MS_BIND, None))
    else:
        _checked(libc.mount(b"none", target, b"tmpfs", _MS_NOSUID | _MS_NODEV, b"mode=0700"))
    # The mount may cover the working directory.
    os.chdir(working_directory)
    _checked(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    # The header names this process; the sets are empty.
    _checked(libc.capset(_CAPABILITY_VERSION_3.to_bytes(4, sys.byteorder) + bytes(4), bytes(24)))


def _start_relay(port: str, program: str, path: str) -> None:
    """Start the program with a listening socket, handed over as systemd does it: sd_listen_fds(3). Raises OSError.

    It has the same sandbox as the server. Its log goes to /dev/null, as the server decides what is in it.
    """
    with socket.create_server((_RELAY_ADDRESS, int(port))) as listener:
        if os.fork() == 0:
            try:
                os.dup2(listener.fileno(), _CONNECTION_FD)
                nowhere = os.open(os.devnull, os.O_RDWR)
                for fd in (0, 1, 2):
                    os.dup2(nowhere, fd)
                os.execve(program, [program, path], {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())})  # noqa: S606 - systemd-socket-proxyd
            finally:
                os._exit(1)


def _enter(own: str) -> None:
    """Create a directory if it is missing, and change to it. Raises OSError, also for a symbolic link."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(own, mode=0o700)
    entered = os.open(own, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchdir(entered)
    finally:
        os.close(entered)


def _checked(returned: int) -> None:
    if returned != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def find_limits_met(cgroup: str) -> list[str]:
    """Return the limits that the unit has reached, as far as the kernel counts this in its control group."""
    counted = ((OUT_OF_MEMORY, "memory.events", "oom_kill"), (TOO_MANY_TASKS, "pids.events", "max"))
    return [limit for limit, file, event in counted if _count(f"{cgroup}/{file}", event) > 0]


def _count(file: str, event: str) -> int:
    with contextlib.suppress(OSError):
        for line in _read(file).splitlines():
            name, _, count = line.partition(" ")
            if name == event:
                return int(count)
    return 0


def _find_cgroup() -> str:
    # The entry of cgroup2 begins with 0::, and there may be others.
    for line in _read("/proc/self/cgroup").splitlines():
        if line.startswith("0::/"):
            return _CGROUPS + line.removeprefix("0::")
    return _CGROUPS


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _watch_children() -> socket.socket:
    """Return a socket that is readable when a child has ended."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(os.dup(writer.fileno()))
    writer.close()
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # When systemd stops a unit, it sends SIGTERM to all processes. This one must still report how the server ends.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # The kernel sends the first process of a PID namespace no signal that it does not handle.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return reader


def _wait(bridge: socket.socket, children: socket.socket, server: int) -> int | None:
    """Carry out the bridge's orders until the server ends. Returns its status, None if the bridge is gone."""
    poll = select.poll()
    poll.register(bridge, select.POLLIN)
    poll.register(children, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if children.fileno() in ready:
            children.recv(4096)
            status = _reap(server)
            if status is not None:
                return status
        if bridge.fileno() in ready:
            match _receive(bridge):
                case b"":
                    return None
                case orders if orders == TERMINATE:
                    os.killpg(server, signal.SIGTERM)
                case orders if orders == KILL:
                    _kill(server)


def _receive(bridge: socket.socket) -> bytes:
    try:
        return bridge.recv(64)
    except ConnectionResetError:
        return b""


def _reap(server: int) -> int | None:
    """Reap all children that have ended, orphans of the server among them. Returns the server's status."""
    ended = None
    with contextlib.suppress(ChildProcessError):
        while (child := os.waitpid(-1, os.WNOHANG))[0]:
            if child[0] == server:
                ended = os.waitstatus_to_exitcode(child[1])
    return ended


def _kill(server: int) -> None:
    # In a PID namespace of its own it sees only the processes of the unit. Without one, systemd ends those that have
    # left the process group.
    with contextlib.suppress(ProcessLookupError):
        if os.getpid() == 1:
            os.kill(-1, signal.SIGKILL)
        else:
            os.killpg(server, signal.SIGKILL)


def _report(bridge: socket.socket, report: str) -> None:
    with contextlib.suppress(OSError):  # the bridge is gone
        bridge.send(report.encode("utf-8", "replace")[:MAX_REPORT_BYTES])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
