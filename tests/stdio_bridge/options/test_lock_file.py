"""The lock file as an option, on the command line and in the configuration file."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import jsonschema
import pytest

from stdio_bridge.options import parse_options
from stdio_bridge.options.config_file import make_schema
from stdio_bridge.protocol.errors import UsageError
from stdio_bridge.protocol.tool_lock import render_lock

ENVIRONMENT = {"PATH": os.environ["PATH"]}


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "tools.lock.json"
    path.write_text(render_lock([{"name": "look"}]))
    return path


def test_a_path_and_what_the_file_holds_mean_the_same(lock: Path, tmp_path: Path) -> None:
    config = tmp_path / "bridge.json"
    holding = tmp_path / "holding.json"
    config.write_text(json.dumps({"no-identity": True, "command": ["true"], "tools-lock": str(lock)}))
    held = {"no-identity": True, "command": ["true"], "tools-lock": json.loads(lock.read_text())}
    holding.write_text(json.dumps(held))
    jsonschema.validate(held, make_schema())
    for arguments in (
        ["--no-identity", "--tools-lock", str(lock), "--", "true"],
        ["--config", str(config)],
        ["--config", str(holding)],
    ):
        options = parse_options(arguments, ENVIRONMENT)
        assert options.tools_lock is not None
        assert "look" in options.tools_lock
        assert "other" not in options.tools_lock


def test_without_it_nothing_is_locked() -> None:
    assert parse_options(["--no-identity", "--", "true"], ENVIRONMENT).tools_lock is None


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "cannot be read: No such file or directory"), ("{}", "is not an object of tools and version")],
)
def test_a_file_that_is_unusable_is_named_with_the_option(tmp_path: Path, content: str | None, problem: str) -> None:
    lock, config = tmp_path / "tools.lock.json", tmp_path / "bridge.json"
    if content is not None:
        lock.write_text(content)
    config.write_text(json.dumps({"no-identity": True, "command": ["true"], "tools-lock": str(lock)}))
    with pytest.raises(UsageError, match=re.escape(f"argument --tools-lock: {lock}: {problem}")):
        parse_options(["--no-identity", "--tools-lock", str(lock), "--", "true"], ENVIRONMENT)
    with pytest.raises(UsageError, match=re.escape(f"{config}: tools-lock: {lock}: {problem}")):
        parse_options(["--config", str(config)], ENVIRONMENT)


@pytest.mark.parametrize("value", [None, 1, [], {}, {"tools": {}}, {"version": 2, "tools": {}}])
def test_what_holds_no_lock_is_refused_by_the_name_of_its_member(tmp_path: Path, value: object) -> None:
    config = tmp_path / "bridge.json"
    written = {"no-identity": True, "command": ["true"], "tools-lock": value}
    config.write_text(json.dumps(written))
    with pytest.raises(UsageError, match=re.escape(f"{config}: tools-lock: ")):
        parse_options(["--config", str(config)], ENVIRONMENT)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(written, make_schema())
