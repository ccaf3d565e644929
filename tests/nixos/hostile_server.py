"""`hostile-server`: an MCP server that tries what it is told to, and says how far it got."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TIMEOUT = 2  # seconds
RENDER_TIMEOUT = 120
# The bridge, or the first process of a unit of the server's own.
PARENT = os.getppid()
NAME = b"/mcp-hostile"
KEY = 0x6D6370  # of System V memory
CREATE, FOR_ALL = 0o1000, 0o666
PRIVATE_OF_ALL_KINDS = 0x10000000 | 0x00020000  # CLONE_NEWUSER, CLONE_NEWNS
EMPTY_CAPABILITIES = (0x20080522).to_bytes(4, sys.byteorder) + bytes(4)  # _LINUX_CAPABILITY_VERSION_3, this process
SYSTEM_CALLS = {
    # Name: its numbers on x86-64 and AArch64, and arguments with which it works where it is allowed.
    "io_uring_setup": (425, 425, (8, bytes(120))),
    "userfaultfd": (323, 282, (1,)),
    "kcmp": (312, 272, (os.getpid(), os.getpid(), 0, 0, 0)),
    "keyctl": (250, 219, (0, -3, 1)),
    "pidfd_getfd": (438, 438, (os.pidfd_open(PARENT), 0, 0)),
    "ptrace": (101, 117, (0x4206, PARENT, 0, 0)),  # PTRACE_SEIZE
    "bpf": (321, 280, (0, bytes(120), 120)),
    "mount": (165, 40, (b"none", b"/tmp", b"tmpfs", 0, 0)),
    "capset": (126, 91, (EMPTY_CAPABILITIES, bytes(24))),
    "unshare": (272, 97, (PRIVATE_OF_ALL_KINDS,)),
}

LISTENERS: list[socket.socket] = []

libc = ctypes.CDLL(None, use_errno=True)


def main() -> int:
    """Serve MCP on standard input and output."""
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message:
            answer = {"jsonrpc": "2.0", "id": message["id"], **_answer(message["method"], message.get("params", {}))}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    return 0


def _answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    if method == "initialize":
        server = {"name": "hostile", "version": "0"}
        version = params["protocolVersion"]
        return {"result": {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": server}}
    if method == "tools/list":
        return {"result": {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]}}
    if method == "tools/call":
        return {"result": {"content": [{"type": "text", "text": json.dumps(_try(params))}]}}
    return {"error": {"code": -32601, "message": "no such method"}}


def _try(params: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"done": TOOLS[params["name"]](**params.get("arguments", {}))}
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"failed": str(error)}


def _connect(host: str, port: int) -> str:
    with socket.create_connection((host, port), timeout=TIMEOUT) as connection:
        return str(connection.getpeername())


def _each(attempts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Try several things at once."""
    with ThreadPoolExecutor(len(attempts)) as pool:
        return list(pool.map(_try, attempts))


def _send(host: str, port: int) -> str:
    """Send a datagram, and say what comes back."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(TIMEOUT)
        sender.sendto(b"hello", (host, port))
        return sender.recv(100).decode(errors="replace")


def _connect_unix(path: str) -> str:
    """Connect to a socket in the file system, of whichever kind it is."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
    except OSError:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.connect(path)
    return path


def _flood(path: str, processes: int, count: int) -> int:
    """Let processes open so many connections to a socket each, and keep them: with the beginning of a request."""
    reader, writer = os.pipe()
    for _ in range(processes):
        if not os.fork():
            try:
                for _ in range(count):
                    LISTENERS.append(socket.socket(socket.AF_UNIX))
                    LISTENERS[-1].settimeout(RENDER_TIMEOUT)
                    LISTENERS[-1].connect(path)
                    with contextlib.suppress(OSError):  # it has been closed already
                        LISTENERS[-1].sendall(b"CONNECT ")
                os.write(writer, b".")
                signal.pause()
            finally:
                os._exit(1)
    os.close(writer)
    opened = 0
    while opened < processes and (done := os.read(reader, processes)):
        opened += len(done)
    os.close(reader)
    return opened * count


def _ask_proxy(request: str, path: str | None = None) -> str:
    """Send a request to the egress proxy, by the relay or by its socket; return the first line of the answer."""
    with socket.socket(socket.AF_INET if path is None else socket.AF_UNIX) as connection:
        connection.settimeout(RENDER_TIMEOUT)
        connection.connect(path or ("127.0.0.1", urlsplit(os.environ["HTTPS_PROXY"]).port))
        connection.sendall(f"{request}\r\n\r\n".encode())
        return connection.makefile("rb").readline().decode().strip()


