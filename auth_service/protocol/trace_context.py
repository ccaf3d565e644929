"""Which trace a request belongs to: W3C Trace Context. No I/O.

A client can send these headers too, so they say where a span belongs and nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_TRACEPARENT: Final = re.compile(
    rb"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})(?P<span>[0-9a-f]{16})"
    rb"-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
_SAMPLED: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceContext:
    """The span that a request was sent in."""

    trace_id: int
    span_id: int
    is_sampled: bool


def find_trace_context(traceparent: bytes) -> TraceContext | None:
    """Read the header `traceparent`. A malformed one counts as none (W3C Trace Context §3.2)."""
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None or (found["version"] == b"00" and found["more"] is not None):
        return None
    return TraceContext(
        trace_id=int(found["trace"], 16),
        span_id=int(found["span"], 16),
        is_sampled=bool(int(found["flags"], 16) & _SAMPLED),
    )
