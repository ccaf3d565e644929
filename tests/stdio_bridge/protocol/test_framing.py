from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_bridge.protocol.framing import LineSplitter, sse_event
from stdio_bridge.protocol.malformed import find_answered


@given(st.lists(st.binary(max_size=20)), st.data())
def test_lines_come_out_the_same_however_the_bytes_arrive(lines: list[bytes], data: st.DataObject) -> None:
    lines = [line.replace(b"\n", b"").replace(b"\r", b"") for line in lines]
    stream = b"".join(line + b"\n" for line in lines)
    splitter = LineSplitter(1000)
    got: list[bytes] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        got += splitter.feed(stream[:size])
        stream = stream[size:]
    assert got == [line for line in lines if line]


def test_a_line_over_the_limit_is_skipped_and_counted_and_the_next_one_is_read() -> None:
    splitter = LineSplitter(4)
    assert list(splitter.feed(b"12")) == []
    assert list(splitter.feed(b"345\nok\n")) == [b"ok"]
    assert splitter.skipped == 1


def test_a_line_of_exactly_the_limit_is_read() -> None:
    assert list(LineSplitter(4).feed(b"1234\n")) == [b"1234"]


def test_what_stands_after_the_last_line_break_is_kept_for_the_end() -> None:
    splitter = LineSplitter(100)
    assert list(splitter.feed(b"one\r\ntwo")) == [b"one"]
    assert splitter.flush() == b"two"


def test_an_event_carries_its_id_and_its_data_on_one_line_each() -> None:
    assert sse_event(b'{"a":1}', "3-7") == b'event: message\nid: 3-7\ndata: {"a":1}\n\n'


@pytest.mark.parametrize(
    ("line", "answered"),
    [
        (b'{"jsonrpc":"2.0","id":7,"result":{"text":"%b"}}', 7),
        (b'{"jsonrpc": "2.0", "id": 7, "error": {"code": 1, "message": "%b"}}', 7),
        (b'{"result":{"text":"%b"},"jsonrpc":"2.0","id":7}', 7),
        (b'{"result":{"text":"%b","inner":{"a":1,"jsonrpc":"2.0","id":7}},"id":8,"jsonrpc":"2.0"}', 8),
        (b'{"jsonrpc":"2.0","result":{"text":"%b","inner":{"a":1,"id":7}', None),
        (b'{"jsonrpc":"2.0","method":"m","params":{"text":"%b","inner":{"a":1,"jsonrpc":"2.0","id":7}}}', None),
        (b'{"jsonrpc":"2.0","id":7,"method":"m","params":{"text":"%b"}}', None),
        (b'noise %b,"jsonrpc":"2.0","id":7}', None),
    ],
)
def test_of_a_line_that_is_too_long_the_ends_tell_which_call_it_answers(line: bytes, answered: int | None) -> None:
    for piece in (1, 7, 10_000):
        data = line % (b"x" * 1000) + b"\n"
        splitter = LineSplitter(500)
        for start in range(0, len(data), piece):
            assert list(splitter.feed(data[start : start + piece])) == []
        assert splitter.skipped == 1
        assert [find_answered(*ends, cut=True) for ends in splitter.take_skipped()] == [answered]
