"""Metrics of calls: what is counted as what, and that no client and no server makes the page long or unreadable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stdio_bridge.clients.call_metrics import MAX_NAME_LENGTH, MAX_TOOLS, CallMetrics
from stdio_bridge.clients.call_records import CallRecord
from stdio_bridge.http.identity import ANYONE
from stdio_bridge.io.metrics import Registry
from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.calls import CallOutcome
from tests.stdio_bridge.modern_client import ModernClient
from tests.stdio_bridge.running import KEY, Bridge, assertion, rpc


class Metrics:
    """Metrics of calls that end as the test says."""

    def __init__(self) -> None:
        self._registry = Registry()
        self._observer = CallMetrics(self._registry)
        self._now = 0.0

    def call(self, tool: object, outcome: CallOutcome = CallOutcome.OK, *, seconds: float = 0, code: int = 0) -> None:
        self.request("tools/call", {"name": tool}, outcome, seconds=seconds, code=code)

    def request(
        self, method: str, params: object, outcome: CallOutcome = CallOutcome.OK, *, seconds: float = 0, code: int = 0
    ) -> None:
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        record = CallRecord(message, identity=ANYONE, bytes_in=0, traceparent=None, began_at=0, clock=lambda: self._now)
        end = self._observer.begin(record, message)
        assert end is not None
        record.observe(end)
        self._now += seconds
        record.end(outcome, error_code=code)

    def page(self) -> str:
        return self._registry.render().decode()

    def values(self, name: str) -> dict[tuple[str, ...], float]:
        """Return the values of a metric that are not 0, by those of its labels in their order."""
        return {
            tuple(sample.labels.values()): sample.value
            for family in text_string_to_metric_families(self.page())
            for sample in family.samples
            if sample.name == name and sample.value
        }

    def tools(self) -> set[str]:
        return {tool for _, tool, _ in self.values("mcp_bridge_calls_total") if tool}


def test_calls_are_counted_by_method_tool_and_outcome() -> None:
    metrics = Metrics()
    metrics.call("read")
    metrics.call("read", CallOutcome.TOOL_ERROR)
    metrics.call("read", CallOutcome.TIMEOUT)
    metrics.call("read")
    metrics.request("tools/list", {})
    metrics.request("prompts/get", {"name": "summary"}, CallOutcome.ERROR)
    assert metrics.values("mcp_bridge_calls_total") == {
        ("tools/call", "read", "ok"): 2,
        ("tools/call", "read", "tool_error"): 1,
        ("tools/call", "read", "timeout"): 1,
        ("tools/list", "", "ok"): 1,
        ("prompts/get", "", "error"): 1,
    }


def test_a_method_that_mcp_does_not_have_has_no_label_of_its_own() -> None:
    metrics = Metrics()
    for number in range(1000):
        metrics.request(f"invented/{number}", {}, CallOutcome.ERROR)
    assert metrics.values("mcp_bridge_calls_total") == {("other", "", "error"): 1000}


@pytest.mark.parametrize("outcome", [outcome for outcome in CallOutcome if outcome is not CallOutcome.OK])
def test_a_tool_has_a_label_once_a_call_of_it_was_successful(outcome: CallOutcome) -> None:
    metrics = Metrics()
    for number in range(1000):
        metrics.call(f"invented{number}", outcome)
    assert metrics.tools() == {"other"}
    metrics.call("real")
    metrics.call("real", outcome)
    assert metrics.tools() == {"other", "real"}
    assert metrics.values("mcp_bridge_calls_total")[("tools/call", "real", outcome.value)] == 1


def test_only_so_many_tools_have_a_label_and_later_ones_count_as_other() -> None:
    metrics = Metrics()
    for number in range(10_000):
        metrics.call(f"tool{number}", seconds=0.5)
    assert metrics.tools() == {"other", *(f"tool{number}" for number in range(MAX_TOOLS))}
    assert metrics.values("mcp_bridge_calls_total")[("tools/call", "other", "ok")] == 10_000 - MAX_TOOLS
    assert len(metrics.values("mcp_bridge_tool_seconds_count")) == MAX_TOOLS + 1
    metrics.call("tool0")
    assert metrics.values("mcp_bridge_calls_total")[("tools/call", "tool0", "ok")] == 2


@pytest.mark.parametrize(
    "name", ["x" * (MAX_NAME_LENGTH + 1), "two\nlines", "\ud800", "a\u202eb", "\x00", "other", "", None, 7, ["read"]]
)
def test_what_is_no_name_of_a_tool_has_no_label(name: object) -> None:
    metrics = Metrics()
    metrics.call(name)
    assert metrics.tools() == {"other"}


@pytest.mark.parametrize("name", ["x" * MAX_NAME_LENGTH, 'a"} 5', "back\\slash", "naïve ☃", "a b"])
def test_any_other_name_is_written_so_that_prometheus_reads_it(name: str) -> None:
    metrics = Metrics()
    metrics.call(name)
    assert metrics.tools() == {name}
    assert all(line.startswith(("#", "mcp_bridge_")) for line in metrics.page().splitlines())


def test_how_long_a_tool_takes_is_counted_unless_it_was_not_called() -> None:
    metrics = Metrics()
    metrics.call("read", seconds=0.02)
    metrics.call("read", CallOutcome.TIMEOUT, seconds=100)
    metrics.call("read", CallOutcome.DENIED)
    metrics.call("read", CallOutcome.OVER_QUOTA)
    metrics.request("tools/list", {}, seconds=3)
    buckets = metrics.values("mcp_bridge_tool_seconds_bucket")
    assert ("read", "0.01") not in buckets
    assert (buckets["read", "0.025"], buckets["read", "60"], buckets["read", "+Inf"]) == (1, 1, 2)
    assert metrics.values("mcp_bridge_tool_seconds_sum") == {("read",): 100.02}


def test_denials_are_counted_by_reason_from_zero() -> None:
    metrics = Metrics()
    for reason in ("rule", "insufficient_scope", "over_quota"):
        assert f'mcp_bridge_denied_total{{reason="{reason}"}} 0\n' in metrics.page()
    metrics.call("read", CallOutcome.DENIED, code=jsonrpc.INVALID_PARAMS)
    metrics.request("resources/read", {}, CallOutcome.DENIED, code=jsonrpc.SERVER_ERROR)
    metrics.call("read", CallOutcome.OVER_QUOTA)
    metrics.call("read", CallOutcome.OVER_QUOTA)
    metrics.call("read", CallOutcome.ERROR)
    assert metrics.values("mcp_bridge_denied_total") == {("rule",): 1, ("insufficient_scope",): 1, ("over_quota",): 2}


def read(bridge: Bridge, name: str) -> dict[tuple[str, ...], float]:
    page = bridge.request("GET", path="/metrics")[2].decode()
    return {
        tuple(sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name and sample.value
    }


def test_a_bridge_counts_the_calls_of_clients_of_both_eras() -> None:
    with Bridge("--no-identity") as bridge:
        session = bridge.initialize()
        bridge.call(session, "echo")
        bridge.call(session, 'a"} 5\nup 1')
        ModernClient(bridge, None).request("tools/call", {"name": "echo", "arguments": {}})
        bridge.call(session, "crash")
        bridge.request("POST", rpc("invented", {}), Mcp_Session_Id=bridge.initialize())
        assert read(bridge, "mcp_bridge_calls_total") == {
            ("initialize", "", "ok"): 2,
            ("tools/call", "echo", "ok"): 2,
            ("tools/call", "other", "ok"): 1,
            ("tools/call", "other", "server_exit"): 1,
            ("other", "", "error"): 1,
        }
        assert read(bridge, "mcp_bridge_tool_seconds_count") == {("echo",): 2, ("other",): 2}


def test_a_bridge_counts_what_its_rules_deny(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY)
    rules = {"rules": {"write": {"scopes": ["write"]}, "drop": {"deny": True}}}
    options = {"tools": rules, "require-identity": str(tmp_path / "key")}
    (tmp_path / "bridge.json").write_text(json.dumps(options))
    with Bridge("--config", str(tmp_path / "bridge.json")) as bridge:
        more: dict[str, Any] = {"aud": "https://mcp.example.com/time/mcp", "scope": "read", "grantable_scope": "write"}
        headers = {"X_Gateway_Identity": assertion("u", **more)}
        session = bridge.initialize(**headers)
        for tool in ("read", "write", "drop", "drop"):
            bridge.call(session, tool, **headers)
        assert read(bridge, "mcp_bridge_denied_total") == {("insufficient_scope",): 1, ("rule",): 2}
        assert read(bridge, "mcp_bridge_calls_total") == {
            ("initialize", "", "ok"): 1,
            ("tools/call", "read", "ok"): 1,
            ("tools/call", "other", "denied"): 3,
        }
