"""A legacy stdio server whose one tool does what its caller wrote down: each call brings a list of steps.

- `{"notify": METHOD, "params": {…}}` sends a notification.
- `{"progress": N}` reports progress under the call's own token.
- `{"ask": METHOD, "params": {…}}` sends a request and goes on when it is answered.
- `{"say": {…}}` writes a message as it is, and goes on.
- `{"wait": NAME}` goes on when another call has done `{"release": NAME}` or a notification of that name has come, or is
  given up when it is cancelled.
- `{"flood": COUNT, "bytes": N}` reports progress that often, each time with that many bytes of text.

`tools/list` answers with the `tools` of its own params, or else of those of `initialize`.

The answer's text is the JSON of what the steps brought: the answers to what was asked. `{"heard": true}` adds the
notifications that have arrived so far.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from typing import Any

Message = dict[str, Any]

asked: dict[int, Iterator[None]] = {}
answers: dict[int, Message] = {}
waiting: dict[str, list[Iterator[None]]] = {}
running: dict[object, Iterator[None]] = {}
heard: list[Message] = []
tools: list[Message] = []
ids = itertools.count(100)


def say(**message: Any) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def steps_of(request: Message) -> Iterator[None]:
    """Do the steps; yields where the call has to wait, after it has said to whom it listens."""
    params = request["params"]
    token = params.get("_meta", {}).get("progressToken")
    brought: list[object] = []
    me = running[request["id"]]
    for step in params["arguments"]["steps"]:
        if "notify" in step:
            say(method=step["notify"], params=step.get("params", {}))
        elif "progress" in step:
            say(method="notifications/progress", params={"progressToken": token, "progress": step["progress"]})
        elif "flood" in step:
            for number in range(step["flood"]):
                text = "x" * step["bytes"]
                report = {"progressToken": token, "progress": number, "message": text}
                say(method="notifications/progress", params=report)
        elif "ask" in step:
            number = next(ids)
            asked[number] = me
            say(id=number, method=step["ask"], params=step.get("params", {}))
            yield
            brought.append(answers.pop(number))
        elif "say" in step:
            say(**step["say"])
        elif "wait" in step:
            waiting.setdefault(step["wait"], []).append(me)
            yield
        elif "release" in step:
            release(step["release"])
        elif "heard" in step:
            brought.append(heard)
    say(id=request["id"], result={"content": [{"type": "text", "text": json.dumps(brought)}]})
    running.pop(request["id"], None)


def go_on(call: Iterator[None]) -> None:
    if call in running.values():
        next(call, None)


def release(name: str) -> None:
    for call in waiting.pop(name, []):
        go_on(call)


def main() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        method = message.get("method")
        if method is None:
            answers[message["id"]] = {name: message[name] for name in ("result", "error") if name in message}
            if message["id"] in asked:
                go_on(asked.pop(message["id"]))
        elif "id" not in message:
            heard.append({name: message[name] for name in ("method", "params") if name in message})
            if method == "notifications/cancelled":
                running.pop(message["params"]["requestId"], None)
            release(method)
        elif method == "initialize":
            result = {
                "protocolVersion": message["params"]["protocolVersion"],
                "capabilities": {"tools": {"listChanged": True}, "logging": {}},
                "serverInfo": {"name": "scripted", "version": "1"},
            }
            say(id=message["id"], result=result)
            tools[:] = message["params"].get("tools", [])
        elif method == "tools/list":
            say(id=message["id"], result={"tools": message.get("params", {}).get("tools", tools)})
        elif method == "tools/call":
            call = steps_of(message)
            running[message["id"]] = call
            go_on(call)
        else:
            say(id=message["id"], result={})


if __name__ == "__main__":
    main()
