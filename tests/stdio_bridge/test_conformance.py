"""The conformance suite over the bridge, in front of a server of both eras."""

from __future__ import annotations

import pytest

from tests.stdio_bridge.conformance import COMMAND, SCENARIOS, run_suite, suite_command
from tests.stdio_bridge.running import Bridge


# The legacy requirements start a process for each scenario, and the server takes its time to import.
@pytest.mark.timeout(400)
@pytest.mark.parametrize("requirements", SCENARIOS)
def test_nothing_that_is_required_fails(requirements: str) -> None:
    suite_command()  # skips before anything runs
    with Bridge("--no-identity", command=COMMAND) as bridge:
        score = run_suite(f"http://127.0.0.1:{bridge.port}/mcp", requirements, seconds=390)
        assert bridge.stop() == 0
        assert score.failed == []
        assert score.scenarios == SCENARIOS[requirements]
        assert score.status == 0
