"""The loop goes on, whatever becomes of one connection."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

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


class Recorded:
    """What notes what is read of a pipe, and fails on demand when it is asked what it waits for."""

    accepting = False

    def __init__(self, loop: Loop, fd: int) -> None:
        self._loop = loop
        self._fd = fd
        self.is_broken = False
        self.writes = False
        self.received = b""
        self.is_closed = False
        loop[fd] = self

    def readable(self) -> bool:
        if self.is_broken:
            raise RuntimeError("does not know")
        return True

    def writable(self) -> bool:
        return self.writes

    def handle_read_event(self) -> None:
        self.received += os.read(self._fd, 100)

    def handle_write_event(self) -> None: ...

    def handle_close(self) -> None:
        self.is_closed = True
        del self._loop[self._fd]


def check_that_one_ends_alone(
    loop: Loop, broken: Recorded, ends: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = ends
    other = Recorded(loop, reader)
    os.write(writer, b"x")
    loop.turn()
    assert (other.received, other.is_closed, broken.is_closed) == (b"x", False, True)
    assert list(loop) == [reader]
    assert caplog.messages == ["a connection cannot be waited for"]
    os.write(writer, b"y")
    loop.turn()
    assert (other.received, len(caplog.messages)) == (b"xy", 1)
    loop.close()


def test_a_descriptor_that_cannot_be_waited_for_ends_its_own_connection_alone(
    ends: tuple[int, int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (tmp_path / "file").open("rb") as file:  # epoll takes no regular files
        loop = Loop()
        check_that_one_ends_alone(loop, Recorded(loop, file.fileno()), ends, caplog)


@pytest.mark.parametrize("is_registered", [True, False])
def test_a_descriptor_that_was_closed_elsewhere_ends_its_own_connection_alone(
    ends: tuple[int, int], is_registered: bool, caplog: pytest.LogCaptureFixture
) -> None:
    loop = Loop()
    fd = os.eventfd(0)
    broken = Recorded(loop, fd)
    if is_registered:
        loop.call_later(0.01, lambda: None)
        loop.turn()
        broken.writes = True
        loop.touch(fd)
    os.close(fd)
    check_that_one_ends_alone(loop, broken, ends, caplog)


def test_a_connection_that_cannot_say_what_it_waits_for_ends_alone(
    ends: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    loop = Loop()
    fd = os.eventfd(0)
    broken = Recorded(loop, fd)
    broken.is_broken = True
    check_that_one_ends_alone(loop, broken, ends, caplog)
    os.close(fd)
