"""The alerts for Prometheus, by `promtool`: each is raised by what it is for, and not by what is near it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_documentation import anchors

PROJECT = Path(__file__).parents[2]
ALERTS = PROJECT / "monitoring/alerts.yaml"
RULES: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
}

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


@dataclass(frozen=True)
class Case:
    """Series, by Prometheus' notation `start+step*count`, and what is raised of them at a minute."""

    series: Mapping[str, str]
    minute: int
    raised: list[Mapping[str, str]] = field(default_factory=list)


def auth(metric: str, /, **labels: str) -> str:
    return series(metric, job="mcp-gateway", part="auth", instance="127.0.0.1:9000", **labels)


def bridge(metric: str, /, **labels: str) -> str:
    return series(metric, job="mcp-gateway", part="bridge", server="time", instance="127.0.0.1:22456", **labels)


def router(metric: str, /, **labels: str) -> str:
    return series(metric, job="mcp-gateway", part="router", instance="127.0.0.1:9099", **labels)


def host(metric: str, /, **labels: str) -> str:
    return series(metric, job="mcp-gateway-host", instance="127.0.0.1:9100", **labels)


def series(metric: str, /, **labels: str) -> str:
    return f"{metric}{{{','.join(f'{label}={json.dumps(value)}' for label, value in labels.items())}}}"


AUTH, ROUTER, HOST = ({"instance": f"127.0.0.1:{port}"} for port in (9000, 9099, 9100))
OF_AUTH = {"job": "mcp-gateway", "part": "auth", **AUTH}
OF_BRIDGE = {"job": "mcp-gateway", "part": "bridge", "server": "time", "instance": "127.0.0.1:22456"}
OF_ROUTER = {"job": "mcp-gateway", "part": "router", **ROUTER}
OF_HOST = {"job": "mcp-gateway-host", **HOST}

