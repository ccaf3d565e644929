"""`mcp-gatewayctl health`, in front of a real bridge and of servers that misbehave."""

from __future__ import annotations

import contextlib
import copy
import http.server
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import requests

from auth_service import cli
from auth_service.backends import health
from auth_service.settings import Settings, load_credentials
from tests.auth_service.test_settings import MINIMAL, write_credentials

ROOT = Path(__file__).parents[3]
ECHO = ROOT / "tests/stdio_bridge/echo_server.py"
RESULT = '{"jsonrpc": "2.0", "id": 1, "result": {}}'


class Backend(http.server.BaseHTTPRequestHandler):
    """Answers as its path says, and remembers what it was asked."""

    seen: ClassVar[list[tuple[str, str | None]]]
    stop: ClassVar[threading.Event]
    answers: ClassVar = {
        "/json": (200, "application/json", RESULT),
        "/stream": (200, "text/event-stream", f"id: 1\ndata:\n\nevent: message\ndata: {RESULT}\n\n"),
        "/error": (200, "application/json", '{"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": "no"}}'),
        "/list": (200, "application/json", "[]"),
        "/page": (200, "text/html", "<html>"),
        "/broken": (500, "text/plain", ""),
        "/deep": (200, "application/json", "[" * 100_000),
    }

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append(("POST", self.headers["Mcp-Session-Id"]))
        if misbehave := getattr(self, f"_{self.path[1:]}", None):
            misbehave()
            return
        status, content_type, body = self.answers[self.path]
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Mcp-Session-Id", "abc")
        self.end_headers()
        self.wfile.write(body.encode())

    def _redirect(self) -> None:
        self.send_response(307)
        self.send_header("Location", "/json")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _drip(self) -> None:
        """Send a byte each time the client may think that it has waited for nothing, and never end."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        with contextlib.suppress(OSError):
            while not self.stop.wait(0.05):
                self.wfile.write(b" ")

    def _drip_head(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Endless: ")
        with contextlib.suppress(OSError):
            while not self.stop.wait(0.05):
                self.wfile.write(b"x")

    def _flood(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        with contextlib.suppress(OSError):
            while not self.stop.is_set():
                self.wfile.write(b" " * 65536)

    def do_DELETE(self) -> None:
        self.seen.append(("DELETE", self.headers["Mcp-Session-Id"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def backend() -> Iterator[str]:
    Backend.seen = []
    Backend.stop = threading.Event()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Backend) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        Backend.stop.set()
        server.shutdown()


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[str]:
    """A real bridge with the key of the server `time`."""
    key = tmp_path / "identity-key"
    key.write_bytes(load_credentials(write_credentials(tmp_path)).derive_key("identity-key:time"))
    command = [sys.executable, "-m", "stdio_bridge", "--listen", "127.0.0.1:0", "--require-identity", str(key), "--"]
    with subprocess.Popen(
        [*command, sys.executable, str(ECHO)], stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stderr is not None
        try:
            found = re.search(r":(\d+)/", next(line for line in process.stderr if "serving" in line))
            assert found is not None
            yield f"http://127.0.0.1:{found[1]}/mcp"
        finally:
            process.terminate()
            process.communicate()


def ask(tmp_path: Path, endpoint: str, *options: str, **changes: object) -> int:
    document = copy.deepcopy(MINIMAL)
    document["resources"]["time"] |= {"backends": [endpoint], **changes}
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(document))
    master_key = write_credentials(tmp_path) / "master-key"
    return cli.main(["health", *options, "--settings", str(settings), "--master-key", str(master_key)])


def test_a_bridge_opens_a_session_for_the_gateway_itself(
    tmp_path: Path, bridge: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(tmp_path, bridge) == 0
    assert re.fullmatch(rf"time  {bridge}  answers, \d+\.\d\d s\n", capsys.readouterr().out)


def test_a_bridges_word_is_taken_for_a_server_that_answered_of_late(
    tmp_path: Path, bridge: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def spawns() -> str:
        page = requests.get(bridge.replace("/mcp", "/metrics"), timeout=60).text
        return next(line for line in page.splitlines() if line.startswith("mcp_bridge_spawns_total"))

    metrics = tmp_path / "health.prom"
    assert ask(tmp_path, bridge, "--max-age", "3600", "--metrics-file", str(metrics)) == 0
    assert "answers, " in capsys.readouterr().out, "nothing was known"
    assert "handshake_seconds{" in metrics.read_text()
    before = spawns()
    assert ask(tmp_path, bridge, "--max-age", "3600", "--metrics-file", str(metrics)) == 0
    assert re.fullmatch(rf"time  {bridge}  answered \d+ s ago\n", capsys.readouterr().out)
    assert 'mcp_gateway_server_up{server="time"' in metrics.read_text()
    assert "handshake_seconds{" not in metrics.read_text()
    assert spawns() == before
    assert ask(tmp_path, bridge, "--max-age", "0") == 0
    assert "answers, " in capsys.readouterr().out, "what it knew is too old"
    assert spawns() != before


@pytest.fixture
def with_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each user of the server has a credential."""
    monkeypatch.setitem(MINIMAL["resources"]["time"], "user_credentials", {"TOKEN": {"label": "Token"}})


