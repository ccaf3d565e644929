"""Metrics of calls, by method, tool and outcome. The number of labels is bounded, whatever clients and servers send."""

from __future__ import annotations

from stdio_bridge.io.metrics import Registry
from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.calls import CallOutcome
from stdio_bridge.protocol.jsonrpc import Message
from stdio_bridge.protocol.mcp import METHODS

from .call_records import CallEnd, CallRecord

MAX_TOOLS = 200
MAX_NAME_LENGTH = 128
"""The longest name of a tool that gets a label; MCP allows no longer names."""
OTHER = "other"
"""A method or tool that has no label of its own."""

_NOT_CALLED = frozenset({CallOutcome.DENIED, CallOutcome.OVER_QUOTA})
_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class CallMetrics:
    """Counts the ends of calls.

    A tool gets a label of its own after its first successful call, so that invented names take no memory.
    """

    def __init__(self, registry: Registry) -> None:
        self._calls = registry.counters(
            "mcp_bridge_calls_total", "Requests of clients that have ended", ["method", "tool", "outcome"]
        )
        self._seconds = registry.histograms(
            "mcp_bridge_tool_seconds", "From a call of a tool until its end, if it was not denied", "tool", _BOUNDS
        )
        self._denied = registry.counters("mcp_bridge_denied_total", "Requests that were denied", ["reason"])
        # Prometheus would not see the first denial as an increase if the counter began with it.
        for reason in ("rule", "insufficient_scope", "over_quota"):
            self._denied.add(reason, amount=0)
        self._tools: set[str] = set()

    def begin(self, record: CallRecord, message: Message) -> CallEnd | None:
        """Return the function that counts the end of the call."""
        return self._end

    def _end(self, record: CallRecord) -> None:
        method, outcome = record.method, record.outcome
        if method == "tools/call":
            tool = self._label_of(record.name, outcome)
            if outcome not in _NOT_CALLED:
                self._seconds.observe(tool, record.seconds)
        else:
            tool = ""
            method = method if method in METHODS else OTHER
        self._calls.add(method, tool, str(outcome))
        if outcome in _NOT_CALLED:
            self._denied.add(_reason_of(record))

    def _label_of(self, name: str | None, outcome: CallOutcome | None) -> str:
        if name is not None and name in self._tools:
            return name
        if (
            outcome is not CallOutcome.OK
            or not name
            or len(self._tools) >= MAX_TOOLS
            or len(name) > MAX_NAME_LENGTH
            # Such as surrogates, which UTF-8 cannot encode, and characters that change the direction of text.
            or not name.isprintable()
            or name == OTHER
        ):
            return OTHER
        self._tools.add(name)
        return name


def _reason_of(record: CallRecord) -> str:
    if record.outcome is CallOutcome.OVER_QUOTA:
        return "over_quota"
    return "insufficient_scope" if record.error_code == jsonrpc.SERVER_ERROR else "rule"
