"""Unmodified agent programs log in, use a server, refresh their tokens, and log in again after a revocation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from local.ports import free_port
from tests.clients.conftest import AgentStack
from tests.clients.programs import (
    ClaudeCode,
    Codex,
    Fastmcp,
    GeminiCli,
    Home,
    Inspector,
    LangChain,
    Mcporter,
    McpRemote,
    Opencode,
    Program,
)

MAX_RUNS = 20
"""Runs of a program until its token has ended: each takes a good part of the token's life."""

PROGRAMS: dict[str, Callable[[], Program]] = {
    ClaudeCode.name: ClaudeCode,
    Codex.name: Codex,
    GeminiCli.name: GeminiCli,
    Opencode.name: lambda: Opencode(free_port()),
    Mcporter.name: Mcporter,
    McpRemote.name: McpRemote,
    Inspector.name: Inspector,
    Fastmcp.name: Fastmcp,
    LangChain.name: LangChain,
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", PROGRAMS)
def test_an_agent_program_logs_in_refreshes_and_comes_back_after_a_revocation(
    name: str, agent_stack: AgentStack, tmp_path: Path
) -> None:
    program, home, url = PROGRAMS[name](), Home(tmp_path), agent_stack.resource("time")
    program.add(home, url)

    begun = len(agent_stack.lines)
    told = program.log_in(home, url)
    used = program.use(home, url)
    assert program.works(used), f"{told}\n{used}\n{home.browser_log}\n{agent_stack.events(begun)}"
    assert {"client.registered", "consent.given", "login.accepted"} <= set(agent_stack.names_of_events(begun))

    if program.refreshes:
        for _ in range(MAX_RUNS):
            if "token.refreshed" in agent_stack.names_of_events(begun):
                break
            used = program.use(home, url)
            assert program.works(used), used
        assert "token.refreshed" in agent_stack.names_of_events(begun), agent_stack.events(begun)
        assert agent_stack.names_of_events(begun).count("login.accepted") == 1, "refreshing needs no person"

    agent_stack.revoke("octocat")
    begun = len(agent_stack.lines)
    told = program.log_in(home, url)
    used = program.use(home, url)
    assert program.works(used), f"{told}\n{used}\n{home.browser_log}\n{agent_stack.events(begun)}"
    assert "login.accepted" in agent_stack.names_of_events(begun)
