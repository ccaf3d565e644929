from __future__ import annotations

import pytest

from stdio_bridge.protocol.event_stream import EventStream, parse_event_id


class Socket:
    def __init__(self) -> None:
        self.data = b""
        self.finished = False

    def write(self, data: bytes) -> None:
        self.data += data

    def finish(self) -> None:
        self.finished = True


def test_of_what_is_dropped_a_question_that_nobody_has_heard_is_told_of() -> None:
    stream = EventStream(number=0, max_bytes=1000)
    heard, unheard, big = {"id": "s1", "method": "a"}, {"id": "s2", "method": "b"}, {"method": "c", "x": "x" * 900}
    wire = Socket()
    stream.attach(wire)
    stream.add(heard)
    stream.detach(wire)
    assert stream.add({"method": "news"}) == []
    assert stream.add(unheard) == []
    assert [*stream.add(big), *stream.add(big)] == [unheard]


def test_a_stream_resumes_after_the_last_event_seen_and_repeats_no_other() -> None:
    stream, first = EventStream(number=2, max_bytes=10_000), Socket()
    stream.attach(first)
    stream.add({"n": 0})
    stream.add({"n": 1})
    stream.detach(first)
    stream.add({"n": 2})
    again = Socket()
    stream.attach(again, after=0)
    assert again.data.count(b"id: ") == 2
    assert b"id: 2-1\n" in again.data
    assert b"id: 2-2\n" in again.data


def test_a_stream_keeps_no_more_bytes_than_its_bound() -> None:
    stream, late = EventStream(number=0, max_bytes=200), Socket()
    for number in range(100):
        stream.add({"n": number})
    stream.attach(late)
    assert len(late.data) <= 200
    assert b'{"n":99}' in late.data


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "a-b", "1-2-3", "٣-1x", "9" * 50 + "-1"])
def test_an_event_id_that_was_never_issued_is_none(text: str) -> None:
    assert parse_event_id(text) is None
