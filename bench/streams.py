"""How many event streams that answer a POST are cut between a bridge and its client, behind the real Traefik.

`python -m bench.streams --busy` measures 10,000 of them beside processes that burn every core; `--without` leaves out
what keeps Traefik from cutting them.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from auth_service.app.traefik.middlewares import WHOLE_REQUESTS
from local.ports import free_port
from tests.e2e.router import Router

from . import report

_CLIENTS = 16
_SERVER = Path(__file__).parent / "echo_server.py"
_HEADERS = {
    "Host": "localhost",
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": "2025-06-18",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print what became of the streams."""
    parser = argparse.ArgumentParser(prog="bench.streams", description=__doc__)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--bytes", type=int, default=200, help="the size of each request")
    parser.add_argument("--busy", action="store_true", help="burn every core meanwhile")
    parser.add_argument("--without", action="store_true", help="let Traefik pass on requests as they come")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, _bridge() as url:
        router = Router(Path(folder), {"backends": [url]}, change=_pass_on if chosen.without else _keep)
        try:
            router.wait_until(lambda: router.get("/mcp").status_code not in {404, 502})
            with _burners(os.cpu_count() or 1 if chosen.busy else 0):
                began = time.monotonic()
                outcomes = _run(router.port, chosen.streams, chosen.bytes)
        finally:
            router.stop()
    print(report.machine_line(report.describe_machine()))
    print(f"{dict(outcomes)} in {time.monotonic() - began:.1f} s")
    return 1 if outcomes["cut"] else 0


def _keep(_routes: dict[str, Any]) -> None:
    """Change nothing."""


def _pass_on(routes: dict[str, Any]) -> None:
    for router in routes["routers"].values():
        router["middlewares"] = [each for each in router["middlewares"] if each != WHOLE_REQUESTS]


@contextlib.contextmanager
def _bridge() -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    bridge = ("-m", "stdio_bridge", "--listen", address, "--no-identity", "--", sys.executable, str(_SERVER))
    process = subprocess.Popen([sys.executable, *bridge], cwd=report.ROOT, stderr=subprocess.DEVNULL)
    try:
        yield f"http://{address}/mcp"
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _burners(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _run(port: int, streams: int, size: int) -> Counter[str]:
    with contextlib.closing(_Client(port)) as client:
        session = client.open_session()
    outcomes: Counter[str] = Counter()
    with ThreadPoolExecutor(_CLIENTS) as pool:
        for each in pool.map(lambda _: _call(port, session, streams // _CLIENTS, size), range(_CLIENTS)):
            outcomes += each
    return outcomes


def _call(port: int, session: str, times: int, size: int) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    client = _Client(port, session)
    for _ in range(times):
        outcome = client.call("x" * size)
        outcomes[outcome] += 1
        if outcome != "whole":
            client.close()
            client = _Client(port, session)
    client.close()
    return outcomes


class _Client:
    def __init__(self, port: int, session: str | None = None) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._calls = 0
        self._headers = _HEADERS if session is None else {**_HEADERS, "Mcp-Session-Id": session}

    def open_session(self) -> str:
        """Return the id of a new session."""
        client = {"name": "bench", "version": "1"}
        params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client}
        self._send({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})
        with self._http.getresponse() as answer:
            answer.read()
            session = answer.headers["Mcp-Session-Id"]
        assert session is not None, "the bridge opened no session"
        return session

    def call(self, text: str) -> str:
        """Return what became of the answer: `whole`, `cut`, or its status if it was no stream."""
        self._calls += 1
        meta = {"progressToken": f"{id(self)}-{self._calls}"}
        params = {"name": "report", "arguments": {"text": text}, "_meta": meta}
        try:
            self._send({"jsonrpc": "2.0", "id": meta["progressToken"], "method": "tools/call", "params": params})
            with self._http.getresponse() as answer:
                events = answer.read()
                if answer.headers["Content-Type"] != "text/event-stream":
                    return f"{answer.status} {answer.headers['Content-Type']}"
        except (OSError, http.client.HTTPException):
            return "cut"
        return "whole" if b'"result"' in events else "cut"

    def _send(self, message: dict[str, Any]) -> None:
        self._http.request("POST", "/mcp", json.dumps(message), self._headers)

    def close(self) -> None:
        self._http.close()


if __name__ == "__main__":
    sys.exit(main())