def _open_tunnel(request: str, path: str) -> str:
    """Open a tunnel through the egress proxy, and keep it; return the first line of the answer."""
    LISTENERS.append(socket.socket(socket.AF_UNIX))
    LISTENERS[-1].settimeout(RENDER_TIMEOUT)
    LISTENERS[-1].connect(path)
    LISTENERS[-1].sendall(f"{request}\r\n\r\n".encode())
    answer = LISTENERS[-1].recv(1000)
    while answer and not answer.endswith(b"\r\n\r\n"):
        answer += LISTENERS[-1].recv(1000)
    return answer.partition(b"\r\n")[0].decode()


def _use_tunnel(text: str) -> str:
    """Send something through the tunnel that was opened last; return what comes back."""
    LISTENERS[-1].sendall(text.encode())
    return LISTENERS[-1].recv(1000).decode()


def _fetch(url: str) -> str:
    """Fetch a page as programs do, by the proxy that the environment names; return its status, or why there is none."""
    try:
        with urllib.request.urlopen(url, timeout=RENDER_TIMEOUT) as answer:
            return str(answer.status)
    except urllib.error.URLError as error:
        return str(error.reason)


def _socket(family: int) -> int:
    with socket.socket(family, socket.SOCK_DGRAM) as made:
        return made.family


def _system_call(name: str) -> int:
    intel, arm, arguments = SYSTEM_CALLS[name]
    number = intel if platform.machine() == "x86_64" else arm
    return _checked(libc.syscall(number, *arguments))


def _system_call_of_x32() -> int:
    """Make a netlink socket by the system calls of another architecture that the processor knows."""
    if not (child := os.fork()):
        os._exit(0 if libc.syscall(0x40000000 + 41, 16, 3, 0) >= 0 else 1)
    _, status = os.waitpid(child, 0)
    if status:
        raise OSError(f"it ended with {status}")
    return status


def _checked(returned: int) -> int:
    if returned < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return returned


def _read_parent(part: str) -> str:
    """Read a file of /proc about the process that started this one: of its memory where the heap is."""
    process = Path(f"/proc/{PARENT}")
    if part != "mem":
        return (process / part).read_bytes().hex()
    heap = next(line for line in (process / "maps").read_text().splitlines() if line.endswith("[heap]"))
    with (process / part).open("rb") as memory:
        memory.seek(int(heap.partition("-")[0], 16))
        return memory.read(100).hex()


def _list_descriptors_of_parent() -> list[str]:
    return [str(entry.readlink()) for entry in Path(f"/proc/{PARENT}/fd").iterdir()]


def _list_descriptors() -> list[str]:
    """Return what this process was started with, and what it opened since."""
    return [str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]


def _leave(way: str) -> str:
    """Leave something where another server could find it."""
    match way:
        case "file in /dev/shm":
            shared = Path("/dev/shm/mcp-hostile")
            shared.write_text("left")
            shared.chmod(0o644)
        case "System V memory":
            _checked(libc.shmget(KEY, ctypes.c_size_t(4096), CREATE | FOR_ALL))
        case "POSIX queue":
            _checked(libc.mq_open(NAME, os.O_RDWR | os.O_CREAT, FOR_ALL, None))
    return way


def _find(way: str) -> str:
    """Find what another server has left."""
    match way:
        case "file in /dev/shm":
            return Path("/dev/shm/mcp-hostile").read_text()
        case "System V memory":
            return str(_checked(libc.shmget(KEY, ctypes.c_size_t(4096), 0)))
    return str(_checked(libc.mq_open(NAME, os.O_RDONLY)))


