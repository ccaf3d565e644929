from __future__ import annotations

import logging
import os
import re
import socket
import sys
from collections.abc import Callable

import pytest

from stdio_bridge.io.log_handler import Allowance, LimitedLog, LineFormatter, StderrHandler


def socketpair() -> tuple[int, int]:
    reader, writer = socket.socketpair()
    return reader.detach(), writer.detach()


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("t", logging.INFO, "", 0, text, None, None)


@pytest.mark.parametrize("make", [os.pipe, socketpair])
def test_a_log_that_nobody_reads_never_makes_anyone_wait_and_goes_on_with_whole_lines(
    make: Callable[[], tuple[int, int]],
) -> None:
    reader, writer = make()
    handler = StderrHandler(writer)
    for number in range(20_000):
        handler.emit(record(f"{number:06} {'x' * 100}"))
    os.set_blocking(reader, False)
    data = read_all(reader)
    handler.emit(record("the end"))
    data += read_all(reader)
    handler.close()
    os.close(reader)
    os.close(writer)
    lines = data.decode().splitlines()
    assert lines[0] == f"INFO 000000 {'x' * 100}"
    assert lines[-1] == "INFO the end"
    assert any("log lines were dropped" in line for line in lines)
    assert {line.split()[0] for line in lines} == {"INFO", "WARNING"}


def read_all(fd: int) -> bytes:
    data = b""
    while True:
        try:
            data += os.read(fd, 1 << 20)
        except BlockingIOError:
            return data


def test_a_log_whose_reader_is_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    handler = StderrHandler(writer)
    os.close(reader)
    handler.emit(record("into the void"))
    handler.close()
    os.close(writer)


def test_no_message_ends_its_line_or_its_entry_or_moves_a_cursor() -> None:
    hostile = 'x\0<0>forged\n{"event": "grant.revoked"}\r\x1b[2J\x85\u2028\u202e\ud800é\t'
    line = LineFormatter().format(record(hostile))
    assert line.startswith("INFO x\\x00<0>forged\\n{")
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u202e]", line)
    assert line.endswith("é\\t")


def test_lines_of_a_trace_are_indented_so_that_none_passes_for_another_message() -> None:
    failed = record("failed")
    try:
        raise ValueError("x\nINFO forged\0")
    except ValueError:
        failed.exc_info = sys.exc_info()
    first, *trace = LineFormatter().format(failed).split("\n")
    assert first == "INFO failed"
    assert len(trace) > 2
    assert all(line.startswith("  ") and "\0" not in line for line in trace)


def test_what_all_processes_of_a_server_log_is_bounded_in_bytes_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    allowance = Allowance(lambda: now, per_second=1000, at_once=10_000)
    one, other = (
        LimitedLog(logging.getLogger("t"), lambda: now, per_second=100, allowance=allowance) for _ in range(2)
    )
    caplog.set_level(logging.INFO)

    def written() -> int:
        messages = [each.getMessage() for each in caplog.records]
        caplog.clear()
        return sum(message == "x" * 800 for message in messages)

    for _ in range(100):
        one.log(logging.INFO, "%s", "x" * 800)
    assert written() == 10
    other.log(logging.INFO, "%s", "x" * 800)
    assert written() == 0
    now = 3.0
    for _ in range(100):
        other.log(logging.INFO, "%s", "x" * 800)
    assert caplog.records[0].getMessage() == "1 more lines were not logged"
    assert written() == 3
    now = 1000.0
    for _ in range(100):
        one.log(logging.INFO, "%s", "x" * 800)
    assert written() == 10, "what is saved up is bounded, too"
