"""The little of a 2026-07-28 client that the tests need."""

from __future__ import annotations

import contextlib
import http.client
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.stdio_bridge.running import Bridge

Message = dict[str, Any]

VERSION = "2026-07-28"
PREFIX = "io.modelcontextprotocol/"
ALL: Message = {"elicitation": {}, "sampling": {}, "roots": {}}
LEGACY_SERVER = (sys.executable, str(Path(__file__).with_name("era_server.py")), "legacy")
MODERN_SERVER = (sys.executable, str(Path(__file__).with_name("era_server.py")), "modern")
NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    messages: list[Message]

    @property
    def last(self) -> Message:
        return self.messages[-1]

    @property
    def result(self) -> Message:
        result: Message = self.last["result"]
        return result

    @property
    def error(self) -> Message:
        error: Message = self.last["error"]
        return error

    @property
    def said(self) -> Any:
        """What a tool of the test servers said, which is JSON in a text."""
        return json.loads(self.result["content"][0]["text"])


class ModernClient:
    """Sends requests that are right, but for what a test changes."""

    def __init__(self, bridge: Bridge, capabilities: Message | None = None, **headers: str) -> None:
        self.bridge = bridge
        self.capabilities = {} if capabilities is None else capabilities
        self.headers = headers

    def message(self, method: str, params: Message | None = None, meta: Message | None = None) -> Message:
        own = {PREFIX + "protocolVersion": VERSION, PREFIX + "clientCapabilities": self.capabilities}
        return {
            "jsonrpc": "2.0",
            "id": 7,
            "method": method,
            "params": {**(params or {}), "_meta": own | (meta or {})},
        }

    def headers_for(self, message: Message, **changed: str | None) -> dict[str, str]:
        method = message["method"]
        right = {"Mcp_Method": method, "MCP_Protocol_Version": VERSION}
        if method in NAMED_BY:
            right["Mcp_Name"] = str(message["params"].get(NAMED_BY[method]))
        headers: dict[str, str | None] = {**right, **self.headers, **changed}
        return {name: value for name, value in headers.items() if value is not None}

    def send(self, message: Any, **headers: str | None) -> Answer:
        shape = message if isinstance(message, dict) and "method" in message else {"method": "-", "params": {}}
        status, answered, content = self.bridge.request("POST", message, **self.headers_for(shape, **headers))
        return Answer(status, answered, _messages(content))

    def request(
        self, method: str, params: Message | None = None, meta: Message | None = None, **headers: str | None
    ) -> Answer:
        return self.send(self.message(method, params, meta), **headers)

    def call(self, tool: str, arguments: Message | None = None, meta: Message | None = None, **more: Any) -> Answer:
        headers = {name: more.pop(name) for name in [name for name in more if name[0].isupper()]}
        return self.request("tools/call", {"name": tool, "arguments": arguments or {}, **more}, meta, **headers)

    @contextlib.contextmanager
    def stream(self, method: str, params: Message) -> Iterator[Iterator[Message]]:
        """Yield the messages of a response as they come; leaving disconnects."""
        message = self.message(method, params)
        headers = {name.replace("_", "-"): value for name, value in self.headers_for(message).items()}
        headers |= {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", self.bridge.port, timeout=60)
        connection.request("POST", "/mcp", json.dumps(message).encode(), headers)
        response = connection.getresponse()
        yield (json.loads(line[6:]) for line in response if line.startswith(b"data: {"))
        response.close()
        connection.close()


def _messages(content: bytes) -> list[Message]:
    if content.startswith((b":", b"event:", b"id:")):
        return [json.loads(line[6:]) for line in content.splitlines() if line.startswith(b"data: {")]
    return [json.loads(content)] if content else []