def _in_namespaces(attempts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Try things as root of a user namespace and a mount namespace of its own."""
    reader, writer = os.pipe()
    if not (child := os.fork()):
        user = os.getuid()
        try:
            _system_call("unshare")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            results = [_try(each) for each in attempts]
        except OSError as error:
            results = [{"failed": str(error)}]
        os.write(writer, json.dumps(results).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as results_of_child:
        results = json.load(results_of_child)
    os.waitpid(child, 0)
    return list(results)


def _uncover(path: str) -> list[str]:
    """Take away what is mounted on a directory, and list it."""
    _checked(libc.umount2(path.encode(), 2))  # MNT_DETACH
    return _list(path)


def _log(text: str, times: int) -> int:
    """Write to standard error."""
    return sum(os.write(2, text.encode("latin-1")) for _ in range(times))


def _mapped(host: str, port: int) -> str:
    """Connect to an IPv4 address by IPv6."""
    with socket.socket(socket.AF_INET6) as connection:
        connection.settimeout(TIMEOUT)
        connection.connect((f"::ffff:{host}", port))
        return str(connection.getpeername())


def _resolve(name: str) -> list[str]:
    return sorted({str(entry[4][0]) for entry in socket.getaddrinfo(name, 80, socket.AF_INET)})


def _render(page: str) -> str:
    """Let a browser show a page, and return the document that its scripts have made."""
    # As the catalogue's browser is told: its own sandbox would need what this one takes away.
    command = (os.environ["BROWSER"], "--headless", "--no-sandbox", "--user-data-dir=/tmp/browser", "--dump-dom", page)
    done = subprocess.run(command, capture_output=True, text=True, timeout=RENDER_TIMEOUT, check=False)
    if done.returncode != 0 or not done.stdout:
        raise OSError(f"status {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def _read(path: str) -> str:
    return Path(path).read_text(errors="replace")[:200]


def _list(path: str) -> list[str]:
    return sorted(entry.name for entry in Path(path).iterdir())


def _write(path: str) -> str:
    Path(path).write_text("written\n")
    return path


def _processes() -> list[str]:
    """Return the command line of every process that can be seen."""
    seen = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                seen.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return seen


def _signal(pid: int, number: int = 0) -> int:
    """Send a signal; to -1 it goes to all processes that this one may send it to."""
    os.kill(pid, number)
    return pid


def _limit(pid: int) -> int:
    """Let a process open no more files."""
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, 0))
    return pid


def _escape(seconds: int) -> int:
    """Leave a process whose parent has ended, in a session of its own, that ignores SIGTERM, SIGHUP and SIGINT."""
    ignoring = f"trap '' TERM HUP INT; exec sleep {seconds}"
    return subprocess.run(("setsid", "--fork", "sh", "-c", ignoring), stdin=subprocess.DEVNULL, check=True).returncode


def _fork(children: int) -> int:
    """Start processes that stay."""
    for _ in range(children):
        subprocess.Popen(("sleep", "1000"))
    return children


def _listen(address: str) -> str:
    """Listen where another process might connect: on an abstract socket, or on a port of loopback."""
    if address.startswith("@"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"\0{address[1:]}")
    else:
        listener = socket.socket()
        listener.bind(("127.0.0.1", int(address)))
    listener.listen()
    LISTENERS.append(listener)
    return address


def _connect_abstract(name: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT)
        connection.connect(f"\0{name}")
        return name


def _write_to_all_pipes(text: str) -> list[str]:
    """Write into the pipes of every process that can be seen but this one and its parent."""
    written = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in (os.getpid(), PARENT):
            for descriptor in (0, 1, 2):
                with contextlib.suppress(OSError):
                    (entry / "fd" / str(descriptor)).write_text(text)
                    written.append(f"{entry.name}/{descriptor}")
    if not written:
        raise OSError("no pipe can be opened")
    return written


def _environment() -> dict[str, str]:
    return dict(os.environ)


def _open_files(count: int) -> int:
    """Open as many files as that."""
    with contextlib.ExitStack() as opened:
        for _ in range(count):
            opened.enter_context(open(os.devnull))  # noqa: PTH123 - a device
        return count


def _allocate(mib: int) -> int:
    """Take memory, and write to all of it."""
    return len(b"x" * (mib << 20))


def _size(path: str) -> int:
    """Return how many bytes the file system of a path has in all."""
    found = os.statvfs(path)
    return found.f_frsize * found.f_blocks


TOOLS: dict[str, Callable[..., Any]] = {
    "allocate": _allocate,
    "ask_proxy": _ask_proxy,
    "connect": _connect,
    "connect_abstract": _connect_abstract,
    "connect_unix": _connect_unix,
    "each": _each,
    "environment": _environment,
    "escape": _escape,
    "fetch": _fetch,
    "find": _find,
    "flood": _flood,
    "fork": _fork,
    "in_namespaces": _in_namespaces,
    "leave": _leave,
    "limit": _limit,
    "list": _list,
    "list_descriptors": _list_descriptors,
    "list_descriptors_of_parent": _list_descriptors_of_parent,
    "listen": _listen,
    "log": _log,
    "mapped": _mapped,
    "open_files": _open_files,
    "open_tunnel": _open_tunnel,
    "processes": _processes,
    "read": _read,
    "read_parent": _read_parent,
    "render": _render,
    "resolve": _resolve,
    "send": _send,
    "signal": _signal,
    "size": _size,
    "socket": _socket,
    "system_call": _system_call,
    "system_call_of_x32": _system_call_of_x32,
    "uncover": _uncover,
    "use_tunnel": _use_tunnel,
    "write": _write,
    "write_to_all_pipes": _write_to_all_pipes,
}


if __name__ == "__main__":
    sys.exit(main())
