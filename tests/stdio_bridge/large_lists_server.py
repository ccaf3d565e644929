"""A stdio server of one era, `legacy` or `modern`, whose list of tools is a burden.

It lists 10,000 tools in one page. The first two have one name, and the third has a schema of a MiB. Each call is
answered with the name of its tool.
"""

from __future__ import annotations

import json
import sys
from typing import Any

Message = dict[str, Any]

COUNT = 10_000
INFO = {"name": "large", "version": "1"}
LARGE = {"type": "object", "properties": {"x": {"type": "string", "description": "x" * (1 << 20)}}}
SMALL = {"type": "object", "properties": {"x": {"type": "string"}}}
TOOLS = [
    {"name": "twice", "description": "first", "inputSchema": SMALL},
    {"name": "twice", "description": "second", "inputSchema": SMALL},
    {"name": "large", "inputSchema": LARGE},
    *({"name": f"tool_{number}", "inputSchema": SMALL} for number in range(3, COUNT)),
]
CAPABILITIES = {"tools": {"listChanged": True}}


def answer_to(method: str, params: Message) -> Message:
    match method:
        case "initialize":
            version = params["protocolVersion"]
            return {"protocolVersion": version, "capabilities": CAPABILITIES, "serverInfo": INFO}
        case "server/discover":
            return {"supportedVersions": ["2026-07-28"], "capabilities": CAPABILITIES}
        case "tools/list":
            return {"tools": TOOLS}
        case _:
            return {"content": [{"type": "text", "text": params.get("name", method)}]}


def main(era: str) -> None:
    for line in sys.stdin:
        request = json.loads(line)
        if "id" not in request or "method" not in request:
            continue
        reply: Message = {"jsonrpc": "2.0", "id": request["id"]}
        if request["method"] == ("initialize" if era == "modern" else "server/discover"):
            reply["error"] = {"code": -32601, "message": "unknown"}
        else:
            reply["result"] = answer_to(request["method"], request.get("params", {}))
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
