"""The loop goes on, whatever becomes of one connection."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from stdio_bridge.io.event_loop import Loop


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


class Broken:
    """What fails when it is read, and where told so when it is closed after that."""

    accepting = False

    def __init__(self, loop: Loop, fd: int, *, closes: bool) -> None:
        self._loop = loop
        self._fd = fd
        self._closes = closes
        loop[fd] = self

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        raise RuntimeError("cannot be read")

    def handle_write_event(self) -> None:
        raise AssertionError("it has nothing to write")

    def handle_close(self) -> None:
        if not self._closes:
            raise RuntimeError("cannot be closed")
        del self._loop[self._fd]


@pytest.mark.parametrize("closes", [True, False])
def test_a_connection_that_fails_is_left_and_the_loop_goes_on(
    ends: tuple[int, int], closes: bool, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = ends
    loop = Loop()
    Broken(loop, reader, closes=closes)
    os.write(writer, b"x")
    loop.turn()
    assert not loop
    done: list[str] = []
    loop.call_soon(lambda: done.append("done"))
    loop.call_later(0.01, lambda: None)
    loop.turn()
    assert done == ["done"]
    told = ["a connection failed", "a connection that failed cannot be closed"]
    assert [record.getMessage() for record in caplog.records] == told[: 1 if closes else 2]
    loop.close()
