"""The audit log: what a line can hold, and how many lines an attacker can cause."""

from __future__ import annotations

import inspect
import json
import logging
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import time_machine

from auth_service.ops import audit
from auth_service.ops.audit import MAX_VALUE_LENGTH, REFUSALS_AT_ONCE, Event, RefusalBound
from auth_service.ops.logs import LineFormatter

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs/audit.md"
HOSTILE = 'x"\n{"event":"grant.revoked"}\r\x1b[2J\x00\x85\u2028\u202e\ud800é'


def log_record(message: object, *arguments: object, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("auth_service.test", level, __file__, 1, message, arguments, None)


def test_every_event_and_member_is_documented_and_nothing_else() -> None:
    table_rows = [line.split("|")[1] for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")]
    documented = set(re.findall(r"`([a-z.]+)`", " ".join(table_rows)))
    members = set(inspect.signature(audit.record).parameters) - {"of"} | {"time", "suppressed"}
    assert documented == {str(event) for event in Event} | members


def test_no_value_breaks_out_of_its_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        audit.record(Event.LOGIN_REFUSED, name=HOSTILE, reason="x" * 10_000)
    line = LineFormatter().format(caplog.records[0])
    assert re.fullmatch(r"[ -~]+", line)
    entry = json.loads(line)
    assert (entry["event"], entry["name"]) == ("login.refused", HOSTILE)
    assert len(entry["reason"]) == MAX_VALUE_LENGTH


def test_no_other_message_can_pass_for_an_event_or_break_its_line() -> None:
    line = LineFormatter().format(log_record("unheard: %s", HOSTILE))
    assert line.startswith("WARNING auth_service.test: unheard: ")
    assert not re.search(r"[\x00-\x1f\x85\u2028\u202e]", line)


def test_no_line_of_a_trace_can_pass_for_an_event() -> None:
    record = log_record("unexpected error")
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        record.exc_info = sys.exc_info()
    first, *trace = LineFormatter().format(record).split("\n")
    assert first == "WARNING auth_service.test: unexpected error"
    assert len(trace) > 2
    assert all(line.startswith("  ") for line in trace)


def test_a_flood_of_refusals_is_cut_short_and_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_bound", RefusalBound())
    caplog.set_level(logging.INFO)

    def written(event: Event, **values: str) -> dict[str, Any] | None:
        caplog.clear()
        audit.record(event, **values)  # type: ignore[arg-type]
        return json.loads(str(caplog.records[0].msg)) if caplog.records else None

    with time_machine.travel(0, tick=False) as clock:
        lines = [line for line in (written(Event.TOKEN_REFUSED, resource=str(n)) for n in range(1000)) if line]
        assert len(lines) == REFUSALS_AT_ONCE
        assert written(Event.LOGIN_REFUSED) is not None, "one kind does not hide another"
        assert written(Event.VERIFY_REFUSED, resource="a") is not None
        assert all(written(Event.TOKEN_ISSUED) for _ in range(1000)), "what passed is always written"
        clock.shift(10)
        line = written(Event.TOKEN_REFUSED)
        assert line is not None
        assert line["suppressed"] == 1000 - REFUSALS_AT_ONCE
        line = written(Event.TOKEN_REFUSED)
        assert line is not None
        assert "suppressed" not in line


_RECORD = """
import os, sys
from auth_service.ops import audit, logs
logs.configure("WARNING", audit_socket=sys.argv[1])
for line in sys.stdin:
    audit.record(audit.Event.LOGIN_ACCEPTED, name=line.strip())
    print("recorded", flush=True)
"""


def test_events_go_to_their_own_journal_and_are_never_lost_while_it_is_away(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with subprocess.Popen(
        [sys.executable, "-c", _RECORD, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def record(name: str) -> None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{name}\n")
            process.stdin.flush()
            assert process.stdout.readline() == "recorded\n"

        record("before")
        for name in ("first", "after a restart"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
                journal.bind(path)
                record(name)
                ident, _, entry = journal.recv(10_000).decode().partition(": ")
            Path(path).unlink()
            assert ident == "<86>mcp-auth-service"  # authpriv, info
            assert json.loads(entry)["name"] == name
        record("afterwards")
        _, seen = process.communicate(timeout=60)
        assert [json.loads(line)["name"] for line in seen.splitlines()] == ["before", "afterwards"]
