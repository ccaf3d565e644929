"""A stdio server of one era, `legacy` or `modern`, whose tools change when it is told so.

Its arguments are ERA, a JSON list of its tools, which it lists in pages of two, and perhaps `silent`: then it tells of
no change. The tool `become` replaces the tools by its argument `tools`; `seen` tells which messages have reached the
server. It answers calls of tools that it does not list as well.
"""

from __future__ import annotations

import json
import sys
from typing import Any

Message = dict[str, Any]

PREFIX = "io.modelcontextprotocol/"
PAGE = 2
CAPABILITIES = {"tools": {"listChanged": True}}
INFO = {"name": "changing", "version": "1"}

ERA, TOOLS, *MANNER = sys.argv[1:]
tools: list[Any] = json.loads(TOOLS)
seen: list[str] = []
listeners: list[Any] = []


def say(**message: Any) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def tell_of_change() -> None:
    if "silent" in MANNER:
        return
    if ERA == "legacy":
        say(method="notifications/tools/list_changed")
    for subscription in listeners:
        say(method="notifications/tools/list_changed", params={"_meta": {PREFIX + "subscriptionId": subscription}})


def page_of(params: Message) -> Message:
    start = int(params.get("cursor", 0))
    following = {"nextCursor": str(start + PAGE)} if start + PAGE < len(tools) else {}
    return {"tools": tools[start : start + PAGE], **following}


def call(params: Message) -> Message:
    name = params["name"]
    if name == "become":
        tools[:] = params["arguments"]["tools"]
        tell_of_change()
    told = seen if name == "seen" else f"{name} was called"
    return {"content": [{"type": "text", "text": json.dumps(told)}]}


def handle(request: Message) -> None:
    request_id, method, params = request["id"], request["method"], request.get("params", {})
    if method == ("initialize" if ERA == "modern" else "server/discover"):
        say(id=request_id, error={"code": -32601, "message": "unknown"})
    elif method == "initialize":
        found = {"protocolVersion": params["protocolVersion"], "capabilities": CAPABILITIES, "serverInfo": INFO}
        say(id=request_id, result=found)
    elif method == "server/discover":
        meta = {PREFIX + "serverInfo": INFO}
        say(id=request_id, result={"supportedVersions": ["2026-07-28"], "capabilities": CAPABILITIES, "_meta": meta})
    elif method == "subscriptions/listen":
        listeners.append(request_id)
        meta = {PREFIX + "subscriptionId": request_id}
        acknowledged = {"_meta": meta, "notifications": params["notifications"]}
        say(method="notifications/subscriptions/acknowledged", params=acknowledged)
    elif method == "tools/list":
        say(id=request_id, result=page_of(params))
    else:
        say(id=request_id, result=call(params))


for line in sys.stdin:
    received = json.loads(line)
    name = received.get("params", {}).get("name")
    if "method" in received:
        seen.append(f"{received['method']} {name}" if isinstance(name, str) else received["method"])
        if "id" in received:
            handle(received)
