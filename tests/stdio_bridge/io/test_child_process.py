"""What holds of a server process however it is started: as the bridge's child, or in a unit of its own."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from stdio_bridge.io import server_init
from stdio_bridge.io.child_process import Child, Exit, Limits, ServerProcess, SpawnError, Traffic
from stdio_bridge.io.event_loop import Loop
from stdio_bridge.io.log_handler import Allowance
from stdio_bridge.io.metrics import Registry
from stdio_bridge.io.spawned_child import SpawnedChild
from stdio_bridge.io.unit_child import UnitChild, _Watch
from tests.stdio_bridge.io.test_secrecy import AS_A_USER, needs_setpriv
from tests.stdio_bridge.socket_activation import server_socket

Start = Callable[[Sequence[str]], Callable[[], Child]]
GRACE_SECONDS = 60
# A third of it lies between SIGTERM and SIGKILL, of which the former is to end a server on a busy machine, too.
ENOUGH_FOR_SIGTERM = 3.0
OF_GLIBC = 0b11 << 31  # 32 and 33, which a program cannot use
# Reads a line, and then leaves a process that ignores what can be ignored, in a session of its own.
ESCAPES = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        for fd in (0, 1, 2):
            os.close(fd)
        open(sys.argv[1] + ".new", "w").write(str(os.getpid()))
        os.rename(sys.argv[1] + ".new", sys.argv[1])
        time.sleep(1000)
    os._exit(0)
os.wait()
print("escaped", flush=True)
sys.stdin.read()
"""
POLITE = """
import signal, sys, time
def end(*_):
    print("goodbye", flush=True)
    sys.exit(4)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
time.sleep(1000)
"""
DESCRIPTORS = """
import json, os
print(json.dumps(sorted(int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}"))))
"""
# Takes the place of systemd-socket-proxyd, and says what it was given.
RELAY = f"""#!{sys.executable} -IS
import json, os, socket, sys
assert os.environ["LISTEN_FDS"] == "1" and os.environ["LISTEN_PID"] == str(os.getpid())
assert [fd for fd in range(3, 20) if os.path.exists(f"/proc/self/fd/{{fd}}")] == [3]
with socket.socket(fileno=3) as listener:
    client, _ = listener.accept()
    client.sendall(sys.argv[1].encode())
"""
CONNECTS = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
    print(connection.makefile().read(), flush=True)
