"""Trace context, which both parts read in the same way."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from auth_service.protocol import trace_context as of_the_service
from stdio_bridge.protocol import trace_context as of_a_bridge

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
Read = Callable[[str], tuple[str, str, bool] | None]


def read_by_the_service(traceparent: str) -> tuple[str, str, bool] | None:
    found = of_the_service.find_trace_context(traceparent.encode("latin-1"))
    return None if found is None else (f"{found.trace_id:032x}", f"{found.span_id:016x}", found.is_sampled)


def read_by_a_bridge(traceparent: str) -> tuple[str, str, bool] | None:
    found = of_a_bridge.find_trace_context(traceparent)
    return None if found is None else (found.trace_id, found.span_id, found.is_sampled)


both = pytest.mark.parametrize("read", [read_by_the_service, read_by_a_bridge])


@both
@pytest.mark.parametrize(
    ("traceparent", "is_sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),  # trace context level 2: the id is random
        (f"00-{TRACE}-{SPAN}-fe", False),
        (f"01-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", True),
    ],
)
def test_the_callers_span_is_read(read: Read, traceparent: str, is_sampled: bool) -> None:
    assert read(traceparent) == (TRACE, SPAN, is_sampled)


@both
@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "junk",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01 ",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}-01-more",  # version 00 has no more
        f"01-{TRACE}-{SPAN}-01more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01" * 1000,
        f"00-{32 * chr(0xB2)}-{SPAN}-01",  # digits, but not ASCII
    ],
)
def test_a_malformed_one_counts_as_none(read: Read, traceparent: str) -> None:
    assert read(traceparent) is None
