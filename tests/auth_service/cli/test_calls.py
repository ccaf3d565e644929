"""`mcp-gatewayctl calls`, with a stand-in for journalctl that prints a recorded journal."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from auth_service import cli

Record = dict[str, Any]
NOW = datetime.now(UTC)


def stamp(**ago: float) -> str:
    return (NOW - timedelta(**ago)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def record(tool: str, outcome: str = "ok", *, login: str = "octocat", milliseconds: float = 1.5, **more: Any) -> Record:
    return {
        "time": stamp(minutes=5),
        "server": "notes",
        "user": f"github:{login}",
        "login": login,
        "client": "app",
        "grant": "g",
        "method": "tools/call",
        "tool": tool,
        "outcome": outcome,
        "milliseconds": milliseconds,
        "bytes_in": 1,
        "bytes_out": 2,
        **more,
    }


def entry(message: object, unit: str = "mcp-bridge-notes.service") -> str:
    """An entry as `journalctl --output=json` prints it."""
    text = message if isinstance(message, str) else json.dumps(message)
    return json.dumps({"MESSAGE": text, "_SYSTEMD_UNIT": unit, "__REALTIME_TIMESTAMP": "1"})


RECORDS = [
    record("look"),
    record("look", milliseconds=10),
    record("create", "denied", login="hubot"),
    record("look", server="wiki", time=stamp(days=2)),
    {name: value for name, value in record("x").items() if name not in {"tool", "login", "client"}},
]


class Journal:
    """A journalctl that notes how it is called, and prints entries."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.print(*map(entry, RECORDS))
        program = folder / "journalctl"
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{folder}/arguments"\ncat "{folder}/entries"\nexit 0\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def print(self, *lines: str) -> None:
        (self._folder / "entries").write_text("".join(f"{line}\n" for line in lines))

    @property
    def arguments(self) -> list[str]:
        return (self._folder / "arguments").read_text().splitlines()


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return Journal(tmp_path)


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[Record]:
    assert cli.main(["calls", "--json", *arguments]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_calls_of_the_last_day_are_shown(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys) == [RECORDS[0], RECORDS[1], RECORDS[2], RECORDS[4]]
    assert {"--namespace=mcp-gateway-calls", "--identifier=mcp-call", "--output=json", "--all"} <= set(
        journal.arguments
    )
    assert "--follow" not in journal.arguments


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        (["--user", "hubot"], [2]),
        (["--user", "github:hubot"], [2]),
        (["--user", "hubot", "--user", "octocat"], [0, 1, 2]),
        (["--user", "hub"], []),
        (["--tool", "look", "--since", "3d"], [0, 1, 3]),
        (["--server", "wiki", "--since", "3d"], [3]),
        (["--server", "wiki"], []),
        (["--outcome", "denied"], [2]),
        (["--outcome", "denied", "--tool", "look"], []),
        (["--since", "3d", "--until", "1d"], [3]),
        (["--since", stamp(minutes=1)], []),
        (["--since", stamp(minutes=6), "--until", stamp(minutes=4)], [0, 1, 2, 4]),
    ],
)
def test_filters_choose_calls(
    journal: Journal, capsys: pytest.CaptureFixture[str], arguments: list[str], numbers: list[int]
) -> None:
    assert shown(capsys, *arguments) == [RECORDS[number] for number in numbers]


def test_only_what_a_bridge_has_written_is_a_record(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    forged = record("forged")
    journal.print(
        entry(forged, unit="user@1000.service"),
        entry(forged, unit="mcp-server-notes@1.service"),
        json.dumps({"MESSAGE": json.dumps(forged)}),
        entry("Started."),
        entry('{"cut": '),
        entry([1]),
        entry({"time": "yesterday", "server": "s", "method": "m", "outcome": "ok"}),
        json.dumps({"MESSAGE": None, "_SYSTEMD_UNIT": "mcp-bridge-notes.service"}),
        "not JSON",
        entry(record("real"), unit="mcp-bridge-notes-2.service"),
    )
    assert [each["tool"] for each in shown(capsys)] == ["real"]


def test_a_table_has_no_control_character_of_a_client(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    journal.print(entry(record("a\x1b[31m\u202eb\n", client="c\x07")))
    assert cli.main(["calls"]) == 0
    out = capsys.readouterr()
    heading, row = out.out.splitlines()
    assert heading.split()[:3] == ["time", "server", "user"]
    assert r"a\x1b[31m\u202eb\n" in row
    assert r"c\x07" in row
    assert "the calls of this host" in out.err


def test_a_summary_counts_and_measures(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    journal.print(*(entry(record("look", milliseconds=float(number))) for number in range(1, 101)), entry(RECORDS[2]))
    rows = shown(capsys, "--top")
    assert [list(row.values()) for row in rows] == [
        ["notes", "octocat", "look", "ok", 100, 50.0, 95.0],
        ["notes", "hubot", "create", "denied", 1, 1.5, 1.5],
    ]
    assert list(rows[0]) == ["server", "user", "tool", "outcome", "calls", "p50_ms", "p95_ms"]
    assert cli.main(["calls", "--top"]) == 0
    assert "octocat  look    ok       100    50.0    95.0" in capsys.readouterr().out


def test_following_begins_now_unless_a_time_is_given(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "--follow") == []
    assert "--follow" in journal.arguments
    assert len(shown(capsys, "--follow", "--since", "1h")) == 4


@pytest.mark.parametrize(
    "arguments",
    [
        ["--since", "soon"],
        ["--since", "999999d"],
        ["--outcome", "great"],
        ["--follow", "--top"],
        ["--follow", "--until", "1h"],
        ["--file", "/x"],
    ],
)
def test_unusable_input_is_refused(journal: Journal, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert cli.main(["calls", *arguments]) == 2
    assert capsys.readouterr().err


def test_files_are_read_in_the_order_that_they_are_named_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, tool in (("calls.jsonl.1", "old"), ("calls.jsonl", "new")):
        (tmp_path / name).write_text(json.dumps(record(tool)) + "\n" + '{"time": "cut')
    files = ("--file", str(tmp_path / "calls.jsonl.1"), "--file", str(tmp_path / "calls.jsonl"))
    assert [each["tool"] for each in shown(capsys, *files)] == ["old", "new"]


def test_a_file_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text(json.dumps(record("first")) + "\n")
    command = [
        sys.executable,
        "-m",
        "auth_service.cli",
        "calls",
        "--json",
        "--follow",
        "--since",
        "1h",
        "--file",
        str(path),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert json.loads(follower.stdout.readline())["tool"] == "first"
        with path.open("a") as file:
            file.write(json.dumps(record("second")) + "\n")
        assert json.loads(follower.stdout.readline())["tool"] == "second"
        follower.send_signal(2)
        assert follower.wait(60) == 130


def test_without_journalctl_a_file_has_to_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["calls"]) == 1
    assert "--call-records FILE" in capsys.readouterr().err


def test_a_journal_that_cannot_be_read_is_a_failure(
    journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "journalctl").write_text("#!/bin/sh\nexit 1\n")
    assert cli.main(["calls"]) == 1
    assert "journalctl has failed" in capsys.readouterr().err
