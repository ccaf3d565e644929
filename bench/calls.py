"""The servers that are put behind each bridge, and calls whose answers can be told apart."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Message = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Server:
    """A stdio server, and a call of it: arguments for the n-th one, and the text that its answer must hold.

    `script` tells its processes from a bridge's own.
    """

    name: str
    command: tuple[str, ...]
    script: str
    tool: str
    arguments: Callable[[int], dict[str, str]]
    expected: Callable[[int], str]


def _time_of_day(number: int) -> str:
    return f"{number // 60 % 24:02}:{number % 60:02}"


_ECHO = str(Path(__file__).with_name("echo_server.py"))
_TIME = str(Path(sys.executable).with_name("mcp-server-time"))

ECHO = Server(
    name="echo server",
    command=(sys.executable, _ECHO),
    script=_ECHO,
    tool="echo",
    arguments=lambda number: {"text": f"call {number} of this run"},
    expected=lambda number: f"call {number} of this run",
)
TIME = Server(
    name="mcp-server-time",
    command=(_TIME, "--local-timezone", "UTC"),
    script=_TIME,
    tool="convert_time",
    arguments=lambda number: {
        "source_timezone": "UTC",
        "time": _time_of_day(number),
        "target_timezone": "Asia/Tokyo",
    },
    expected=lambda number: f"T{_time_of_day(number)}:00+00:00",
)

# Shared by all clients of a run, so that an answer which reached the wrong one cannot pass for its own.
_numbers = itertools.count(1)

INITIALIZED: Message = {"jsonrpc": "2.0", "method": "notifications/initialized"}


def initialize(request_id: int = 0) -> Message:
    """Make the first message of a session."""
    client = {"name": "bench", "version": "1"}
    params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client}
    return {"jsonrpc": "2.0", "id": request_id, "method": "initialize", "params": params}


def waiting_call(number: int) -> Message:
    """Make a call of the echo server that opens a stream and is never answered."""
    params = {"name": "wait", "arguments": {}, "_meta": {"progressToken": number}}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


class Calls:
    """One client's calls, each different from all others."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._number = 0

    def next(self) -> bytes:
        """Make the next call."""
        self._number = next(_numbers)
        params = {"name": self._server.tool, "arguments": self._server.arguments(self._number)}
        message = {"jsonrpc": "2.0", "id": self._number, "method": "tools/call", "params": params}
        return json.dumps(message).encode()

    def fault_of(self, message: object) -> str | None:
        """Say what is wrong with the answer to the latest call; None if it is right."""
        if not isinstance(message, dict):
            return "no message"
        if message.get("id") != self._number:
            return "another call's answer"
        if "error" in message:
            return f"an error: {str(message['error'].get('message'))[:80]}"
        content = message["result"].get("content")
        if not content or self._server.expected(self._number) not in content[0]["text"]:
            return "a wrong result"
        return None
