"""A legacy stdio server of the standard library alone: its tools do what the tests need a server to do."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def say(**message: Any) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def call(name: str, request: dict[str, Any]) -> None:
    if name == "crash":
        sys.stderr.write("the tool broke\n")
        sys.stderr.flush()
        os._exit(3)
    if name == "noise":
        sys.stdout.write("not json\n" + "\n")
        sys.stderr.write("x" * 1_000_000 + "\n")
    if name in {"log", "log and hang"}:
        say(method="notifications/message", params={"level": "info", "data": "working"})
    if name not in {"never", "log and hang"}:
        content = [{"type": "text", "text": str(os.getpid())}]
        say(id=request["id"], result={"content": content, **({"isError": True} if name == "fail" else {})})


for line in sys.stdin:
    request = json.loads(line)
    if request.get("method") == "initialize":
        version = request["params"]["protocolVersion"]
        info = {"name": "echo", "version": "1"}
        say(id=request["id"], result={"protocolVersion": version, "capabilities": {}, "serverInfo": info})
    elif request.get("method") == "tools/call":
        call(request["params"]["name"], request)
    elif "id" in request:
        say(id=request["id"], error={"code": -32601, "message": "unknown"})
