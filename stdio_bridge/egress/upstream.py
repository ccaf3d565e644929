"""Looks up the names of targets, and connects to their addresses."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self
from weakref import WeakValueDictionary

from .connect_request import Target

LOOKUPS = 12
# So the lookups of one session, which may have chosen names that take long, leave threads to the others.
LOOKUPS_OF_A_SESSION = 4
# The next address is tried beside the one before after this time (RFC 8305, section 8).
_NEXT_ADDRESS_SECONDS = 0.25
# No host has these: they are reserved (RFC 1112, section 4) and not assigned (RFC 4291, section 2.4).
_RESERVED = {socket.AF_INET: "240.0.0.1", socket.AF_INET6: "4000::1"}

_Address = tuple[Any, ...]
_Found = tuple[socket.AddressFamily, _Address]


class Upstream:
    """Connects to targets."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="lookup")
        self._lookups: WeakValueDictionary[int | None, asyncio.Semaphore] = WeakValueDictionary()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def connect(self, target: Target, session: int | None) -> socket.socket:
        """Connect to a target for a session, which its control group stands for. Raises OSError.

        Which addresses may be reached is up to the kernel: the unit of the proxy sends nothing to private ones. The
        host's own addresses may be public.
        """
        found = [each for each in await self._look_up(target, session) if not is_own(*each)]
        if not found:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        connected = await _connect_to_first(_in_turn(found))
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connected

    async def _look_up(self, target: Target, session: int | None) -> list[_Found]:
        """Return the addresses of a target. Raises OSError."""
        free = self._lookups.setdefault(session, asyncio.Semaphore(LOOKUPS_OF_A_SESSION))
        await free.acquire()
        loop = asyncio.get_running_loop()

        def release(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(free.release)

        # The last dot keeps the resolver from adding search domains, which would make another name.
        lookup = self._threads.submit(socket.getaddrinfo, f"{target.name}.", target.port, type=socket.SOCK_STREAM)
        # A thread is busy until the resolver answers, also where nobody waits for that any more.
        lookup.add_done_callback(release)
        return [(family, address) for family, _, _, _, address in await asyncio.wrap_future(lookup)]


def is_own(family: socket.AddressFamily, address: _Address) -> bool:
    """Whether this host has an address: it takes it for a socket, or for the source of what goes there.

    Where the host takes any address for a socket (`net.ipv4.ip_nonlocal_bind`), only the source tells.
    """
    takes_any = _takes(family, (_RESERVED[family], 0))
    return _source_towards(family, address) == address[0] or (not takes_any and _takes(family, (address[0], 0)))


def _takes(family: socket.AddressFamily, address: _Address) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True


def _source_towards(family: socket.AddressFamily, address: _Address) -> str | None:
    """Return the source address of what would be sent to an address, without sending anything."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
            source: str = probe.getsockname()[0]
    except OSError:
        return None
    return source


def _in_turn(found: list[_Found]) -> list[_Found]:
    """Return addresses of both families in turn (RFC 8305, section 4)."""
    turns: Counter[socket.AddressFamily] = Counter()
    ranked = []
    for each in found:
        ranked.append((turns[each[0]], each))
        turns[each[0]] += 1
    return [each for _, each in sorted(ranked, key=lambda each: each[0])]


async def _connect_to_first(found: list[_Found]) -> socket.socket:
    """Connect to the address that answers first. Raises the OSError of the last one if none does."""
    left = deque(found)
    attempts: set[asyncio.Task[socket.socket]] = set()
    connected: socket.socket | None = None
    error: BaseException | None = None
    try:
        while connected is None and (left or attempts):
            if left:
                attempts.add(asyncio.create_task(_connect_to(*left.popleft())))
            timeout = _NEXT_ADDRESS_SECONDS if left else None
            done, _ = await asyncio.wait(attempts, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                attempts.discard(attempt)
                if attempt.exception() is not None:
                    error = attempt.exception()
                elif connected is None:
                    connected = attempt.result()
                else:
                    attempt.result().close()
    finally:
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(_close)
    if connected is not None:
        return connected
    raise error or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))


async def _connect_to(family: socket.AddressFamily, address: _Address) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, address)
    except BaseException:
        made.close()
        raise
    return made


def _close(attempt: asyncio.Task[socket.socket]) -> None:
    """Close what another attempt was faster than."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()
