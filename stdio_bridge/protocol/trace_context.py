"""Which trace a request belongs to: W3C Trace Context, in HTTP headers and in `_meta` (SEP-414). No I/O.

A client can send both, so they decide where a span belongs, and nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from . import jsonrpc
from .jsonrpc import Message

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

_TRACEPARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})(?P<span>[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
_SAMPLED = 1
_MEMBER = r"[a-z0-9][a-z0-9_*/@-]{0,255}=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
_TRACESTATE = re.compile(rf"{_MEMBER}(?:[ \t]*,[ \t]*{_MEMBER}){{0,31}}")
_MAX_TRACESTATE = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceContext:
    """A reference to a span. Ids are hexadecimal."""

    trace_id: str
    span_id: str
    is_sampled: bool
    state: str = ""

    @property
    def traceparent(self) -> str:
        """How the span is named in a header and in `_meta`."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.is_sampled else '00'}"


def find_trace_context(traceparent: object, tracestate: object = None) -> TraceContext | None:
    """Read both values. A malformed one counts as none (W3C Trace Context §3.2, §3.3).

    A `tracestate` longer than what every receiver has to pass on (§3.3.1.5) is left out, too.
    """
    found = _TRACEPARENT.fullmatch(traceparent) if isinstance(traceparent, str) else None
    if found is None or (found["version"] == "00" and found["more"] is not None):
        return None
    is_state = isinstance(tracestate, str) and len(tracestate) <= _MAX_TRACESTATE and _TRACESTATE.fullmatch(tracestate)
    return TraceContext(
        trace_id=found["trace"],
        span_id=found["span"],
        is_sampled=bool(int(found["flags"], 16) & _SAMPLED),
        state=str(tracestate) if is_state else "",
    )


def find_in_meta(message: Message) -> TraceContext | None:
    """Return the span that a message names in its `_meta`."""
    meta = jsonrpc.meta_of(message)
    return find_trace_context(meta.get(TRACEPARENT), meta.get(TRACESTATE))


def within(message: Message, span: TraceContext) -> Message:
    """Return the message with this span in its `_meta`, unless its sender has named one there.

    A message whose params or `_meta` are not objects is invalid, and stays as it is.
    """
    params = message.get("params", {})
    meta = params.get("_meta", {}) if isinstance(params, dict) else None
    if not isinstance(meta, dict) or find_in_meta(message) is not None:
        return message
    own = {name: value for name, value in meta.items() if name not in (TRACEPARENT, TRACESTATE)}
    state = {TRACESTATE: span.state} if span.state else {}
    return {**message, "params": {**params, "_meta": {**own, TRACEPARENT: span.traceparent, **state}}}
