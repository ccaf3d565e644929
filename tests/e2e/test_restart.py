"""Grants outlive a restart of all processes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.e2e.conftest import RunningStack
from tests.e2e.flow import Tokens, initialize, log_in, refresh


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_clients_grants_and_keys_survive_a_restart(tmp_path: Path, number: signal.Signals) -> None:
    first = RunningStack(tmp_path)
    try:
        first.wait_until_healthy()
        tokens = log_in(first.issuer, first.resource("time"))
    finally:
        first.stop(number)
    second = RunningStack(tmp_path, port=first.port)
    try:
        second.wait_until_healthy()
        assert initialize(second.resource("time"), tokens.access_token).status_code == 200
        renewed = refresh(second.issuer, tokens)
        assert renewed.status_code == 200, renewed.text
        again = log_in(second.issuer, second.resource("time"), client_id=tokens.client_id)
        assert isinstance(again, Tokens)
    finally:
        second.stop()
