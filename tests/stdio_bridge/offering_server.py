"""A stdio server of one era, `legacy` or `modern`, that lists what its arguments name and answers every request.

Its arguments are ERA and a JSON object: `tools`, `prompts`, `resources`, `templates` are lists of names, which it lists
in pages of two. With `early`, a legacy server tells of changes before it answers `initialize`. Each answer tells what
reached the server so far: the method and the params of requests and notifications.
"""

from __future__ import annotations

import json
import sys
from typing import Any

Message = dict[str, Any]

PREFIX = "io.modelcontextprotocol/"
PAGE = 2
CAPABILITIES = {
    "tools": {"listChanged": True},
    "prompts": {"listChanged": True},
    "resources": {"subscribe": True, "listChanged": True},
    "completions": {},
}
INFO = {"name": "offering", "version": "1"}

ERA, offered = sys.argv[1], json.loads(sys.argv[2])
LISTS = {
    "tools/list": ("tools", [{"name": name, "inputSchema": {"type": "object"}} for name in offered.get("tools", ())]),
    "prompts/list": ("prompts", [{"name": name} for name in offered.get("prompts", ())]),
    "resources/list": ("resources", [{"uri": uri, "name": uri} for uri in offered.get("resources", ())]),
    "resources/templates/list": (
        "resourceTemplates",
        [{"uriTemplate": template, "name": template} for template in offered.get("templates", ())],
    ),
}
reached: list[Message] = []
listeners: dict[Any, Message] = {}


def say(**message: Any) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def page_of(method: str, params: Message) -> Message:
    member, elements = LISTS[method]
    start = int(params.get("cursor", 0))
    following = {"nextCursor": str(start + PAGE)} if start + PAGE < len(elements) else {}
    # As a server writes it that knows nothing of rules: anyone may keep the answer.
    keep = {"ttlMs": 60_000, "cacheScope": "public"} if ERA == "modern" else {}
    return {member: elements[start : start + PAGE], **following, **keep}


def update() -> None:
    """Tell of changes, of everything that anyone could have subscribed to."""
    if ERA == "legacy":
        for uri in offered.get("resources", ()):
            say(method="notifications/resources/updated", params={"uri": uri})
        say(method="notifications/tools/list_changed")
    for subscription, wanted in listeners.items():
        for uri in wanted.get("resourceSubscriptions", ()):
            meta = {PREFIX + "subscriptionId": subscription}
            say(method="notifications/resources/updated", params={"uri": uri, "_meta": meta})


def listen(request: Message) -> None:
    wanted = request["params"]["notifications"]
    listeners[request["id"]] = wanted
    acknowledged = {"_meta": {PREFIX + "subscriptionId": request["id"]}, "notifications": wanted}
    say(method="notifications/subscriptions/acknowledged", params=acknowledged)


def result_of(method: str, params: Message) -> Message:
    if method in LISTS:
        return page_of(method, params)
    if method == "tools/call" and "task" in params:
        return {"task": {"taskId": f"task of {params['name']}", "status": "working"}}
    if method == "tasks/list":
        return {"tasks": [{"taskId": f"task of {name}", "status": "working"} for name in offered.get("tools", ())]}
    if method == "tools/call" and params["name"] == "update":
        update()
    told = json.dumps([{"method": each["method"], "params": each.get("params", {})} for each in reached])
    return {"content": [{"type": "text", "text": told}]}


def handle(request: Message) -> None:
    request_id, method, params = request["id"], request["method"], request.get("params", {})
    if method == ("initialize" if ERA == "modern" else "server/discover"):
        say(id=request_id, error={"code": -32601, "message": "unknown"})
    elif method == "initialize":
        if offered.get("early"):
            update()
        found = {"protocolVersion": params["protocolVersion"], "capabilities": CAPABILITIES, "serverInfo": INFO}
        say(id=request_id, result=found)
    elif method == "server/discover":
        meta = {PREFIX + "serverInfo": INFO}
        say(id=request_id, result={"supportedVersions": ["2026-07-28"], "capabilities": CAPABILITIES, "_meta": meta})
    elif method == "subscriptions/listen":
        listen(request)
    else:
        say(id=request_id, result=result_of(method, params))


for line in sys.stdin:
    received = json.loads(line)
    if "method" in received:
        reached.append(received)
        if "id" in received:
            handle(received)
