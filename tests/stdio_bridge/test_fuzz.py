"""Any bytes at all, on the pipe or in a request: either a message, or a refusal that says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.framing import LineSplitter, sse_event
from stdio_bridge.protocol.jsonrpc import InvalidMessage

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
# Pieces that are nearly JSON, so that a fuzz gets past the first byte.
PIECES = st.lists(
    st.sampled_from(
        [b"{", b"}", b"[", b"]", b'"', b":", b",", b"1", b"-", b"1e999", b"NaN", b"null", b'"id"', b'"method"',
         b'"jsonrpc":"2.0"', b"\\ud800", b"\\u0000", b"\xff", b"\xed\xa0\x80", b"\xc3", b"\r", b"\n",
         b" ", b"\xef\xbb\xbf"]
    )
).map(b"".join)  # fmt: skip


@given(st.binary() | PIECES)
@example(b'{"jsonrpc":"2.0","method":"x","params":{"n":1e999}}')
@example(b"[" * 100_000)
@example(b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b',"method":"x"}')
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_a_message_that_can_be_written_again_or_are_refused(data: bytes) -> None:
    try:
        value = jsonrpc.parse_json(data)
        jsonrpc.kind_of(value)
    except InvalidMessage:
        return
    assert jsonrpc.parse_json(jsonrpc.encode(value)) == value


@given(JSON)
def test_what_json_can_say_comes_through_unchanged_and_on_one_line(value: Any) -> None:
    written = jsonrpc.encode(value)
    assert written.isascii()
    assert b"\n" not in written
    assert jsonrpc.parse_json(written) == value
    # Also as another writer would put it.
    assert jsonrpc.parse_json(json.dumps(value, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass")) == value


@given(JSON)
def test_an_event_holds_exactly_what_was_put_in(value: Any) -> None:
    *fields, empty, end = sse_event(jsonrpc.encode(value), "1-2").split(b"\n")
    assert (empty, end) == (b"", b"")
    assert dict(line.split(b": ", 1) for line in fields)[b"data"] == jsonrpc.encode(value)


@pytest.mark.parametrize("depth", [10, 50, 100_000])
def test_nested_json_is_taken_while_it_can_be_written_again(depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    data = b'{"jsonrpc":"2.0","method":"x","params":{"n":' + nested + b"}}"
    try:
        value = jsonrpc.parse_json(data)
    except InvalidMessage:
        assert depth > 50
        return
    assert jsonrpc.encode(value) == data


@given(st.lists(st.binary(max_size=12), max_size=12), st.integers(1, 16), st.integers(1, 5))
def test_lines_are_cut_alike_however_the_bytes_arrive_and_whatever_the_limit(
    parts: list[bytes], limit: int, size: int
) -> None:
    stream = b"\n".join(parts)
    splitter = LineSplitter(limit)
    got: list[bytes] = []
    for start in range(0, len(stream), size):
        got += splitter.feed(stream[start : start + size])
        assert sum(map(len, splitter._parts)) <= limit
    rest = splitter.flush()
    *lines, last = stream.split(b"\n")
    kept = [line for line in lines if len(line) <= limit]
    assert got == [line.rstrip(b"\r") for line in kept if line.rstrip(b"\r")]
    assert rest == (last.rstrip(b"\r") if len(last) <= limit else b"")
    assert splitter.skipped == len([line for line in [*lines, last] if len(line) > limit])


def nested(depth: int) -> bytes:
    return b'{"a":[' * (depth // 2) + b"]}" * (depth // 2)


def called_from(depth: int, function: Callable[[], object]) -> object:
    return function() if not depth else called_from(depth - 1, function)


def test_what_can_be_read_can_be_written_from_deeper_down() -> None:
    for depth in (2, 400, 500):
        value = jsonrpc.parse_json(nested(depth))
        assert called_from(200, lambda value=value: jsonrpc.encode(value)) == nested(depth)  # type: ignore[misc]
    for depth in (502, 900, 950, 980, 2000, 100_000):
        with pytest.raises(InvalidMessage):
            jsonrpc.parse_json(nested(depth))
    assert len(jsonrpc.parse_json(b"[" + b"[]," * 5000 + b"{}]")) == 5001
    assert jsonrpc.parse_json(b'"' + b"[" * 5000 + b'"') == "[" * 5000


@pytest.mark.parametrize(
    ("unit", "most"),
    [(b"[]", 99_999), (b'{"a":1}', 99_999), (b"0", 499_999), (b'"\\\\"', 499_999), (b'"[\\",{"', 499_999)],
)
def test_how_many_parts_a_message_has_is_bounded_and_counts_nothing_inside_strings(unit: bytes, most: int) -> None:
    assert len(jsonrpc.parse_json(b"[" + b",".join([unit] * most) + b"]")) == most
    with pytest.raises(InvalidMessage, match="more than"):
        jsonrpc.parse_json(b"[" + b",".join([unit] * (most + 2)) + b"]")


def test_a_long_text_may_hold_as_many_brackets_and_commas_as_it_likes() -> None:
    for text in (b"[{," * 1_000_000, b'\\"[{,' * 1_000_000, b"\\\\[{," * 1_000_000):
        assert isinstance(jsonrpc.parse_json(b'{"a":"' + text + b'"}')["a"], str)


def test_members_of_an_object_are_bounded_too() -> None:
    def members(count: int) -> bytes:
        return b"{" + b",".join(b'"%d":"a"' % number for number in range(count)) + b"}"

    assert len(jsonrpc.parse_json(members(499_999))) == 499_999
    with pytest.raises(InvalidMessage, match="more than"):
        jsonrpc.parse_json(members(500_002))
