"""The egress proxy on a socket, as systemd hands it over."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from stdio_bridge.egress.connect_request import Target
from stdio_bridge.egress.domains import Domains
from stdio_bridge.egress.proxy import EgressProxy, Streams
from stdio_bridge.io.log_handler import LimitedLog

ROOT = Path(__file__).parents[3]
CONNECT = b"CONNECT api.github.com:443 HTTP/1.1\r\n\r\n"
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
LIMIT = 60  # seconds
NEVER = 1e6

log = logging.getLogger("tests.egress")


class Running:
    """A proxy at a socket, and the server that all of its tunnels lead to."""

    def __init__(self, path: Path, asked: list[Target]) -> None:
        self.path = path
        self.asked = asked
        self._opened: list[asyncio.StreamWriter] = []

    async def ask(self, request: bytes = CONNECT) -> Streams:
        """Send a request, and return the connection with what comes of it."""
        reader, writer = await asyncio.open_unix_connection(self.path)
        self._opened.append(writer)
        writer.write(request)
        return reader, writer

    async def close(self) -> None:
        """Close all connections that were opened by `ask`."""
        await close(*self._opened)

    async def open_tunnel(self) -> Streams:
        reader, writer = await self.ask()
        assert await reader.readuntil(b"\r\n\r\n") == ESTABLISHED
        return reader, writer

    async def refuse(self, request: bytes) -> str:
        """Return the first line of what a refused request gets, and be sure that this is all there is."""
        reader, writer = await self.ask(request)
        answer = await reader.read()
        await close(writer)
        return answer.partition(b"\r\n")[0].decode()


class Upstream:
    """Connects each tunnel to a socket, of which it keeps the other end."""

    def __init__(self) -> None:
        self.ends: list[Streams] = []

    async def reach(self, _target: Target, _session: int | None) -> socket.socket:
        near, far = socket.socketpair()
        self.ends.append(await asyncio.open_connection(sock=far))
        return near


async def close(*writers: asyncio.StreamWriter) -> None:
    """Close connections, and wait until they are."""
    for writer in writers:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()
    await close(writer)


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield listener


@contextlib.asynccontextmanager
async def serving(
    folder: Path,
    *,
    reach: Callable[[Target, int | None], Awaitable[socket.socket]] | None = None,
    domains: tuple[str, ...] = ("api.github.com",),
    max_connections: int = 100,
    head_seconds: float = LIMIT,
    find_control_group: Callable[[socket.socket], int | None] = lambda _: None,
) -> AsyncIterator[Running]:
    echoes: list[asyncio.Task[None]] = []
    asked: list[Target] = []

    def start_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        echoes.append(asyncio.create_task(echo(reader, writer)))

    upstream = await asyncio.start_unix_server(start_echo, folder / "upstream")

    async def reach_upstream(target: Target, _session: int | None) -> socket.socket:
        asked.append(target)
        connected = socket.socket(socket.AF_UNIX)
        connected.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connected, str(folder / "upstream"))
        return connected

    proxy = EgressProxy(
        Domains(domains),
        LimitedLog(log, time.monotonic, per_second=1000),
        connect=reach or reach_upstream,
        find_control_group=find_control_group,
        max_connections=max_connections,
        head_seconds=head_seconds,
    )
    with listening(folder / "proxy") as listener:
        task = asyncio.create_task(proxy.serve(listener, idle_seconds=NEVER))
        running = Running(folder / "proxy", asked)
        try:
            async with asyncio.timeout(LIMIT):
                yield running
        finally:
            await running.close()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            upstream.close()
            await asyncio.gather(*echoes)


def test_a_tunnel_passes_on_what_both_sides_send_and_where_each_ends(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as running:
            reader, writer = await running.open_tunnel()
            sent = os.urandom(1_000_000)
            writer.write(sent)
            writer.write_eof()
            assert await reader.read() == sent
            assert running.asked == [Target("api.github.com", 443)]

    asyncio.run(scenario())


def test_what_comes_with_the_request_belongs_to_the_tunnel(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as running:
            # A second request in it is for the server at the other end, and for nobody else.
            second = b"CONNECT evil.example:443 HTTP/1.1\r\n\r\n"
            reader, writer = await running.ask(
                b"CONNECT api.github.com:443 HTTP/1.1\r\nContent-Length: 3\r\n\r\n" + second
            )
            writer.write_eof()
            assert await reader.read() == ESTABLISHED + second
            assert len(running.asked) == 1

    asyncio.run(scenario())


def test_a_refused_client_is_told_why_and_reaches_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as running:
            assert await running.refuse(b"CONNECT evil.example:443 HTTP/1.1\r\n\r\n") == "HTTP/1.1 403 Forbidden"
            # Nor does what follows in the same connection.
            assert await running.refuse(b"GET http://api.github.com/ HTTP/1.1\r\n\r\n" + CONNECT) == (
                "HTTP/1.1 405 Method Not Allowed"
            )
            assert await running.refuse(b"CONNECT api.github.com:443 HTTP/1.1\r\nX: " + b"x" * 100_000) == (
                "HTTP/1.1 431 Request Header Fields Too Large"
            )
            assert running.asked == []

    with caplog.at_level(logging.WARNING, log.name):
        asyncio.run(scenario())
    assert caplog.messages[0] == "refused: evil.example is not in sandbox.network.domains of this server."


def test_a_client_that_asks_for_nothing_is_let_go(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, head_seconds=0.01) as running:
            reader, _ = await running.ask(b"CONNECT api")
            assert await reader.read() == b""

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (PermissionError(1, "Operation not permitted"), "HTTP/1.1 502 Bad Gateway"),
        (socket.gaierror(-2, "Name or service not known"), "HTTP/1.1 502 Bad Gateway"),
        (TimeoutError(), "HTTP/1.1 504 Gateway Timeout"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(tmp_path: Path, error: OSError, status: str) -> None:
    async def fail(_target: Target, _session: int | None) -> socket.socket:
        raise error

    async def scenario() -> None:
        async with serving(tmp_path, reach=fail) as running:
            assert await running.refuse(CONNECT) == status

    asyncio.run(scenario())


def test_a_tunnel_ends_with_either_side(tmp_path: Path) -> None:
    upstream = Upstream()

    async def scenario() -> None:
        async with serving(tmp_path, reach=upstream.reach) as running:
            _, writer = await running.open_tunnel()
            writer.transport.abort()
            assert await upstream.ends[0][0].read() == b""
            reader, writer = await running.open_tunnel()
            upstream.ends[1][1].transport.abort()
            assert await reader.read() == b""
            await close(*(each for _, each in upstream.ends))

    asyncio.run(scenario())


def test_a_side_that_has_sent_all_still_receives(tmp_path: Path) -> None:
    upstream = Upstream()

    async def scenario() -> None:
        async with serving(tmp_path, reach=upstream.reach) as running:
            reader, writer = await running.open_tunnel()
            from_client, to_client = upstream.ends[0]
            to_client.write_eof()
            assert await reader.read() == b""
            writer.write(b"x" * 100_000)
            writer.write_eof()
            assert len(await from_client.read()) == 100_000
            reader, writer = await running.open_tunnel()
            from_client, to_client = upstream.ends[1]
            writer.write_eof()
            assert await from_client.read() == b""
            to_client.write(b"y" * 100_000)
            to_client.write_eof()
            assert len(await reader.read()) == 100_000
            await close(*(each for _, each in upstream.ends))

    asyncio.run(scenario())


@pytest.mark.parametrize("in_halves", [False, True])
def test_a_tunnel_ends_with_its_session_although_the_other_side_keeps_it_open(tmp_path: Path, in_halves: bool) -> None:
    near, far = socket.socketpair()

    async def reach(_target: Target, _session: int | None) -> socket.socket:
        return near

    async def scenario() -> None:
        with listening(tmp_path / "proxy") as listener:
            proxy = EgressProxy(
                Domains(["api.github.com"]), LimitedLog(log, time.monotonic, per_second=1), connect=reach
            )
            serve = asyncio.create_task(proxy.serve(listener, idle_seconds=0.01))
            running = Running(tmp_path / "proxy", [])
            reader, writer = await running.open_tunnel()
            from_client, to_client = await asyncio.open_connection(sock=far)
            writer.write(b"the last words")
            if in_halves:
                writer.write_eof()
                assert await from_client.read() == b"the last words"
                to_client.write(b"y")
                assert await reader.readexactly(1) == b"y"
            await running.close()
            assert await from_client.read() == b"" if in_halves else b"the last words"
            # The proxy has nothing left that keeps it.
            async with asyncio.timeout(LIMIT):
                await serve
            await close(to_client)

    asyncio.run(scenario())


def test_a_head_that_comes_in_drops_has_no_more_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, head_seconds=0.05) as running:
            reader, writer = await running.ask(b"CONNECT ")
            ended = asyncio.create_task(reader.read())
            while not ended.done():
                writer.write(b"a")
                await asyncio.sleep(0)
            assert ended.exception() is not None or ended.result() == b""
            assert running.asked == []

    asyncio.run(scenario())


def test_beyond_the_limit_the_least_recently_used_connection_makes_room(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, max_connections=2) as running:
            idle, busy = await running.open_tunnel(), await running.open_tunnel()
            busy[1].write(b"x")
            assert await busy[0].readexactly(1) == b"x"
            newest = await running.open_tunnel()
            assert await idle[0].read() == b""
            for reader, writer in (busy, newest):
                writer.write(b"y")
                assert await reader.readexactly(1) == b"y"

    asyncio.run(scenario())


def process_of(client: socket.socket) -> int:
    """Stands in for the control group: all processes of a test have one."""
    pid: int
    pid, _, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid


def test_a_session_that_floods_the_proxy_loses_its_own_connections(tmp_path: Path) -> None:
    """Although those of the other session have been idle for longer."""
    flood = (
        "import socket, sys\n"
        "opened = []\n"
        "for _ in range(20):\n"
        "    opened.append(socket.socket(socket.AF_UNIX)); opened[-1].connect(sys.argv[1])\n"
        f"    opened[-1].sendall({CONNECT!r}); opened[-1].recv(100)\n"
        "print('flooded', flush=True)\n"
        "sys.stdin.read()\n"
    )

    async def scenario() -> None:
        async with serving(tmp_path, max_connections=10, find_control_group=process_of) as running:
            mine = [await running.open_tunnel() for _ in range(4)]
            flooding = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                flood,
                str(running.path),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert flooding.stdout is not None
            assert await flooding.stdout.readline() == b"flooded\n"
            for reader, writer in mine:
                writer.write(b"z")
                assert await reader.readexactly(1) == b"z"
            await flooding.communicate(b"")

    asyncio.run(scenario())


def test_a_session_with_most_connections_makes_room_for_its_own_new_one(tmp_path: Path) -> None:
    """With as many as another session it would take from the other one, whose connections are older."""
    groups = iter([1, 1, 2, 2, 2])

    async def scenario() -> None:
        async with serving(tmp_path, max_connections=4, find_control_group=lambda _: next(groups)) as running:
            others = [await running.open_tunnel() for _ in range(2)]
            first, second, third = [await running.open_tunnel() for _ in range(3)]
            assert await first[0].read() == b""
            for reader, writer in (*others, second, third):
                writer.write(b"z")
                assert await reader.readexactly(1) == b"z"

    asyncio.run(scenario())


def test_of_sessions_with_as_many_connections_the_least_recently_used_one_makes_room(tmp_path: Path) -> None:
    groups = iter([1, 2, 3])

    async def scenario() -> None:
        async with serving(tmp_path, max_connections=2, find_control_group=lambda _: next(groups)) as running:
            first, second = [await running.open_tunnel() for _ in range(2)]
            first[1].write(b"x")
            assert await first[0].readexactly(1) == b"x"
            third = await running.open_tunnel()
            assert await second[0].read() == b""
            for reader, writer in (first, third):
                writer.write(b"z")
                assert await reader.readexactly(1) == b"z"

    asyncio.run(scenario())


def run_command(listener: socket.socket, *arguments: str, handed_over: bool = True) -> tuple[int, str]:
    """Run `mcp-egress-proxy` as systemd does, to its end; return its status and what it wrote to standard error."""
    number = listener.fileno()
    # The descriptor is the third one, and the process names itself.
    hand_over = f"os.dup2({number}, 3); os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))"
    start = f"""
