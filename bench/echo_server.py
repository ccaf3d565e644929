"""The smallest stdio MCP server: what a bridge costs shows best in front of one that costs nothing."""

from __future__ import annotations

import json
import sys
from typing import Any

_TOOLS = [
    {"name": "echo", "description": "Say it again", "inputSchema": {"type": "object"}},
    {"name": "report", "description": "Make progress, then say it again", "inputSchema": {"type": "object"}},
    {"name": "wait", "description": "Make progress, never end", "inputSchema": {"type": "object"}},
]


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def _call(request: dict[str, Any]) -> None:
    params = request["params"]
    token = params.get("_meta", {}).get("progressToken")
    if params["name"] != "echo" and token is not None:
        _say({"method": "notifications/progress", "params": {"progressToken": token, "progress": 1}})
    if params["name"] != "wait":
        _say({"id": request["id"], "result": {"content": [{"type": "text", "text": params["arguments"]["text"]}]}})


def main() -> None:
    """Serve until stdin ends."""
    for line in sys.stdin:
        request = json.loads(line)
        method = request.get("method")
        if method == "initialize":
            result = {
                "protocolVersion": request["params"]["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "echo", "version": "1"},
            }
            _say({"id": request["id"], "result": result})
        elif method == "tools/call":
            _call(request)
        elif method == "tools/list":
            _say({"id": request["id"], "result": {"tools": _TOOLS}})
        elif method == "ping":
            _say({"id": request["id"], "result": {}})
        elif "id" in request:
            _say({"id": request["id"], "error": {"code": -32601, "message": "unknown method"}})


if __name__ == "__main__":
    main()
