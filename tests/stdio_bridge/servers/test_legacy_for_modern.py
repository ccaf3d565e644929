"""What the bridge keeps of a modern client's call that a legacy server has suspended."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

from stdio_bridge.http.identity import Identity
from stdio_bridge.io.event_loop import Loop
from stdio_bridge.protocol.calls import CallOutcome, CallTimeouts
from stdio_bridge.protocol.errors import HttpError
from stdio_bridge.protocol.jsonrpc import RequestId
from stdio_bridge.protocol.mcp import Versions
from stdio_bridge.protocol.request_metadata import RequestMetadata
from stdio_bridge.protocol.tool_catalog import ToolCatalog
from stdio_bridge.servers.dispatcher import Dispatcher
from stdio_bridge.servers.legacy_for_modern import LegacyForModern
from stdio_bridge.servers.suspended_calls import SuspendedCalls

Message = dict[str, Any]

ASK: Message = {"jsonrpc": "2.0", "id": 9, "method": "elicitation/create", "params": {"message": "Name?"}}


class Params(dict[str, Any]):
    """What a weak reference can name."""


class Caller:
    """A modern client's call, which the test makes."""

    def __init__(self, params: Message) -> None:
        self.identity = Identity(user="u")
        self.message: Message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        self.metadata = RequestMetadata(
            version="2026-07-28", capabilities={"elicitation": {"form": {}}}, client_info={}, log_level=None
        )
        self.parameter_headers: dict[str, str] = {}
        self.on_gone: Callable[[], None] = lambda: None
        self.results: list[Message] = []

    @property
    def id(self) -> RequestId:
        return 1

    @property
    def method(self) -> str:
        return "tools/call"

    def wants(self, message: Message) -> bool:
        return True

    def succeed(self, result: Message) -> None:
        self.results.append(result)

    def finish(self, message: Message, outcome: CallOutcome | None = None) -> None:
        self.results.append(message["result"])

    def send(self, message: Message) -> None: ...

    def end_subscription(self) -> None: ...

    def fail(self, code: int, text: str, data: object = None, *, outcome: CallOutcome | None = None) -> None:
        raise AssertionError(text)

    def refuse(self, error: HttpError) -> None:
        raise error


def test_a_suspended_call_does_not_keep_its_request() -> None:
    sent: list[Message] = []
    loop = Loop(lambda: 0.0)

    def turn() -> None:
        loop.stop()
        loop.turn()

    dispatcher = Dispatcher(
        lambda message: sent.append({"id": message.get("id"), "method": message.get("method")}),
        loop=loop,
        timeouts=CallTimeouts(idle=10, total=25),
        note_dropped=lambda text: None,
        closed=lambda _: None,
    )
    suspended = SuspendedCalls(b"key", seconds=60, clock=lambda: 0.0)
    initialized: Message = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}}
    backend = LegacyForModern(dispatcher, initialized, suspended, ToolCatalog(), versions=Versions())

    params = Params(name="ask", arguments={"large": "x" * 1000})
    kept = weakref.ref(params)
    caller = Caller(params)
    backend.request(caller, caller.message, caller)
    turn()
    (call,) = sent
    dispatcher.receive(ASK)
    turn()
    (asked,) = caller.results
    assert len(suspended) == 1
    assert kept() is params
    del params, caller
    gc.collect()
    assert kept() is None

    answers = {key: {"action": "accept"} for key in asked["inputRequests"]}
    retry = {"name": "ask", "arguments": {"large": "x" * 1000}, "inputResponses": answers}
    again = Caller({**retry, "requestState": asked["requestState"]})
    backend.request(again, again.message, again)
    dispatcher.receive({"jsonrpc": "2.0", "id": call["id"], "result": {"content": []}})
    turn()
    assert [result["content"] for result in again.results] == [[]]
    loop.close()
