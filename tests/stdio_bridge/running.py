"""A bridge that runs, and the little of an MCP client that the tests need."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self

import psutil
from itsdangerous import URLSafeTimedSerializer

ECHO = (sys.executable, str(Path(__file__).with_name("echo_server.py")))
KEY = "5" * 64
SCRIPTED = (sys.executable, str(Path(__file__).with_name("scripted_server.py")))
ALL_CAPABILITIES: dict[str, Any] = {"elicitation": {}, "sampling": {}, "roots": {}}
ROOT = Path(__file__).parents[2]


class Bridge:
    """A bridge in front of a server, by its HTTP."""

    def __init__(
        self, *options: str, command: tuple[str, ...] = ECHO, program: tuple[str, ...] = ("-m", "stdio_bridge")
    ) -> None:
        """An empty command is for options that say where the server is. `program` is what Python runs."""
        arguments = [sys.executable, *program, "--listen", "127.0.0.1:0", *options]
        if command:
            arguments += ["--", *command]
        self.process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        self._lines: list[str] = []
        self._said = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.port = int(self.wait_for_line(r"serving http://.*:(\d+)/")[1])
        except BaseException:
            self.end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _read(self) -> None:
        """Keep what it logs; one that nobody reads would have to hold back."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._said:
                self._lines.append(line)
                self._said.notify_all()
        with self._said:
            self._lines.append("")
            self._said.notify_all()

    @property
    def lines(self) -> list[str]:
        """What it has logged so far; after `stop` all of it."""
        with self._said:
            return list(self._lines)

    def wait_for_line(self, pattern: str) -> re.Match[str]:
        """Wait until it has logged that, and return the match."""
        seen = 0
        with self._said:
            while True:
                for line in self._lines[seen:]:
                    if found := re.search(pattern, line):
                        return found
                seen = len(self._lines)
                assert self._lines[-1:] != [""], self._lines
                assert self._said.wait(60), self._lines

    def request(
        self, method: str, body: object = None, path: str = "/mcp", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        common = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, body=data, headers=common | given)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content

    def initialize(self, version: str = "2025-06-18", **headers: str) -> str:
        info = {"name": "t", "version": "1"}
        params = {"protocolVersion": version, "capabilities": ALL_CAPABILITIES, "clientInfo": info}
        status, answered, content = self.request("POST", rpc("initialize", params), **headers)
        assert status == 200, content
        return answered["mcp-session-id"]

    def call(self, session: str, tool: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        return self.request("POST", rpc("tools/call", {"name": tool}), Mcp_Session_Id=session, **headers)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self) -> int:
        """Stop it as systemd does, and return its exit status."""
        self.process.terminate()
        status = self.process.wait(60)
        self._stop_reading()
        return status

    def end(self) -> None:
        """Leave no process and no thread, however the test ended; after `stop` there is nothing to do."""
        children = self.children() if self.process.poll() is None else []
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            for process in (psutil.Process(self.process.pid), *children):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self.process.wait(60)
            self._stop_reading()

    def _stop_reading(self) -> None:
        self._reader.join(60)
        assert self.process.stderr is not None
        self.process.stderr.close()


class EventReader:
    """An open event stream, read event by event."""

    def __init__(self, bridge: Bridge, method: str, body: object = None, **headers: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", bridge.port, timeout=60)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        common = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        self._connection.request(method, "/mcp", body=data, headers=common | given)
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200, self._answer.read()
        assert self._answer.headers["content-type"] == "text/event-stream"
        self.last_id: str | None = None

    def next(self) -> Any:
        """Wait for the next event with data, and return it; None at the end of the stream."""
        for line in self._answer:
            if line.startswith(b"id: "):
                self.last_id = line[4:].strip().decode()
            if line.startswith(b"data: {"):
                return json.loads(line[6:])
        self.close()
        return None

    def rest(self) -> list[Any]:
        """Wait for the end, and return all events until there."""
        return list(iter(self.next, None))

    def close(self) -> None:
        """Leave, in the middle of an event if it must be."""
        self._answer.close()
        self._connection.close()


def rpc(method: str, params: dict[str, Any], request_id: int = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


def assertion(user: str, grant: str = "g", *, seconds: int = 60, **more: Any) -> str:
    return signed("identity", {"sub": user, "sid": grant, "exp": time.time() + seconds, **more})


def signed(purpose: str, claims: object) -> str:
    options = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
    serializer = URLSafeTimedSerializer(KEY.encode(), salt=f"mcp-oauth-gateway.{purpose}", signer_kwargs=options)
    return str(serializer.dumps(claims))