CASES: dict[str, list[Case]] = {
    "McpAuthServiceDown": [
        Case({auth("up"): "1 0x10"}, 5, [OF_AUTH]),
        Case({auth("up"): "1 0 0 1x10"}, 5),
        Case({bridge("up"): "0x10", series("up", job="other", part="auth"): "0x10"}, 5),
    ],
    "McpRouterDown": [Case({router("up"): "1 0x10"}, 5, [OF_ROUTER]), Case({auth("up"): "0x10"}, 5)],
    "McpBridgeDown": [Case({bridge("up"): "1 0x10"}, 5, [OF_BRIDGE]), Case({router("up"): "0x10"}, 5)],
    "McpBackendNotReady": [
        Case(
            {
                router("traefik_service_server_up", service="mcp-time@http", url="http://10.0.0.3:22456"): "0x10",
                router(
                    "traefik_service_server_up", service="mcp-time.1.only@http", url="http://10.0.0.3:22456"
                ): "1x10",
            },
            8,
            [{**ROUTER, "url": "http://10.0.0.3:22456"}],
        ),
        Case(
            {
                router("traefik_service_server_up", service="blog@file", url="http://10.0.0.3:80"): "0x10",
                router("traefik_service_server_up", service="mcp.auth-service.ready@http", url="http://a"): "1x10",
            },
            8,
        ),
    ],
    "McpRedisDown": [
        Case({auth("mcp_gateway_redis_up", pid="0"): "1x20", auth("mcp_gateway_redis_up", pid="1"): "0x20"}, 3, [AUTH]),
        Case({auth("mcp_gateway_redis_up", pid="0"): "1x20"}, 3),
    ],
    "McpRedisNotWritable": [
        Case({auth("mcp_gateway_redis_writable", pid="0"): "0x20"}, 3, [AUTH]),
        Case({auth("mcp_gateway_redis_writable", pid="0"): "1x20"}, 3),
    ],
    "McpServerNotAnswering": [
        Case(
            {host("mcp_gateway_server_up", server="time", endpoint="http://a/mcp"): "0x20"},
            12,
            [{**OF_HOST, "server": "time", "endpoint": "http://a/mcp"}],
        ),
        Case({host("mcp_gateway_server_up", server="time", endpoint="http://a/mcp"): "0x8 1x20"}, 12),
    ],
    "McpHealthCheckStale": [
        Case({host("mcp_gateway_health_timestamp_seconds"): "0x100"}, 80, [OF_HOST]),
        Case({host("mcp_gateway_health_timestamp_seconds"): "0x30 1800x60"}, 80),
    ],
    "McpServerCrashes": [
        Case({bridge("mcp_bridge_crashes_total"): "0+1x60"}, 30, [OF_BRIDGE]),
        Case({bridge("mcp_bridge_crashes_total"): "0 1x60"}, 30),
    ],
    "McpCallsFailing": [
        Case(
            {
                bridge("mcp_bridge_calls_total", method="tools/call", tool="a", outcome="ok"): "0+3x60",
                bridge("mcp_bridge_calls_total", method="tools/call", tool="b", outcome="timeout"): "0+1x60",
            },
            40,
            [{"server": "time"}],
        ),
        Case(
            {
                bridge("mcp_bridge_calls_total", method="tools/call", tool="a", outcome="ok"): "0+9x60",
                bridge("mcp_bridge_calls_total", method="tools/call", tool="b", outcome="timeout"): "0+1x60",
                bridge("mcp_bridge_calls_total", method="tools/call", tool="b", outcome="tool_error"): "0+9x60",
                bridge("mcp_bridge_calls_total", method="tools/list", tool="", outcome="error"): "0+9x60",
            },
            40,
        ),
        # Too few to say anything.
        Case({bridge("mcp_bridge_calls_total", method="tools/call", tool="a", outcome="error"): "0x30 1x30"}, 40),
    ],
    "McpCallsDenied": [
        Case(
            {bridge("mcp_bridge_denied_total", reason="rule"): "0x40 0+3x60"},
            60,
            [{"server": "time", "reason": "rule"}],
        ),
        Case({bridge("mcp_bridge_denied_total", reason="rule"): "0+3x1500"}, 1500),
        Case({bridge("mcp_bridge_denied_total", reason="rule"): "0x40 0+1x60"}, 60),
    ],
    "McpCallRecordsLost": [
        Case({bridge("mcp_bridge_lost_call_records_total"): "0x20 1x20"}, 22, [OF_BRIDGE]),
        Case({bridge("mcp_bridge_lost_call_records_total"): "7x40"}, 22),
    ],
    "McpToolsHidden": [
        Case(
            {bridge("mcp_bridge_hidden_tools", reason="changed"): "0 2x10"},
            5,
            [{"server": "time", "reason": "changed"}],
        ),
        Case({bridge("mcp_bridge_hidden_tools", reason="changed"): "0x10"}, 5),
    ],
    "McpLoginsRefused": [
        Case({auth("mcp_gateway_events_total", event="login.refused"): "0+3x60"}, 30, [AUTH]),
        Case({auth("mcp_gateway_events_total", event="login.refused"): "0+1x60"}, 30),
        Case({auth("mcp_gateway_events_total", event="login.accepted"): "0+9x60"}, 30),
    ],
    "McpTokenReplayed": [
        Case(
            {auth("mcp_gateway_events_total", event="token.reused"): "0x20 1x20"},
            22,
            [{**AUTH, "event": "token.reused"}],
        ),
        Case(
            {auth("mcp_gateway_events_total", event="code.replayed"): "0x20 1x20"},
            22,
            [{**AUTH, "event": "code.replayed"}],
        ),
        Case({auth("mcp_gateway_events_total", event="token.refused"): "0+1x40"}, 22),
    ],
    "McpRequestsRefused": [
        Case(
            {auth("mcp_gateway_verify_total", resource="time", outcome="forged"): "0x40 0+10x60"},
            60,
            [{"resource": "time", "outcome": "forged"}],
        ),
        # As many as every day, and what clients cause by themselves.
        Case({auth("mcp_gateway_verify_total", resource="time", outcome="forged"): "0+10x1500"}, 1500),
        Case({auth("mcp_gateway_verify_total", resource="time", outcome="no_token"): "0x40 0+10x60"}, 60),
    ],
    "McpRevocationNoticesLost": [
        Case({auth("mcp_gateway_revocation_notices_total", outcome="undelivered"): "0x20 1x20"}, 22, [AUTH]),
        Case({auth("mcp_gateway_revocation_notices_total", outcome="delivered"): "0x20 1x20"}, 22),
    ],
    "McpErrorsLogged": [
        Case({auth("mcp_gateway_log_messages_total", level="error"): "0x20 1x20"}, 22, [AUTH]),
        Case({auth("mcp_gateway_log_messages_total", level="warning"): "0+1x40"}, 22),
    ],
    "McpCertificateExpires": [
        Case(
            {router("traefik_tls_certs_not_after", cn="mcp.example.com"): f"{6 * 86400}x100"},
            70,
            [{**OF_ROUTER, "cn": "mcp.example.com"}],
        ),
        Case({router("traefik_tls_certs_not_after", cn="mcp.example.com"): f"{9 * 86400}x100"}, 70),
    ],
    "McpUnitFailed": [
        Case(
            {host("node_systemd_unit_state", name="mcp-auth-service.service", state="failed"): "1x10"},
            6,
            [{**OF_HOST, "name": "mcp-auth-service.service", "state": "failed"}],
        ),
        Case(
            {
                host("node_systemd_unit_state", name="mcp-auth-service.service", state="active"): "1x10",
                series("node_systemd_unit_state", job="node", name="blog.service", state="failed"): "1x10",
            },
            6,
        ),
    ],
    "McpDiskFull": [
        Case(
            {
                host("node_filesystem_avail_bytes", mountpoint="/var/lib", fstype="ext4"): "9x30",
                host("node_filesystem_size_bytes", mountpoint="/var/lib", fstype="ext4"): "100x30",
            },
            20,
            [{**OF_HOST, "mountpoint": "/var/lib", "fstype": "ext4"}],
        ),
        Case(
            {
                host("node_filesystem_avail_bytes", mountpoint="/", fstype="ext4"): "20x30",
                host("node_filesystem_size_bytes", mountpoint="/", fstype="ext4"): "100x30",
                host("node_filesystem_avail_bytes", mountpoint="/srv/films", fstype="ext4"): "1x30",
                host("node_filesystem_size_bytes", mountpoint="/srv/films", fstype="ext4"): "100x30",
            },
            20,
        ),
    ],
}


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["promtool", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@needs_promtool
def test_promtool_accepts_the_rules() -> None:
    assert f"{len(RULES)} rules found" in promtool("check", "rules", "--lint-fatal", ALERTS)


def test_each_alert_is_tried_with_what_raises_it_and_with_what_does_not() -> None:
    assert CASES.keys() == RULES.keys()
    for name, cases in CASES.items():
        assert {bool(case.raised) for case in cases} == {True, False}, name


@needs_promtool
@pytest.mark.parametrize("name", sorted(CASES))
def test_an_alert_is_raised_by_what_it_is_for_and_by_nothing_else(name: str, tmp_path: Path) -> None:
    tests = []
    for case in CASES[name]:
        values = [{"series": each, "values": value} for each, value in case.series.items()]
        raised = [{"exp_labels": {**labels, **RULES[name]["labels"]}} for labels in case.raised]
        test = {"eval_time": f"{case.minute}m", "alertname": name, "exp_alerts": raised}
        tests.append({"interval": "1m", "input_series": values, "alert_rule_test": [test]})
    # What is said to people is not compared word by word.
    without_texts = {
        "groups": [
            {"name": "alerts", "rules": [{key: value for key, value in RULES[name].items() if key != "annotations"}]}
        ]
    }
    (tmp_path / "rules.yaml").write_text(json.dumps(without_texts))
    (tmp_path / "tests.yaml").write_text(json.dumps({"rule_files": ["rules.yaml"], "tests": tests}))
    assert "SUCCESS" in promtool("test", "rules", tmp_path / "tests.yaml")


@pytest.mark.parametrize("name", sorted(RULES))
def test_an_alert_says_what_it_is_and_where_to_read_on(name: str) -> None:
    rule = RULES[name]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    annotations = rule["annotations"]
    assert annotations.keys() == {"summary", "description", "runbook"}
    page, anchor = annotations["runbook"].split("#")
    assert anchor == name.lower()
    assert anchor in anchors(PROJECT / page)


@needs_promtool
def test_the_texts_of_an_alert_name_what_raised_it(tmp_path: Path) -> None:
    texts = {
        "summary": "The bridge of time at 127.0.0.1:22456 does not answer",
        "description": "Calls of this server fail, unless it has another bridge.",
        "runbook": "docs/operations.md#mcpbridgedown",
    }
    raised = {"exp_labels": {**OF_BRIDGE, "severity": "critical"}, "exp_annotations": texts}
    test = {"eval_time": "5m", "alertname": "McpBridgeDown", "exp_alerts": [raised]}
    values = [{"series": bridge("up"), "values": "0x10"}]
    document = {
        "rule_files": [str(ALERTS)],
        "tests": [{"interval": "1m", "input_series": values, "alert_rule_test": [test]}],
    }
    (tmp_path / "tests.yaml").write_text(json.dumps(document))
    assert "SUCCESS" in promtool("test", "rules", tmp_path / "tests.yaml")