import os, sys
{hand_over if handed_over else ""}
from stdio_bridge.egress.__main__ import main
sys.exit(main())
"""
    done = subprocess.run(
        (sys.executable, "-c", start, *arguments),
        cwd=ROOT,
        pass_fds=[number],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    return done.returncode, done.stderr


def test_the_command_serves_what_waits_at_its_socket_and_ends_when_nobody_is_connected(tmp_path: Path) -> None:
    with listening(tmp_path / "proxy") as listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "proxy"))
        client.sendall(b"CONNECT evil.example:443 HTTP/1.1\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        status, errors = run_command(listener, "--domain", "*.github.com", "--idle-exit", "0.01")
        assert client.recv(1000).startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert status == 0
        assert errors == "WARNING refused: evil.example is not in sandbox.network.domains of this server.\n"
        # Of systemd, whose socket it is, nothing is removed.
        assert (tmp_path / "proxy").is_socket()


@pytest.mark.parametrize(
    ("arguments", "handed_over", "complaint"),
    [
        (("--domain", "https://api.github.com"), True, "is not a name such as api.example.com or *.example.com"),
        (("--domain", "*.com"), True, "is not a name such as api.example.com or *.example.com"),
        ((), True, "required: --domain"),
        (("--domain", "api.github.com"), False, "systemd hands over no socket"),
    ],
)
def test_the_command_says_what_is_wrong(
    tmp_path: Path, arguments: tuple[str, ...], handed_over: bool, complaint: str
) -> None:
    with listening(tmp_path / "proxy") as listener:
        status, errors = run_command(listener, *arguments, handed_over=handed_over)
    assert status == 2
    assert complaint in errors
