"""`hostile-server`: an MCP server that tries what it is told to, and says how far it got."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

TIMEOUT = 2  # seconds


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
    except OSError as error:
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
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        return path


def _resolve(name: str) -> list[str]:
    return sorted({str(entry[4][0]) for entry in socket.getaddrinfo(name, 80, socket.AF_INET)})


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


def _signal(pid: int) -> int:
    os.kill(pid, 0)
    return pid


def _environment() -> dict[str, str]:
    return dict(os.environ)


TOOLS: dict[str, Callable[..., Any]] = {
    "connect": _connect,
    "connect_unix": _connect_unix,
    "each": _each,
    "environment": _environment,
    "list": _list,
    "processes": _processes,
    "read": _read,
    "resolve": _resolve,
    "send": _send,
    "signal": _signal,
    "write": _write,
}


if __name__ == "__main__":
    sys.exit(main())