@pytest.mark.usefixtures("with_credentials")
@pytest.mark.parametrize("options", [(), ("--max-age", "3600")])
def test_where_users_have_credentials_the_bridge_is_asked_and_nothing_starts(
    tmp_path: Path, bridge: str, backend: str, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(tmp_path, bridge, *options) == 0
    assert "answers, " in capsys.readouterr().out
    page = requests.get(bridge.replace("/mcp", "/metrics"), timeout=60).text
    assert "mcp_bridge_spawns_total 0" in page
    # No bridge answers there, nor at the other.
    assert ask(tmp_path, f"{backend}/json", *options) == 1
    assert Backend.seen == []
    assert ask(tmp_path, "http://127.0.0.1:1/mcp", *options) == 1
    assert "cannot be reached" in capsys.readouterr().out


def test_settings_and_key_are_found_where_the_service_has_them(
    tmp_path: Path, bridge: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(tmp_path, bridge) == 0
    monkeypatch.setenv("MCP_GATEWAY_SETTINGS", str(tmp_path / "settings.json"))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert cli.main(["health", "time"]) == 0
    capsys.readouterr()
    assert cli.main(["keys", "identity", "time"]) == 0
    given = capsys.readouterr().out
    assert cli.main(["keys", "identity", "time", "--master-key", str(tmp_path / "master-key")]) == 0
    assert capsys.readouterr().out == given


def test_a_bridge_of_another_server_refuses(tmp_path: Path, bridge: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_credentials(tmp_path)
    (tmp_path / "master-key").write_text("another" * 8)
    settings = tmp_path / "settings.json"
    document = copy.deepcopy(MINIMAL)
    document["resources"]["time"]["backends"] = [bridge]
    settings.write_text(json.dumps(document))
    assert cli.main(["health", "--settings", str(settings), "--master-key", str(tmp_path / "master-key")]) == 1
    assert "answered HTTP 403" in capsys.readouterr().out


@pytest.mark.parametrize("path", ["/json", "/stream"])
def test_a_session_is_ended_again(tmp_path: Path, backend: str, path: str) -> None:
    assert ask(tmp_path, backend + path) == 0
    assert Backend.seen == [("POST", None), ("DELETE", "abc")]


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/error", "refused to initialize"),
        ("/list", "answered something that is not MCP"),
        ("/page", "answered something that is not MCP"),
        ("/broken", "answered HTTP 500"),
        ("/deep", "answered something that is not MCP"),
        ("/flood", "answered with more than 1048576 bytes"),
    ],
)
def test_the_result_says_what_is_wrong(
    tmp_path: Path, backend: str, capsys: pytest.CaptureFixture[str], path: str, problem: str
) -> None:
    assert ask(tmp_path, backend + path, "--json") == 1
    assert [each["problem"] for each in json.loads(capsys.readouterr().out)] == [problem]


def test_a_server_that_lets_in_the_gateway_alone_is_only_connected_to(
    tmp_path: Path, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(tmp_path, f"{backend}/broken", backend_credential=True) == 0
    secure = f"{backend.replace('http:', 'https:')}/mcp"
    assert ask(tmp_path, secure, backend_tls={"ca_file": "/run/ca"}) == 0
    assert Backend.seen == []
    capsys.readouterr()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nowhere = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    assert ask(tmp_path, nowhere, "--json", backend_credential=True) == 1
    assert [each["problem"] for each in json.loads(capsys.readouterr().out)] == ["cannot be reached"]


def test_a_redirect_is_not_followed_with_the_assertion(
    tmp_path: Path, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(tmp_path, f"{backend}/redirect") == 1
    assert "answered HTTP 307" in capsys.readouterr().out
    assert Backend.seen == [("POST", None)]


@pytest.mark.parametrize("path", ["/drip", "/drip_head"])
def test_an_answer_that_never_ends_is_cut_off(
    tmp_path: Path, backend: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(health, "TIMEOUT_SECONDS", 0.5)
    assert ask(tmp_path, backend + path) == 1
    assert "did not answer within" in capsys.readouterr().out


def test_results_come_as_they_are_there_and_silent_servers_keep_no_other_waiting(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = copy.deepcopy(MINIMAL)
    servers = {"a": "drip", "b": "json", "c": "drip"}
    document["resources"] = {
        name: {"url": f"https://{name}.mcp.example.com/mcp", "backends": [f"{backend}/{path}"]}
        for name, path in servers.items()
    }
    results = health.check_each(Settings.model_validate(document), dict.fromkeys(servers, b"k" * 64))
    assert next(results).name == "b"
    Backend.stop.set()  # what never ended ends now
    assert {each.name for each in results} == {"a", "c"}

    Backend.stop = threading.Event()
    monkeypatch.setattr(health, "TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(health, "RUN_SECONDS", 0.1)
    monkeypatch.setattr(health, "AT_ONCE", 1)
    late, unasked = sorted(
        str(each.problem)
        for each in health.check_each(Settings.model_validate(document), dict.fromkeys("ab", b"k" * 64))
    )
    assert late.startswith("did not answer within")
    assert unasked.startswith("was not checked: the others took more than")


def test_the_check_needs_the_keys_of_the_servers_alone(
    tmp_path: Path, bridge: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    assert ask(tmp_path, bridge, "--identity-keys", str(keys)) == 2
    assert "identity-time: the credential cannot be read" in capsys.readouterr().err
    (keys / "identity-time").write_text("another" * 8)
    assert ask(tmp_path, bridge, "--identity-keys", str(keys)) == 1
    assert "answered HTTP 403" in capsys.readouterr().out
    (tmp_path / "master-key").unlink()
    (keys / "identity-time").write_bytes((tmp_path / "identity-key").read_bytes())
    settings = str(tmp_path / "settings.json")
    assert cli.main(["health", "--settings", settings, "--identity-keys", str(keys)]) == 0
    assert "answers, " in capsys.readouterr().out


def test_a_server_that_is_gone_is_in_the_metrics(
    tmp_path: Path, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = tmp_path / "health.prom"
    assert ask(tmp_path, "http://127.0.0.1:1/mcp", "--metrics-file", str(metrics)) == 1
    assert 'mcp_gateway_server_up{server="time",endpoint="http://127.0.0.1:1/mcp"} 0\n' in metrics.read_text()
    assert ask(tmp_path, f"{backend}/json", "--metrics-file", str(metrics)) == 0
    assert f'mcp_gateway_server_up{{server="time",endpoint="{backend}/json"}} 1\n' in metrics.read_text()
    assert "cannot be reached" in capsys.readouterr().out


def test_a_server_that_does_not_exist_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(tmp_path, "http://127.0.0.1:1/mcp", "nobody") == 2
    assert "nobody: is not in " in capsys.readouterr().err
