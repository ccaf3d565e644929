"""A bridge that runs, and the little of an MCP client that the tests need."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from itsdangerous import URLSafeTimedSerializer

ECHO = (sys.executable, str(Path(__file__).with_name("echo_server.py")))
KEY = "5" * 64
ROOT = Path(__file__).parents[2]


class Bridge:
    """A bridge in front of a server, by its HTTP."""

    def __init__(self, *options: str, command: tuple[str, ...] = ECHO) -> None:
        arguments = (
            sys.executable,
            "-m",
            "stdio_bridge",
            "--listen",
            "127.0.0.1:0",
            *options,
            "--",
            *command,
        )
        self.process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        assert self.process.stderr is not None
        address = next(line for line in self.process.stderr if "serving" in line)
        found = re.search(r":(\d+)/", address)
        assert found is not None
        self.port = int(found[1])

    def request(
        self, method: str, body: object = None, path: str = "/mcp", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        common = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, body=data, headers=common | given)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content

    def initialize(self, version: str = "2025-06-18", **headers: str) -> str:
        params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        status, answered, content = self.request("POST", rpc("initialize", params), **headers)
        assert status == 200, content
        return answered["mcp-session-id"]

    def call(self, session: str, tool: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        return self.request("POST", rpc("tools/call", {"name": tool}), Mcp_Session_Id=session, **headers)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self) -> int:
        self.process.terminate()
        status = self.process.wait(20)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status


def rpc(method: str, params: dict[str, Any], request_id: int = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


def assertion(user: str, grant: str = "g") -> str:
    return signed("identity", {"sub": user, "sid": grant, "exp": int(time.time()) + 60})


def signed(purpose: str, claims: object) -> str:
    options = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
    serializer = URLSafeTimedSerializer(KEY.encode(), salt=f"mcp-oauth-gateway.{purpose}", signer_kwargs=options)
    return str(serializer.dumps(claims))
