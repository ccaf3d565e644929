"""The operator's commands take effect in open streams, and the output of the whole stack holds no secret."""

from __future__ import annotations

import threading
from pathlib import Path

import requests

from auth_service import cli

from .conftest import RunningStack
from .flow import MCP_HEADERS, initialize, log_in, refresh

WAIT_SECONDS = 60


def operate(stack: RunningStack, *arguments: str) -> int:
    folder: Path = stack.state_directory
    settings = ["--settings", str(folder / "settings.json"), "--credentials", str(folder / "credentials")]
    return cli.main([*arguments, *settings])


def test_a_user_whose_access_is_ended_loses_open_streams_too(stack: RunningStack) -> None:
    resource = stack.resource("time")
    tokens = log_in(stack.issuer, resource)
    opened = initialize(resource, tokens.access_token)
    headers = {**MCP_HEADERS, "Authorization": f"Bearer {tokens.access_token}", "Accept": "text/event-stream"}
    headers["Mcp-Session-Id"] = opened.headers["Mcp-Session-Id"]
    with requests.get(resource, headers=headers, stream=True, timeout=WAIT_SECONDS) as stream:
        assert stream.status_code == 200
        ended = threading.Event()

        def read() -> None:
            for _ in stream.iter_lines():
                pass
            ended.set()

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        assert operate(stack, "users", "revoke", "octocat") == 0
        assert ended.wait(WAIT_SECONDS)
        reader.join()
    assert initialize(resource, tokens.access_token).status_code == 401
    assert refresh(stack.issuer, tokens).json()["error"] == "invalid_grant"


def test_nothing_that_the_stack_prints_is_a_token(stack: RunningStack) -> None:
    resource = stack.resource("time")
    tokens = log_in(stack.issuer, resource)
    assert initialize(resource, tokens.access_token).status_code == 200
    renewed = refresh(stack.issuer, tokens).json()
    assert initialize(resource, renewed["access_token"] + "x").status_code == 401
    assert tokens.client_id in stack.output, "it does print what happens"
    for secret in (tokens.access_token, tokens.refresh_token, renewed["access_token"], renewed["refresh_token"]):
        assert secret not in stack.output
        assert secret.rpartition(".")[2] not in stack.output
