"""The proxy itself: reads one request of each connection, and then passes on bytes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

from stdio_bridge.io.log_handler import LimitedLog

from .connect_request import ESTABLISHED, Refusal, Target, parse_request
from .control_groups import find_control_group
from .domains import Domains

MAX_CONNECTIONS = 512
HEAD_SECONDS = 10.0
# Also for addresses that the kernel lets nothing pass to: it tells nobody.
_CONNECT_SECONDS = 10.0
# For what was sent to a side that has ended.
_CLOSE_SECONDS = 10.0
# What the proxy keeps of one direction of one tunnel.
_BUFFER_BYTES = 16 * 1024

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Connection:
    """One connection of a client, and the control group of the session that it belongs to."""

    def __init__(self, client: socket.socket, control_group: int | None) -> None:
        self.socket = client
        self.control_group = control_group
        self.task: asyncio.Task[None] | None = None
        self.used_at = time.monotonic()


class _Connections:
    """The connections of each session, with the least recently used one first."""

    def __init__(self) -> None:
        self._by_session: dict[int | None, dict[_Connection, None]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[_Connection]:
        for session in self._by_session.values():
            yield from session

    def add(self, connection: _Connection) -> None:
        self._by_session.setdefault(connection.control_group, {})[connection] = None
        self._count += 1

    def discard(self, connection: _Connection) -> None:
        session = self._by_session.get(connection.control_group, {})
        if connection not in session:
            return
        del session[connection]
        self._count -= 1
        if not session:
            del self._by_session[connection.control_group]

    def touch(self, connection: _Connection) -> None:
        """Something was passed on in it, so that it is the most recently used one."""
        connection.used_at = time.monotonic()
        session = self._by_session.get(connection.control_group, {})
        if connection in session:
            del session[connection]
            session[connection] = None

    def least_needed(self) -> _Connection:
        """Return the least recently used connection of the session that has most of them.

        Of several sessions with as many, it is the session whose connection was not used for longest.
        """
        oldest = [(len(session), next(iter(session))) for session in self._by_session.values()]
        return max(oldest, key=lambda each: (each[0], -each[1].used_at))[1]


class EgressProxy:
    """Serves the processes of one server.

    Beyond `max_connections` it closes one to make room: of the session that has most of them, the one that was used
    least recently. So a session that floods the proxy loses its own connections.
    """

    def __init__(
        self,
        domains: Domains,
        refusals: LimitedLog,
        *,
        connect: Callable[[Target, int | None], Awaitable[socket.socket]],
        find_control_group: Callable[[socket.socket], int | None] = find_control_group,
        max_connections: int = MAX_CONNECTIONS,
        head_seconds: float = HEAD_SECONDS,
    ) -> None:
        self._domains = domains
        self._refusals = refusals
        self._connect = connect
        self._find_control_group = find_control_group
        self._max_connections = max_connections
        self._head_seconds = head_seconds
        self._connections = _Connections()
        self._in_use = asyncio.Event()
        self._unused = asyncio.Event()
        self._unused.set()

    async def serve(self, listener: socket.socket, *, idle_seconds: float) -> None:
        """Serve until there has been no connection for so long. What connects later waits for the next process."""
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        loop.add_reader(listener.fileno(), self._accept, listener)
        try:
            while await self._is_used_within(idle_seconds):
                await self._unused.wait()
        finally:
            loop.remove_reader(listener.fileno())
            tasks = [each.task for each in self._connections if each.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _is_used_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._in_use.wait()
        return self._in_use.is_set()

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # it has gone
        connection = _Connection(client, self._find_control_group(client))
        self._connections.add(connection)
        if len(self._connections) > self._max_connections:
            self._close(self._connections.least_needed())
        self._unused.clear()
        self._in_use.set()
        connection.task = asyncio.create_task(self._serve(connection))
        connection.task.add_done_callback(lambda _: self._forget(connection))

    def _close(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        if connection.task is not None:
            connection.task.cancel()

    def _forget(self, connection: _Connection) -> None:
        connection.socket.close()
        self._connections.discard(connection)
        if not self._connections:
            self._in_use.clear()
            self._unused.set()

    async def _serve(self, connection: _Connection) -> None:
        reader, writer = await asyncio.open_connection(sock=connection.socket, limit=_BUFFER_BYTES)
        try:
            try:
                upstream = await self._reach(await self._read_request(reader), connection.control_group)
            except Refusal as refusal:
                self._refusals.log(logging.WARNING, "refused: %s", refusal)
                writer.write(refusal.render())
                writer.write_eof()
                # Closed with something unread in it, the connection would be reset, and the answer lost.
                async with asyncio.timeout(self._head_seconds):
                    while await reader.read(_BUFFER_BYTES):
                        pass
            else:
                await _pass_on_both_ways(
                    connection.socket, (reader, writer), upstream, partial(self._connections.touch, connection)
                )
        except (OSError, EOFError):
            pass  # the client has gone, or has asked for nothing in time
        finally:
            writer.transport.abort()

    async def _read_request(self, reader: asyncio.StreamReader) -> Target:
        """Raises Refusal, and EOFError or OSError where there is no request."""
        try:
            async with asyncio.timeout(self._head_seconds):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            raise Refusal("431 Request Header Fields Too Large", "The head of the request is too large.") from None
        return parse_request(head, self._domains)

    async def _reach(self, target: Target, session: int | None) -> Streams:
        """Raises Refusal."""
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                connected = await self._connect(target, session)
        except TimeoutError:
            raise Refusal(
                "504 Gateway Timeout",
                f"{target.name} does not answer, or has an address that the sandbox does not reach.",
            ) from None
        except OSError as error:
            raise Refusal("502 Bad Gateway", f"{target.name} cannot be reached: {error.strerror or error}.") from None
        return await asyncio.open_connection(sock=connected, limit=_BUFFER_BYTES)


async def _pass_on_both_ways(
    client: socket.socket, client_streams: Streams, upstream: Streams, touch: Callable[[], None]
) -> None:
    (from_client, to_client), (from_upstream, to_upstream) = client_streams, upstream
    try:
        for writer in (to_client, to_upstream):
            writer.transport.set_write_buffer_limits(_BUFFER_BYTES)
        to_client.write(ESTABLISHED)
        async with asyncio.TaskGroup() as tunnel:
            sending = tunnel.create_task(_pass_on(from_client, to_upstream, touch))
            receiving = tunnel.create_task(_pass_on(from_upstream, to_client, touch))
            leaving = tunnel.create_task(_end_with_client(client, sending, receiving))
            receiving.add_done_callback(lambda _: leaving.cancel())
        for writer in (to_client, to_upstream):
            writer.close()
            async with asyncio.timeout(_CLOSE_SECONDS):
                await writer.wait_closed()
    except* OSError:
        pass  # one side has gone, and so does the other
    finally:
        to_upstream.transport.abort()


async def _end_with_client(client: socket.socket, sending: asyncio.Task[None], receiving: asyncio.Task[None]) -> None:
    """Stop receiving when a client has closed its connection, and not only the half by which it sends."""
    await asyncio.wait([sending])  # to await it would end it with this
    loop = asyncio.get_running_loop()
    closed = asyncio.Event()
    with select.epoll() as watched:
        watched.register(client.fileno(), 0)  # and so EPOLLHUP alone
        loop.add_reader(watched.fileno(), closed.set)
        try:
            await closed.wait()
        finally:
            loop.remove_reader(watched.fileno())
    receiving.cancel()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, touch: Callable[[], None]) -> None:
    while data := await reader.read(_BUFFER_BYTES):
        touch()
        writer.write(data)
        await writer.drain()
    writer.write_eof()
