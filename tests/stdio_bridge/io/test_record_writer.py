"""What is written when a journal or a file does not take it at once, or is not there."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from stdio_bridge.io import record_writer
from stdio_bridge.io.event_loop import Loop
from stdio_bridge.io.metrics import Counter
from stdio_bridge.io.record_writer import File, Journal, RecordWriter, open_destination
from stdio_bridge.options import RecordsTarget
from stdio_bridge.protocol.errors import UsageError

HEAD = b"mcp-call\n\n6\n0\n0\n0\n0\n"


class Reluctant:
    """A destination that takes some bytes of each write, or none."""

    def __init__(self) -> None:
        self.written = b""
        self.takes: int | OSError = BlockingIOError(errno.EAGAIN, "full")
        self.waits = 0.0

    def write(self, data: bytes) -> int:
        if isinstance(self.takes, OSError):
            raise self.takes
        self.written += data[: self.takes]
        return min(len(data), self.takes)

    def wait(self, seconds: float) -> None:
        self.waits = seconds

    def close(self) -> None: ...


def turn(loop: Loop) -> None:
    """Let the loop do what is due, and wait for no longer than a moment."""
    loop.call_later(0.01, lambda: None)
    loop.turn()


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.mark.parametrize("error", [BlockingIOError(errno.EAGAIN, "full"), OSError(errno.ENOSPC, "no space")])
def test_lines_wait_for_a_destination_that_takes_none_and_come_in_order(loop: Loop, error: OSError) -> None:
    destination, lost = Reluctant(), Counter()
    destination.takes = error
    writer = RecordWriter(destination, loop, lost)
    writer.write([b"1\n", b"2\n"])
    writer.write([b"3\n"])
    assert destination.written == b""
    destination.takes = 3
    while destination.written != b"1\n2\n3\n":
        turn(loop)
    writer.write([b"4\n"])
    assert destination.written == b"1\n2\n3\n4\n"
    assert lost.value == 0


def test_lines_beyond_the_bound_are_lost_and_counted(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_writer, "_MAX_WAITING", 3)
    destination, lost = Reluctant(), Counter()
    writer = RecordWriter(destination, loop, lost)
    for number in range(5):
        writer.write([b"%d\n" % number])
    assert lost.value == 2
    destination.takes = 100
    writer.close()
    assert destination.written == b"0\n1\n2\n"
    assert destination.waits > 0


def test_lines_beyond_the_bound_in_bytes_are_lost_and_counted(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_writer, "_MAX_WAITING_BYTES", 10)
    destination, lost = Reluctant(), Counter()
    writer = RecordWriter(destination, loop, lost)
    writer.write([b"0123456\n"])  # its destination has yet to say that it takes nothing
    writer.write([b"1\n", b"2\n"])
    assert lost.value == 1
    destination.takes = 4
    while destination.written != b"0123456\n1\n":
        turn(loop)
    # What is written no longer counts.
    destination.takes = BlockingIOError(errno.EAGAIN, "full")
    for number in range(3, 10):
        writer.write([b"%d\n" % number])
    assert lost.value == 3
    destination.takes = 100
    writer.close()
    assert destination.written == b"0123456\n1\n3\n4\n5\n6\n7\n"
    assert lost.value == 3


def test_what_is_not_written_at_the_end_is_counted(loop: Loop) -> None:
    destination, lost = Reluctant(), Counter()
    writer = RecordWriter(destination, loop, lost)
    writer.write([b"1\n", b"2\n"])
    writer.close()
    assert lost.value == 2


def test_a_file_is_for_its_owner_and_is_appended_to(tmp_path: Path, loop: Loop) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text("before\n")
    path.unlink()
    for line in (b"1\n", b"2\n"):
        destination = open_destination(RecordsTarget(path=path, is_journal=False), identifier="mcp-call")
        assert isinstance(destination, File)
        writer = RecordWriter(destination, loop, Counter())
        writer.write([line])
        writer.close()
    assert path.read_text() == "1\n2\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    target = RecordsTarget(path=tmp_path / "missing" / "calls.jsonl", is_journal=False)
    with pytest.raises(UsageError, match=r"--call-records .*/missing/calls.jsonl: cannot be opened: No such file"):
        open_destination(target, identifier="mcp-call")
    assert open_destination(None, identifier="mcp-call") is None


def journal(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()
    listener.settimeout(60)
    return listener


def accept(listener: socket.socket, loop: Loop) -> socket.socket:
    """Return the connection that the loop is about to make."""
    listener.setblocking(False)
    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            turn(loop)
        else:
            connection.settimeout(60)
            return connection


def read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        assert more
        data += more
    return data


def test_a_journal_is_told_the_identifier_first_and_is_opened_again_when_it_has_gone(
    tmp_path: Path, loop: Loop
) -> None:
    path = tmp_path / "stdout"
    writer = RecordWriter(Journal(path, identifier="mcp-call"), loop, Counter())
    writer.write([b"before it is there\n"])
    with journal(path) as listener:
        connection = accept(listener, loop)
        assert read(connection, len(HEAD) + 19) == HEAD + b"before it is there\n"
        connection.close()
    path.unlink()
    with journal(path) as listener:
        writer.write([b"1\n"])
        writer.close()
        connection, _ = listener.accept()
        connection.settimeout(60)
        assert read(connection, len(HEAD) + 2) == HEAD + b"1\n"
        connection.close()


def test_a_journal_that_reads_nothing_makes_no_one_wait(tmp_path: Path, loop: Loop) -> None:
    path = tmp_path / "stdout"
    lines = [b"%06d %s\n" % (number, b"x" * 200) for number in range(5000)]
    with journal(path) as listener:
        writer = RecordWriter(Journal(path, identifier="mcp-call"), loop, lost := Counter())
        writer.write(lines)
        connection, _ = listener.accept()
        connection.setblocking(False)
        total = len(HEAD) + sum(map(len, lines))
        data = b""
        while len(data) < total:
            turn(loop)
            with contextlib.suppress(BlockingIOError):
                data += connection.recv(1 << 20)
        assert data == HEAD + b"".join(lines)
        assert lost.value == 0
        writer.close()
        connection.close()
