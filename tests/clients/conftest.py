"""The local stack for programs that stay logged in: tokens end after seconds, and clients register themselves."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import requests

from auth_service import cli
from tests.e2e.conftest import RunningStack

TOKEN_SECONDS = 5
WAIT_SECONDS = 60


class AgentStack(RunningStack):
    """A stack whose decisions can be read, and whose operator can end access."""

    def events(self, since: int = 0) -> list[dict[str, Any]]:
        """Return the audit events among the lines that were printed from the line `since` on."""
        found = (line.partition("| ")[2] for line in self.lines[since:])
        return [json.loads(text) for text in found if text.startswith('{"event"')]

    def names_of_events(self, since: int) -> list[str]:
        """Return what was decided, in its order."""
        return [event["event"] for event in self.events(since)]

    def revoke(self, user: str) -> None:
        """End all that a user allows."""
        folder = self.state_directory
        arguments = ["--settings", str(folder / "settings.json"), "--credentials", str(folder / "credentials")]
        assert cli.main(["users", "revoke", user, *arguments]) == 0

    def shorten_tokens(self) -> None:
        """Let tokens end soon, and have clients register: where the programs' own documents are needs the internet."""
        file = self.state_directory / "settings.json"
        settings = json.loads(file.read_text())
        settings.setdefault("lifetimes", {})["access_token"] = TOKEN_SECONDS
        settings["client_documents"] = {"enabled": False}
        file.write_text(json.dumps(settings))
        (service,) = (each for each in psutil.Process(self.process.pid).children() if "auth_service" in each.cmdline())
        workers = service.children()
        service.send_signal(signal.SIGHUP)
        _, alive = psutil.wait_procs(workers, timeout=WAIT_SECONDS)
        assert not alive, self.output
        document = requests.get(f"{self.issuer}/.well-known/oauth-authorization-server", timeout=60).json()
        assert not document["client_id_metadata_document_supported"]


@pytest.fixture(scope="session")
def agent_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentStack]:
    """The healthy stack, after its reload."""
    running = AgentStack(tmp_path_factory.mktemp("stack"))
    try:
        running.wait_until_healthy()
        running.shorten_tokens()
        yield running
    finally:
        running.stop()
