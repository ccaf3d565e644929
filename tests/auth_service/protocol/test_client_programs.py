"""The manual's page of clients says what `make run` prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from auth_service.protocol.client_programs import CLIENT_PROGRAMS, ClientProgram, describe_clients

PAGE = Path(__file__).parents[3] / "docs/clients.md"
URL = "https://time.mcp.example.com/mcp"


@pytest.mark.parametrize("program", CLIENT_PROGRAMS, ids=lambda program: program.name)
def test_the_page_of_clients_has_the_steps_that_the_local_stack_prints(program: ClientProgram) -> None:
    _, found, rest = PAGE.read_text().partition(f"\n## {program.name}\n")
    assert found, f"docs/clients.md has no section {program.name}"
    section = rest.partition("\n## ")[0]
    heading, *steps = program.describe("time", URL).splitlines()
    assert "```\n" + "\n".join(steps) + "\n```" in section
    assert section.lstrip().startswith("Untested.") is ("untested" in heading)


def test_a_server_without_tls_is_told_to_a_program_that_asks_for_a_word_about_it() -> None:
    assert "--allow-http" in describe_clients("time", "http://localhost:8080/time/mcp")
    assert "--allow-http" not in describe_clients("time", URL)


def test_programs_that_cannot_reach_this_machine_are_left_out_on_it() -> None:
    assert "ChatGPT" in describe_clients("time", URL)
    for host in ("localhost:8080", "127.0.0.1", "[::1]:8080"):
        described = describe_clients("time", f"http://{host}/time/mcp")
        assert "ChatGPT" not in described
        assert "Claude Code" in described