sys.stdin.read()
"""


class Running:
    """A server process and the loop that it runs on."""

    def __init__(
        self,
        start: Callable[[], Child],
        *,
        stop_seconds: float = 6.0,
        max_unsent_bytes: int = 1 << 20,
        secrets: Sequence[str] = (),
    ) -> None:
        self.loop = Loop()
        self.lines: list[bytes] = []
        self.exit: Exit | None = None
        counter = Registry().counter
        try:
            self.process = ServerProcess(
                self.loop,
                start,
                name=lambda: "process 1",
                limits=Limits(max_line_bytes=1 << 20, max_unsent_bytes=max_unsent_bytes, stop_seconds=stop_seconds),
                traffic=Traffic(to_server=counter("to", ""), from_server=counter("from", "")),
                allowance=Allowance(time.monotonic, per_second=1 << 20, at_once=1 << 20),
                on_line=self.lines.append,
                on_skipped=lambda *_: None,
                on_exit=self._take_exit,
                secrets=secrets,
            )
        except SpawnError:
            self.loop.close()
            raise

    def _take_exit(self, exit_: Exit) -> None:
        assert self.exit is None
        self.exit = exit_

    def wait_for(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + GRACE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, (self.lines, self.exit)
            self.loop.call_later(0.05, lambda: None)
            self.loop.turn()

    def wait_for_lines(self, count: int) -> list[bytes]:
        self.wait_for(lambda: len(self.lines) >= count)
        return self.lines

    def wait_for_exit(self) -> str:
        self.wait_for(lambda: self.exit)
        assert not self.loop, "it watches a descriptor of a process that has ended"
        return str(self.exit)


@contextlib.contextmanager
def running(start: Callable[[], Child], **options: Any) -> Iterator[Running]:
    process = Running(start, **options)
    try:
        yield process
    finally:
        if process.exit is None:
            process.process.stop("the test is over")
            process.process._child.kill()
            process.wait_for_exit()
        process.loop.close()


def spawned(command: Sequence[str]) -> Callable[[], Child]:
    environment = {"PATH": os.environ["PATH"], "GIVEN": "a=b"}
    return lambda: SpawnedChild(command, environment=environment, directory=None, open_files=1024)


@pytest.fixture
def in_unit(tmp_path: Path) -> Iterator[Start]:
    with contextlib.ExitStack() as sockets:

        def start(command: Sequence[str]) -> Callable[[], Child]:
            path = sockets.enter_context(server_socket(tmp_path / "socket", *command))
            return lambda: UnitChild(path, environment={"GIVEN": "a=b"}, user="")

        yield start


@pytest.fixture(params=["spawned", "in a unit"])
def start(request: pytest.FixtureRequest, in_unit: Start) -> Start:
    return spawned if request.param == "spawned" else in_unit


def shell(script: str) -> Sequence[str]:
    return ("/bin/sh", "-c", script)


def python(script: str, *arguments: str) -> Sequence[str]:
    return (sys.executable, "-I", "-S", "-c", script, *arguments)


def test_lines_go_both_ways(start: Start) -> None:
    with running(start(["cat"])) as server:
        server.process.write(b"one")
        server.process.write(b"two")
        assert server.wait_for_lines(2) == [b"one", b"two"]
        server.process.stop("no more is wanted")
        assert server.wait_for_exit() == "exited with status 0, after no more is wanted"


def test_an_exit_status_is_told_with_the_last_lines_of_stderr_and_after_the_last_line_of_stdout(start: Start) -> None:
    with running(start(shell("read line; echo $line; echo first >&2; echo last >&2; exit 3"))) as server:
        server.process.write(b"said")
        assert server.wait_for_exit() == "exited with status 3; it last wrote: first | last"
        assert server.lines == [b"said"]


SECRET = 'p/ss"w\u00f6rd+&~?\u00ff (x)'
WRITTEN = [
    SECRET,
    json.dumps(SECRET),
    json.dumps(SECRET, ensure_ascii=False),
    "p%2Fss%22w%C3%B6rd%2B%26~%3F%C3%BF%20(x)",
    "p%2Fss%22w%C3%B6rd%2B%26~%3F%C3%BF%20%28x%29",
    "p/ss%22w%C3%B6rd%2B%26~%3F%C3%BF%20%28x%29",
    "token=p%2Fss%22w%C3%B6rd%2B%26~%3F%C3%BF+%28x%29&x=y",
    base64.b64encode(SECRET.encode()).decode(),
    base64.urlsafe_b64encode(SECRET.encode()).decode(),
]


@pytest.mark.parametrize("written", WRITTEN)
def test_a_secret_is_in_no_log_however_programs_write_it(written: str) -> None:
    with running(spawned(shell(f"printf '%s\\n' {shlex.quote(written)} >&2")), secrets=(SECRET,)) as server:
        told = server.wait_for_exit()
    assert "[redacted]" in told
    assert not [form for form in WRITTEN if form.strip('"=') in told]


def test_what_is_no_secret_or_too_short_for_one_is_logged() -> None:
    with running(spawned(shell("echo yes and no >&2")), secrets=("no", "maybe")) as server:
        assert server.wait_for_exit() == "exited with status 0; it last wrote: yes and no"


@pytest.mark.parametrize("number", [6, 9, 15])
def test_a_signal_that_ended_it_is_told(start: Start, number: int) -> None:
    with running(start(shell(f"kill -{number} $$"))) as server:
        assert server.wait_for_exit() == f"was ended by signal {number}"


def test_a_program_that_cannot_be_run_is_named_with_the_reason(start: Start) -> None:
    try:
        with running(start(["/nowhere/server"])) as server:
            told = server.wait_for_exit()
    except SpawnError as error:
        told = str(error)
    assert "/nowhere/server" in told
    assert "cannot be started" in told
    assert "No such file or directory" in told


def test_it_may_end_in_its_own_way_on_sigterm(start: Start) -> None:
    with running(start(python(POLITE)), stop_seconds=6.0) as server:
        server.wait_for_lines(1)
        server.process.stop("it was told to")
        assert server.wait_for_exit() == "exited with status 4, after it was told to"
        assert server.lines == [b"ready", b"goodbye"]


def test_it_is_killed_when_it_ignores_everything_else(start: Start) -> None:
    script = "trap '' TERM HUP INT; echo ready; while :; do sleep 0.05; done"
    with running(start(shell(script)), stop_seconds=0.3) as server:
        server.wait_for_lines(1)
        server.process.stop("it was told to")
        assert server.wait_for_exit() == "was ended by signal 9, after it was told to"


def test_its_children_end_with_it(start: Start, tmp_path: Path) -> None:
    left = tmp_path / "left"
    script = f"(trap '' TERM HUP; exec sleep 1000) & echo $! > {shlex.quote(str(left))}; echo ready; exit 0"
    with running(start(shell(script))) as server:
        server.wait_for_exit()
        wait_until_gone(int(left.read_text()))


def test_one_that_closes_its_stdout_is_ended(start: Start) -> None:
    with running(start(shell("exec >&-; exec sleep 1000")), stop_seconds=ENOUGH_FOR_SIGTERM) as server:
        assert server.wait_for_exit() == "was ended by signal 15, after it had closed its stdout"


def test_one_that_closes_its_stdin_is_ended(start: Start) -> None:
    with running(start(shell("exec <&-; echo ready; exec sleep 1000")), stop_seconds=ENOUGH_FOR_SIGTERM) as server:
        server.wait_for_lines(1)
        assert server.wait_for_exit() == "was ended by signal 15, after it had closed its stdin"


def test_one_that_reads_nothing_is_ended_at_the_bound(start: Start) -> None:
    with running(start(["sleep", "1000"]), stop_seconds=ENOUGH_FOR_SIGTERM, max_unsent_bytes=1000) as server:
        for _ in range(100):
            server.process.write(b"x" * 10_000)
        assert server.process.unsent > 1000
        assert server.wait_for_exit() == "was ended by signal 15, after it had left too much of its input unread"


def test_it_gets_what_it_is_given_and_nothing_that_is_about_another_process(start: Start) -> None:
    script = "import json, os; print(json.dumps(dict(os.environ)))"
    with running(start(python(script))) as server:
        environment = json.loads(server.wait_for_lines(1)[0])
    assert environment["GIVEN"] == "a=b"
    assert "PATH" in environment
    assert not {"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "INVOCATION_ID"} & set(environment)


def test_it_has_no_descriptor_but_the_three(start: Start) -> None:
    with running(start(python(DESCRIPTORS))) as server:
        assert json.loads(server.wait_for_lines(1)[0]) == [0, 1, 2]


def test_no_signal_is_ignored_or_blocked_in_it(start: Start) -> None:
    with running(start(["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"])) as server:
        masks = [int(line.split()[1], 16) & ~OF_GLIBC for line in server.wait_for_lines(2)]
        assert masks == [0, 0]


def test_it_leads_a_session_of_its_own(start: Start) -> None:
    with running(start(python("import os; print(os.getpid() == os.getsid(0) == os.getpgid(0))"))) as server:
        assert server.wait_for_lines(1) == [b"True"]


def test_it_can_open_its_standard_streams_by_their_names(start: Start) -> None:
    with running(start(shell("echo out > /dev/stdout; head -n 1 < /dev/stdin; echo err > /dev/stderr"))) as server:
        server.process.write(b"in")
        assert server.wait_for_exit() == "exited with status 0; it last wrote: err"
        assert server.lines == [b"out", b"in"]


def test_nothing_is_left_open_of_a_process_that_has_ended(start: Start) -> None:
    begin = start(["true"])
    for _ in range(3):
        before = open_files()
        with running(begin) as server:
            server.wait_for_exit()
        assert open_files() <= before


def test_a_process_that_has_left_its_session_ends_with_the_unit(in_unit: Start, tmp_path: Path) -> None:
    left = tmp_path / "left"
    with running(in_unit(python(ESCAPES, str(left)))) as server:
        server.wait_for_lines(1)
        server.wait_for(left.exists)
        server.process.stop("it was told to")
        assert server.wait_for_exit() == "exited with status 0, after it was told to"
        wait_until_gone(int(left.read_text()))


def test_a_unit_ends_with_the_connection_whatever_it_ignores(in_unit: Start, tmp_path: Path) -> None:
    script = "trap '' TERM HUP INT; echo $$; while :; do sleep 0.05; done"
    child = in_unit(shell(script))()
    assert isinstance(child, UnitChild)
    server = int(child.stdout.readline())
    child._connection.close()
    for pipe in (child.stdin, child.stdout, child.stderr):
        pipe.close()
    wait_until_gone(server)


def test_a_unit_that_ends_without_a_report_ends_the_process_at_once(in_unit: Start) -> None:
    with running(in_unit(shell("echo $PPID; exec sleep 1000"))) as server:
        psutil.Process(int(server.wait_for_lines(1)[0])).kill()
        assert server.wait_for_exit() == "was ended with its unit: see the unit's entries in the system's journal"


@needs_setpriv
def test_the_server_gets_at_nothing_of_its_units_first_process(tmp_path: Path) -> None:
    parts = "mem environ maps fd/3"
    look = f"for part in {parts}; do head -c 1 /proc/$PPID/$part > /dev/null 2>&1 && echo $part; done; echo looked"
    with (
        server_socket(tmp_path / "socket", *shell(look), launcher=AS_A_USER) as path,
        running(lambda: UnitChild(path, environment={}, user="")) as server,
    ):
        server.wait_for_exit()
        assert server.lines == [b"looked"]


def scopes_are_known() -> bool:
    """Whether Landlock has scopes, which came with the sixth version of its interface."""
    return bool(ctypes.CDLL(None).syscall(444, None, 0, 1) >= 6)


@pytest.mark.skipif(not scopes_are_known(), reason="needs Linux 6.12 with Landlock")
@pytest.mark.parametrize("attempt", ["connect", "signal"])
def test_the_server_gets_at_nothing_outside_its_unit(in_unit: Start, attempt: str) -> None:
    name = f"test-{os.getpid()}"
    script = {
        "connect": f"import socket; socket.socket(socket.AF_UNIX).connect('\\0{name}')",
        "signal": f"import os; os.kill({os.getpid()}, 0)",
    }[attempt]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        with running(spawned(python(script))) as outside:
            assert outside.wait_for_exit() == "exited with status 0"
        with running(in_unit(python(script))) as inside:
            assert "PermissionError" in inside.wait_for_exit()


# What a unit lends its first process: CAP_SYS_ADMIN in a user namespace.
LENT = ("unshare", "--user", "--map-current-user", "--keep-caps", "--mount", "--")
needs_namespaces = pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run((*LENT, "true"), capture_output=True, check=False).returncode != 0,
    reason="needs user namespaces",
)


@needs_namespaces
def test_each_user_finds_what_was_theirs_in_a_directory_and_nothing_of_others(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    command = ("--per-user", str(kept), *shell(f'cd {kept} && ls && cat * ../kept/*; echo "of $GIVEN" > mine'))
    with server_socket(tmp_path / "socket", *command, launcher=LENT) as path:

        def find(user: str) -> list[bytes]:
            with running(lambda: UnitChild(path, environment={"GIVEN": user}, user=user)) as server:
                server.wait_for_exit()
                return server.lines

        assert [find("a1"), find("b2"), find("")] == [[], [], []]
        assert find("a1") == [b"mine", b"of a1", b"of a1"]
        assert find("b2") == [b"mine", b"of b2", b"of b2"]
        assert find("") == []
    assert {entry.name: entry.stat().st_mode & 0o777 for entry in kept.iterdir()} == {"a1": 0o700, "b2": 0o700}


@needs_namespaces
@pytest.mark.parametrize("user", ["..", "a/b", "../a1"])
def test_a_user_that_is_no_name_gets_no_process(user: str, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    with (
        server_socket(tmp_path / "socket", "--per-user", str(kept), "true", launcher=LENT) as path,
        running(lambda: UnitChild(path, environment={}, user=user)) as server,
    ):
        assert server.wait_for_exit() == f"cannot be started: {kept}: Invalid argument"
    assert list(kept.iterdir()) == []


@needs_setpriv
def test_where_users_cannot_be_kept_apart_no_process_is_started(tmp_path: Path) -> None:
    with (
        server_socket(tmp_path / "socket", "--per-user", str(tmp_path), "true", launcher=AS_A_USER) as path,
        running(lambda: UnitChild(path, environment={}, user="a1")) as server,
    ):
        assert server.wait_for_exit() == f"cannot be started: {tmp_path}: Operation not permitted"


def test_a_port_of_loopback_is_passed_on_to_a_unix_socket(in_unit: Start, tmp_path: Path) -> None:
    relay = tmp_path / "relay"
    relay.write_text(RELAY)
    relay.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with running(in_unit(["--relay", port, str(relay), "/run/egress", *python(CONNECTS, port)])) as server:
        assert server.wait_for_lines(1) == [b"/run/egress"]
        server.process.stop("no more is wanted")
        assert server.wait_for_exit() == "exited with status 0, after no more is wanted"


def test_without_the_port_no_server_is_started(in_unit: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with running(in_unit(["--relay", port, "/bin/false", "/run/egress", "cat"])) as server:
            told = server.wait_for_exit()
    assert f"{port} /bin/false /run/egress: Address already in use" in told


def test_where_no_unit_can_be_asked_for_the_socket_is_named_and_nothing_left_open(tmp_path: Path) -> None:
    before = open_files()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as closed:
        closed.bind(str(tmp_path / "closed"))
    for name, reason in (("none", "No such file or directory"), ("closed", "Connection refused")):
        with pytest.raises(SpawnError, match=f"{name}: no unit of the server can be started: {reason}"):
            UnitChild(tmp_path / name, environment={}, user="")
    assert open_files() <= before


@pytest.mark.parametrize(
    ("value", "fits"), [("\ud800", False), ("a\0B=b", False), ("\udcff", True), ("\U0001f511", True)]
)
@pytest.mark.parametrize("way", ["spawned", "in a unit"])
def test_a_value_that_no_process_can_have_is_an_error_and_leaves_nothing_open(
    tmp_path: Path, way: str, value: str, fits: bool
) -> None:
    before = open_files()
    with server_socket(tmp_path / "socket", "true") as path:

        def start() -> Child:
            if way == "in a unit":
                return UnitChild(path, environment={"A": value}, user="")
            environment = {"PATH": os.environ["PATH"], "A": value}
            return SpawnedChild(["true"], environment=environment, directory=None, open_files=1024)

        if fits:
            with running(start) as server:
                assert server.wait_for_exit() == "exited with status 0"
        else:
            with pytest.raises(SpawnError, match="a variable of its environment is one that no process can have"):
                start()
    assert open_files() <= before


def test_more_environment_than_a_message_holds_is_an_error_and_not_a_server_without_it(tmp_path: Path) -> None:
    with (
        server_socket(tmp_path / "socket", "cat") as path,
        pytest.raises(SpawnError, match="Argument list too long"),
    ):
        UnitChild(path, environment={"A": "x" * server_init.MAX_ENVIRONMENT_BYTES}, user="")


@pytest.mark.parametrize(
    ("files", "met"),
    [
        ({}, []),
        ({"memory.events": "low 0\noom 1\noom_kill 0\n", "pids.events": "max 0\n"}, []),
        ({"memory.events": "low 0\noom 1\noom_kill 2\n"}, ["memory"]),
        ({"memory.events": "oom_kill 1\n", "pids.events": "max 7\n"}, ["memory", "tasks"]),
    ],
)
def test_limits_that_a_unit_has_met_are_counted_by_its_control_group(
    files: dict[str, str], met: list[str], tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert server_init.find_limits_met(str(tmp_path)) == met


@pytest.mark.parametrize(
    ("report", "told"),
    [
        ("exited 3", "exited with status 3"),
        ("exited -9 memory", "was ended by signal 9: its unit ran out of the memory that it may have"),
        ("exited 1 tasks", "exited with status 1: its unit had as many tasks as it may have"),
        ("failed wiki: Permission denied", "cannot be started: wiki: Permission denied"),
        ("", "was ended with its unit: see the unit's entries in the system's journal"),
    ],
)
def test_people_are_told_what_a_unit_reports(report: str, told: str) -> None:
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    loop = Loop()
    ended: list[str] = []
    _Watch(loop, mine, ended.append)
    with its:
        if report:
            its.send(report.encode())
    while not ended:
        loop.turn()
    assert ended == [told]
    loop.close()


def open_files() -> set[tuple[str, Path]]:
    """This process' descriptors, with what each leads to: another test's may be closed meanwhile."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the folder itself
            found.add((descriptor.name, descriptor.readlink()))
    return found


def wait_until_gone(pid: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(GRACE_SECONDS)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_a_user_has_is_a_directory_that_is_made_once(place: Path) -> None:
    own = place / "75"
    for _ in range(2):
        server_init._enter(str(own))
        assert Path.cwd() == own
        os.chdir(place)
    assert own.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("target", ["other", "missing", "file"])
def test_what_a_user_has_is_not_what_a_symlink_names(place: Path, target: str) -> None:
    (place / "other").mkdir()
    (place / "file").touch()
    (place / "75").symlink_to(place / target)
    with pytest.raises(NotADirectoryError):
        server_init._enter(str(place / "75"))
    assert Path.cwd() == place
    assert not (place / "missing").exists()


def test_what_a_user_has_is_no_file(place: Path) -> None:
    (place / "75").touch()
    with pytest.raises(NotADirectoryError):
        server_init._enter(str(place / "75"))


def test_the_first_process_of_a_unit_loads_little() -> None:
    script = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='server_init'); print('pathlib' in sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", script, server_init.__file__]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "False\n"
