"""`mcp-gatewayctl doctor`, in front of a whole gateway."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from auth_service import cli

from .conftest import RunningStack


def test_a_healthy_gateway_has_no_problem(stack: RunningStack, capsys: pytest.CaptureFixture[str]) -> None:
    folder: Path = stack.state_directory
    options = ["--settings", str(folder / "settings.json"), "--credentials", str(folder / "credentials"), "--json"]
    status = cli.main(["doctor", *options])
    found = json.loads(capsys.readouterr().out)
    # The echo server tells of requests, and speaks no MCP.
    failure = [finding for finding in found if finding["status"] != "ok" and not finding["check"].endswith(" echo")]
    assert failure == []
    assert status == int(any(finding["status"] == "problem" for finding in found))
    checks = {finding["check"] for finding in found}
    assert {"redis", "identity provider", "service", "router", "signing keys", "internal endpoints"} <= checks
    assert {"challenge time", "metadata time", "request time", "bridge time"} <= checks
    assert cli.main(["grants", "list", *options]) == 0
    assert "gateway:doctor" not in capsys.readouterr().out
