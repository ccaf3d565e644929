"""A stdio server of one era only, `legacy` or `modern`, of the standard library alone."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable
from typing import Any

Message = dict[str, Any]

PREFIX = "io.modelcontextprotocol/"
FORM = {
    "method": "elicitation/create",
    "params": {"message": "Name?", "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}}},
}
SAMPLE = {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}}
ROOTS: Message = {"method": "roots/list", "params": {}}
ASKING = {"ask": [FORM], "ask twice": [FORM, FORM], "ask all": [FORM, SAMPLE, ROOTS], "sample": [SAMPLE]}
SCHEMA = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
TOOLS = [
    *({"name": name, "inputSchema": {"type": "object"}} for name in ASKING),
    {"name": "mirrored", "inputSchema": SCHEMA},
]
CAPABILITIES = {
    "tools": {"listChanged": True},
    "prompts": {},
    "resources": {"subscribe": True},
    "logging": {},
    "tasks": {},
}
INFO = {"name": "era", "version": "7"}

initialized_with: Message = {}
seen: list[str] = []
level: list[str] = []
called: list[str] = []
watched: dict[str, Any] = {}
waiting: dict[str, Callable[[Message], None]] = {}
listeners: dict[Any, Message] = {}


def say(**message: Any) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def answer(request: Message, result: Message) -> None:
    say(id=request["id"], result=result)


def text(request: Message, value: object) -> None:
    members = {"resultType": "complete"} if ERA == "modern" else {}
    answer(request, {"content": [{"type": "text", "text": json.dumps(value)}], **members})


def refuse(request: Message, code: int, message: str, data: object = None) -> None:
    say(id=request["id"], error={"code": code, "message": message, **({} if data is None else {"data": data})})


def change() -> None:
    if ERA == "legacy":
        say(method="notifications/tools/list_changed")
        for uri in watched:
            say(method="notifications/resources/updated", params={"uri": uri})
    for subscription, wanted in listeners.items():
        meta = {PREFIX + "subscriptionId": subscription}
        if wanted.get("toolsListChanged"):
            say(method="notifications/tools/list_changed", params={"_meta": meta})
        for uri in wanted.get("resourceSubscriptions", ()):
            say(method="notifications/resources/updated", params={"uri": uri, "_meta": meta})


def ask_in_turn(request: Message, questions: list[Message]) -> None:
    """Legacy: all questions of a round at once, each a request; the answers are the tool's result."""
    answers: list[Any] = []
    rounds = [questions] if request["params"]["name"] == "ask all" else [[question] for question in questions]

    def next_round() -> None:
        if not rounds:
            text(request, answers)
            return
        asked = rounds.pop(0)
        missing = [len(asked)]
        for number, question in enumerate(asked):
            key = f"{request['id']}-{len(rounds)}-{number}"

            def got(message: Message) -> None:
                answers.append(message.get("result", message.get("error")))
                missing[0] -= 1
                if not missing[0]:
                    next_round()

            waiting[key] = got
            say(id=key, **question)

    next_round()


def ask_by_result(request: Message, questions: list[Message]) -> None:
    """Modern: the answers so far travel in `requestState`."""
    params = request["params"]
    answers = json.loads(params.get("requestState", "[]"))
    together = params["name"] == "ask all"
    answers += params.get("inputResponses", {}).values()
    if len(answers) >= len(questions):
        text(request, answers)
        return
    asked = questions if together else [questions[len(answers)]]
    requests = {f"q{number}": question for number, question in enumerate(asked)}
    state = json.dumps(answers)
    answer(request, {"resultType": "input_required", "inputRequests": requests, "requestState": state})


def call(request: Message) -> None:
    params = request["params"]
    name, meta = params["name"], params.get("_meta", {})
    called.append(name)
    if name in ASKING:
        (ask_in_turn if ERA == "legacy" else ask_by_result)(request, ASKING[name])
    elif name == "log":
        for said in ("debug", "warning"):
            say(method="notifications/message", params={"level": said, "data": said})
        text(request, level)
    elif name == "progress":
        say(method="notifications/progress", params={"progressToken": meta["progressToken"], "progress": 1})
        text(request, "done")
    elif name == "change":
        change()
        text(request, "changed")
    elif name == "reserved":
        refuse(request, -32020, "a code of the server's own")
    elif name == "link":
        if "seen" in seen:
            text(request, "linked")
        else:
            seen.append("seen")
            wanted = {"mode": "url", "elicitationId": "e1", "url": "https://example.com/", "message": "Visit"}
            refuse(request, -32042, "visit first", {"elicitations": [wanted]})
    elif name == "die":
        os._exit(4)
    elif name == "betray":
        sys.stdout.write(f"stdout: {os.environ['TOKEN']}\n")
        sys.stdout.flush()
        sys.stderr.write(f"stderr: {os.environ['TOKEN']}\n")
        sys.stderr.flush()
        os._exit(4)
    elif name != "hang":
        facts: Message = {
            "seen": seen,
            "initialize": initialized_with,
            "params": params,
            "pid": os.getpid(),
            "token": os.environ.get("TOKEN"),
            "core": resource.getrlimit(resource.RLIMIT_CORE),
            "calls": len(called),
        }
        text(request, facts.get(name, "ok"))


def handle_both(request: Message) -> bool:
    method = request["method"]
    if method == "tools/call":
        call(request)
    elif method == "tools/list":
        answer(request, {"tools": TOOLS})
    elif method == "resources/read":
        refuse(request, -32002 if ERA == "legacy" else -32602, "no such resource")
    elif method == "prompts/get":
        ask_in_turn(request, [FORM])
    else:
        return False
    return True


def legacy(request: Message) -> None:
    method, params = request["method"], request.get("params", {})
    if method == "initialize":
        initialized_with.update(params)
        result = {"protocolVersion": params["protocolVersion"], "capabilities": CAPABILITIES, "serverInfo": INFO}
        answer(request, {**result, "instructions": "be kind"})
    elif method in {"logging/setLevel", "resources/subscribe", "resources/unsubscribe"}:
        if method == "logging/setLevel":
            level.append(params["level"])
        elif method == "resources/subscribe":
            watched[params["uri"]] = True
        else:
            watched.pop(params["uri"], None)
        answer(request, {})
    elif not handle_both(request):
        refuse(request, -32601, f"unknown: {method}")


def modern(request: Message) -> None:
    method, params = request["method"], request.get("params", {})
    if PREFIX + "protocolVersion" not in params.get("_meta", {}):
        refuse(request, -32602, "this server speaks 2026-07-28 only")
    elif method == "server/discover":
        meta = {PREFIX + "serverInfo": INFO}
        found = {"supportedVersions": ["2026-07-28"], "capabilities": CAPABILITIES, "_meta": meta}
        answer(request, {"resultType": "complete", **found, "ttlMs": 5, "cacheScope": "public"})
    elif method == "subscriptions/listen":
        listeners[request["id"]] = params["notifications"]
        meta = {PREFIX + "subscriptionId": request["id"]}
        acknowledged = {"_meta": meta, "notifications": params["notifications"]}
        say(method="notifications/subscriptions/acknowledged", params=acknowledged)
    elif not handle_both(request):
        refuse(request, -32601, f"unknown: {method}")


ERA = sys.argv[1]

for line in sys.stdin:
    received = json.loads(line)
    if "method" not in received:
        waiting.pop(received["id"])(received)
    elif "id" in received:
        (legacy if ERA == "legacy" else modern)(received)
    else:
        seen.append(received["method"])
        listeners.pop(received.get("params", {}).get("requestId"), None)
