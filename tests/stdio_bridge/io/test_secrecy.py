"""The bridge's key, and its memory: out of reach of the servers that it starts, which run as the same user."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stdio_bridge.running import KEY, ROOT, assertion, rpc

HOSTILE = (sys.executable, str(ROOT / "tests/nixos/hostile_server.py"))
YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
# Root may look into every process by its capabilities, which are given up here.
AS_A_USER = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
PARTS = ("mem", "environ", "maps", "fdinfo/1")
# Hands over the socket as 3 and the key as 4, as systemd does; only the process itself knows its pid.
_ACTIVATE = """
import os, socket, sys
with socket.create_server(("127.0.0.1", 0)) as listener, open(sys.argv[1]) as key:
    os.dup2(os.dup(listener.fileno()), 50)
    os.dup2(key.fileno(), 51)
os.dup2(50, 3)
os.dup2(51, 4)
os.closerange(5, 60)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"}
os.environ["LISTEN_FDNAMES"] = "bridge-[::1]:80.socket:" + sys.argv[2]  # a socket is named after its unit
os.execv(sys.executable, [sys.executable, "-m", "stdio_bridge", *sys.argv[3:]])
"""

needs_setpriv = pytest.mark.skipif(bool(AS_A_USER) and shutil.which("setpriv") is None, reason="as root, needs setpriv")


@contextlib.contextmanager
def activated(key: Path, name: str, *options: str) -> Iterator[int]:
    """Run a bridge that gets its socket and its key handed over; return its port."""
    command = (*AS_A_USER, sys.executable, "-c", _ACTIVATE, str(key), name, *options, "--", *HOSTILE)
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if "serving" in line)
            yield int(re.findall(r":(\d+)/", line)[0])
        finally:
            process.terminate()
            process.communicate(timeout=60)


def ask(port: int, *attempts: tuple[str, dict[str, Any]]) -> list[Any]:
    """Let the server try things; return what it got by each, None where it got nothing."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
        "X-Gateway-Identity": assertion("alice"),
    }

    def post(method: str, params: dict[str, Any]) -> Any:
        connection.request("POST", "/mcp", json.dumps(rpc(method, params)).encode(), headers)
        answer = connection.getresponse()
        headers.setdefault("Mcp-Session-Id", answer.headers["Mcp-Session-Id"] or "")
        return json.loads(answer.read())

    post(
        "initialize", {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    )
    each = [{"name": name, "arguments": arguments} for name, arguments in attempts]
    answer = post("tools/call", {"name": "each", "arguments": {"attempts": each}})
    connection.close()
    return [one.get("done") for one in json.loads(answer["result"]["content"][0]["text"])["done"]]


ATTEMPTS = (
    *(("read_parent", {"part": part}) for part in PARTS),
    ("list_descriptors_of_parent", {}),
    ("system_call", {"name": "pidfd_getfd"}),
)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(KEY)
    return path


@needs_setpriv
def test_a_server_cannot_look_into_a_bridge_that_holds_a_key(key: Path) -> None:
    with activated(key, "identity-key", "--require-identity", "fd:identity-key") as port:
        assert ask(port, *ATTEMPTS) == [None] * len(ATTEMPTS)


@needs_setpriv
@pytest.mark.skipif(YAMA.exists() and YAMA.read_text() != "0\n", reason="Yama keeps servers out of every bridge")
def test_it_could_look_into_one_that_holds_none(key: Path) -> None:
    with activated(key, "identity-key", "--no-identity") as port:
        assert None not in ask(port, *ATTEMPTS)


@needs_setpriv
def test_the_key_that_was_handed_over_is_closed_and_given_to_no_server(key: Path) -> None:
    with activated(key, "identity-key", "--require-identity", "fd:identity-key") as port:
        (descriptors,) = ask(port, ("list_descriptors", {}))
        assert not [each for each in descriptors if str(key) in each or "socket" in each], descriptors


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("other", "fd:identity-key", "fd:identity-key: systemd hands over no file of this name"),
        ("identity-key", "fd:80.socket", "fd:80.socket: systemd hands over no file of this name"),
    ],
)
def test_a_key_that_is_not_handed_over_is_one_line_and_status_2(
    key: Path, name: str, source: str, complaint: str
) -> None:
    command = (sys.executable, "-c", _ACTIVATE, str(key), name, "--require-identity", source, "--", "true")
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
    assert complaint in ended.stderr


def test_a_key_that_is_too_short_is_refused_wherever_it_comes_from(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("short")
    command = (sys.executable, "-c", _ACTIVATE, str(key), "k", "--require-identity", "fd:k", "--", "true")
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "fd:k: must hold at least 32 bytes" in ended.stderr
