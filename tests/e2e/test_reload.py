"""New settings while everything runs, as clients see them through the real router."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.service.conftest import eventually

from .conftest import RunningStack

NAME = "added"


def is_routed(stack: RunningStack) -> bool:
    return requests.post(f"{stack.issuer}/{NAME}/mcp", json={}, timeout=60).status_code == 401


@pytest.fixture
def added(stack: RunningStack) -> Iterator[dict[str, Any]]:
    """A server that the running gateway is told of, and rid of again."""
    former = (stack.state_directory / "settings.json").read_text()
    document: dict[str, Any] = json.loads(former)
    document["resources"][NAME] = {
        "url": f"{stack.issuer}/{NAME}/mcp",
        "backends": ["http://127.0.0.1:1/mcp"],
        "scopes": {"added-scope": {"description": "New"}},
    }
    assert not is_routed(stack)
    stack.load(json.dumps(document))
    yield document["resources"][NAME]
    stack.load(former)
    eventually(lambda: not is_routed(stack))


def test_a_new_server_is_reached_described_and_in_the_metadata_without_a_restart(
    stack: RunningStack, added: dict[str, Any]
) -> None:
    service = stack.auth_service()
    eventually(lambda: is_routed(stack))
    resource = requests.get(f"{stack.issuer}/.well-known/oauth-protected-resource/{NAME}/mcp", timeout=60)
    assert resource.json()["scopes_supported"] == ["added-scope"]
    server = requests.get(f"{stack.issuer}/.well-known/oauth-authorization-server", timeout=60)
    assert "added-scope" in server.json()["scopes_supported"]
    assert stack.auth_service() == service
