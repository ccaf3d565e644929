"""The manual's page of clients says what `make run` prints."""

from __future__ import annotations

from pathlib import Path

from local.clients import describe_clients

PAGE = Path(__file__).parents[2] / "docs/clients.md"


def test_the_page_of_clients_has_the_steps_that_the_local_stack_prints() -> None:
    assert describe_clients("time", "https://time.mcp.example.com/mcp") in PAGE.read_text()


def test_a_server_without_tls_is_told_to_a_program_that_asks_for_a_word_about_it() -> None:
    assert "--allow-http" in describe_clients("time", "http://localhost:8080/time/mcp")
    assert "--allow-http" not in describe_clients("time", "https://time.mcp.example.com/mcp")
