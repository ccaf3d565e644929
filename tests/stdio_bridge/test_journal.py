from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable

import pytest

from stdio_bridge.journal import StderrHandler


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
