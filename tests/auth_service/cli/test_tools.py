"""`mcp-gatewayctl tools`, in front of real bridges, and of what only looks like one."""

from __future__ import annotations

import copy
import http.server
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from auth_service import cli
from auth_service.backends import surveys
from auth_service.settings import load_credentials
from stdio_bridge.protocol.tool_lock import render_lock
from tests.auth_service.test_settings import MINIMAL, write_credentials
from tests.stdio_bridge.running import ROOT, Bridge

Message = dict[str, Any]

SERVER = ROOT / "tests/stdio_bridge/changing_server.py"
LOOK: Message = {"name": "look", "description": "It looks.", "inputSchema": {"type": "object"}}
WIPE: Message = {"name": "wipe", "inputSchema": {"type": "object"}}
ALTERED = {**LOOK, "description": "It looks.\u200b", "annotations": {"readOnlyHint": False}}
REPORT: Message = {
    "tools": 0,
    "lock": "{}",
    "problem": None,
    "locked": False,
    "differences": [],
    "unmatched_rules": {},
}

Start = Callable[..., str]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a bridge with the key of the server `time`, and return its endpoint."""
    key = tmp_path / "identity-key"
    key.write_bytes(load_credentials(write_credentials(tmp_path)).derive_key("identity-key:time"))
    running: list[Bridge] = []

    def start_one(listed: list[Message], *, locked: list[Message] | None = None) -> str:
        options = ["--require-identity", str(key), "--drain-timeout", "0.1"]
        if locked is not None:
            file = tmp_path / f"{len(running)}.lock.json"
            file.write_text(render_lock(locked))
            options += ["--tools-lock", str(file)]
        running.append(Bridge(*options, command=(sys.executable, str(SERVER), "legacy", json.dumps(listed))))
        return f"http://127.0.0.1:{running[-1].port}/mcp"

    yield start_one
    for each in running:
        each.end()


def tools(tmp_path: Path, command: str, *endpoints: str, name: str = "time", options: tuple[str, ...] = ()) -> int:
    document = copy.deepcopy(MINIMAL)
    document["resources"]["time"]["backends"] = list(endpoints)
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(document))
    where = ("--settings", str(settings), "--master-key", str(write_credentials(tmp_path) / "master-key"))
    return cli.main(["tools", command, name, *where, *options])


def test_lock_prints_the_file_and_says_elsewhere_what_was_asked(
    tmp_path: Path, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = start([WIPE, ALTERED], locked=[LOOK])
    assert tools(tmp_path, "lock", endpoint) == 0
    printed = capsys.readouterr()
    assert printed.out == render_lock([ALTERED, WIPE])
    assert printed.err == f"asked {endpoint}: 2 tools\n"


def test_lock_writes_a_file_that_the_bridge_takes(
    tmp_path: Path, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tools.lock.json"
    assert tools(tmp_path, "lock", start([LOOK]), options=("--output", str(file))) == 0
    assert capsys.readouterr().out == ""
    assert file.read_text() == render_lock([LOOK])


def test_bridges_that_do_not_agree_make_no_lock(
    tmp_path: Path, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = start([LOOK]), start([ALTERED])
    assert tools(tmp_path, "lock", one, other) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"asked {one}: 1 tools\nasked {other}: 1 tools\n" in printed.err
    assert "the bridges do not list the same tools" in printed.err


def test_a_bridge_that_cannot_be_reached_is_named_and_the_others_make_the_lock(
    tmp_path: Path, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = start([LOOK])
    assert tools(tmp_path, "lock", "http://127.0.0.1:1/mcp", endpoint) == 0
    printed = capsys.readouterr()
    assert printed.out == render_lock([LOOK])
    assert printed.err == f"asked http://127.0.0.1:1/mcp: cannot be reached\nasked {endpoint}: 1 tools\n"
    assert tools(tmp_path, "lock", "http://127.0.0.1:1/mcp") == 1
    assert "no bridge has told" in capsys.readouterr().err


def test_a_list_that_cannot_be_locked_says_why(
    tmp_path: Path, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tools(tmp_path, "lock", start([LOOK, LOOK])) == 1
    assert 'the server lists two tools of the name "look"' in capsys.readouterr().err


def test_diff_shows_each_part_that_differs(tmp_path: Path, start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint = start([ALTERED, WIPE], locked=[LOOK, {"name": "gone"}])
    assert tools(tmp_path, "diff", endpoint) == 0
    assert capsys.readouterr().out == (
        f"{endpoint}: 2 tools\n"
        '- "gone" is in the lock file alone\n'
        '~ "look" differs from the lock file: hidden\n'
        "    annotations\n"
        '    + { "readOnlyHint": false }\n'
        "    description\n"
        '    - "It looks."\n'
        '    + "It looks.\\u200b"\n'
        '+ "wipe" is not in the lock file: hidden\n'
    )


def test_diff_for_programs(tmp_path: Path, start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint = start([LOOK, WIPE], locked=[LOOK])
    assert tools(tmp_path, "diff", endpoint, "http://127.0.0.1:1/mcp", options=("--json",)) == 1
    assert json.loads(capsys.readouterr().out) == [
        {
            "endpoint": endpoint,
            "problem": None,
            "tools": 2,
            "locked": True,
            "differences": [{"tool": '"wipe"', "reason": "new", "changes": []}],
        },
        {"endpoint": "http://127.0.0.1:1/mcp", "problem": "cannot be reached"},
    ]


@pytest.mark.parametrize(
    ("listed", "locked", "status", "said"),
    [
        ([LOOK], [LOOK], 0, "1 tools, all as in the lock file"),
        ([LOOK], [LOOK, WIPE], 0, '1 tools; differ from the lock file: "wipe" (missing)'),
        ([LOOK, WIPE], [LOOK], 1, '2 tools; differ from the lock file: "wipe" (new)'),
        ([ALTERED], [LOOK], 1, '1 tools; differ from the lock file: "look" (changed)'),
        ([LOOK, LOOK], [LOOK], 1, '2 tools; differ from the lock file: "look" (duplicate)'),
        ([LOOK], None, 1, "1 tools, and no lock file"),
    ],
    ids=["as locked", "missing", "new", "changed", "twice", "no lock file"],
)
def test_check_exits_with_1_if_something_is_hidden_or_nothing_locked(
    tmp_path: Path,
    start: Start,
    capsys: pytest.CaptureFixture[str],
    *,
    listed: list[Message],
    locked: list[Message] | None,
    status: int,
    said: str,
) -> None:
    endpoint = start(listed, locked=locked)
    assert tools(tmp_path, "check", endpoint) == status
    assert capsys.readouterr().out == f"{endpoint}: {said}\n"


def test_check_exits_with_1_if_a_bridge_does_not_tell(tmp_path: Path, start: Start) -> None:
    assert tools(tmp_path, "check", start([LOOK], locked=[LOOK]), "http://127.0.0.1:1/mcp") == 1


def test_a_bridge_of_another_server_refuses(tmp_path: Path, start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint = start([LOOK])
    (tmp_path / "other").mkdir()
    write_credentials(tmp_path / "other", master_key=b"o" * 32)
    options = ("--master-key", str(tmp_path / "other/master-key"))
    assert tools(tmp_path, "check", endpoint, options=options) == 1
    assert "refuses this command: its identity key" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tools(tmp_path, "lock", "http://127.0.0.1:1/mcp", name="tmie") == 2
    assert "tmie: no server has that name; known servers: time" in capsys.readouterr().err


class Pretender(http.server.BaseHTTPRequestHandler):
    """Answers each request for a survey with what the test says."""

    status: ClassVar[int]
    body: ClassVar[bytes]
    asked: ClassVar[list[str]]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append(self.path)
        self.send_response(self.status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def pretender() -> Iterator[str]:
    Pretender.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pretender) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/mcp"
        server.shutdown()


def report(**changed: object) -> bytes:
    return json.dumps({"mcp-stdio-bridge": {**REPORT, **changed}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, b"", "answers 404: it is no bridge, or one of an older release"),
        (405, b"", "answers 405: it is no bridge"),
        (307, b"", "answers 307: it is no bridge"),
        (502, b"<html>", "answers 502: it is no bridge"),
        (502, b'{"error": {"message": "the server\\u001b[2J exited"}}', r"the server\x1b[2J exited"),
        (200, b"<html>", "answered something that no bridge does"),
        (200, b"[" * 100_000, "answered something that no bridge does"),
        (200, b"{}", "answered something that no bridge does"),
        (200, report(tools="many"), "answered something that no bridge does"),
        (200, report(differences=[{"tool": "a", "reason": "evil", "changes": []}]), "something that no bridge does"),
        (200, report(lock="{}\x1b[2J"), "answered with characters that no lock file has"),
        (200, report(lock="{}\u202e"), "answered with characters that no lock file has"),
    ],
)
def test_what_only_looks_like_a_bridge_is_told_from_one(
    tmp_path: Path, pretender: str, capsys: pytest.CaptureFixture[str], *, status: int, body: bytes, said: str
) -> None:
    Pretender.status, Pretender.body = status, body
    assert tools(tmp_path, "lock", pretender) == 1
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.out == ""
    assert Pretender.asked == ["/survey"]


def test_an_answer_that_is_too_large_is_not_read_to_its_end(
    tmp_path: Path, pretender: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surveys, "MAX_BYTES", 1000)
    Pretender.status, Pretender.body = 200, report(lock="x" * 1000)
    assert tools(tmp_path, "lock", pretender) == 1
    assert "answered with more than 1000 bytes" in capsys.readouterr().err


def test_texts_of_a_report_cannot_move_the_cursor(
    tmp_path: Path, pretender: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change = {"path": "a\x1b[2J", "locked": None, "listed": "b\n\u202e"}
    difference = {"tool": "c\x1b[2J", "reason": "changed", "changes": [change]}
    Pretender.status, Pretender.body = 200, report(locked=True, differences=[difference])
    for command in ("diff", "check"):
        tools(tmp_path, command, pretender)
    printed = capsys.readouterr().out
    assert all(character.isprintable() or character == "\n" for character in printed)
    assert r"c\x1b[2J" in printed
    assert r"+ b\n\u202e" in printed
