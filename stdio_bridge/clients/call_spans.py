"""A span for each traced request of a client, with the attributes of OpenTelemetry's conventions for MCP.

The parent is the span in the HTTP header `traceparent`, which the gateway sets, and the span in the request's `_meta`
becomes a link; without the header, the span in `_meta` is the parent. So a client chooses neither the gateway's trace
nor what is traced. Spans contain no arguments, results, error texts or users.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from stdio_bridge.http.exchange import Request
from stdio_bridge.options import Options
from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.calls import CallOutcome
from stdio_bridge.protocol.jsonrpc import Message
from stdio_bridge.protocol.mcp import ALL_VERSIONS, LISTEN, PROTOCOL_VERSION, USED_PARAMETERS
from stdio_bridge.protocol.resource_uris import without_query
from stdio_bridge.protocol.trace_context import (
    TRACEPARENT,
    TRACESTATE,
    TraceContext,
    find_in_meta,
    find_trace_context,
    within,
)

from .call_records import CallRecord
from .request_body import Body

if TYPE_CHECKING:
    from stdio_bridge.io.otlp import OpenSpan, Tracer

# How many traces beyond the ratio may be sampled in a row.
_BURST = 1000.0
_MAX_TEXT = 256
# What a span's name may contain: clients can send anything, and tracing backends keep each name separately.
_METHOD = re.compile(r"[A-Za-z0-9_/$.-]{1,64}")
_NAME = re.compile(r"[A-Za-z0-9_/.-]{1,128}")
_OTHER = "_OTHER"
_URI = "mcp.resource.uri"
# The attributes for names that are also part of the span's name. All other names are URIs.
_NAME_ATTRIBUTES = {"tools/call": "gen_ai.tool.name", "prompts/get": "gen_ai.prompt.name"}


class Sampler:
    """Decides which requests are traced: those that their senders trace, but at most the ratio of all requests.

    Traefik follows the `traceparent` of clients, so that without the bound a client could have all its requests traced.
    """

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio
        self._left = _BURST if ratio else 0.0

    def samples(self, parent: TraceContext | None) -> bool:
        """Whether to trace this request."""
        self._left = min(self._left + self._ratio, _BURST)
        wanted = random.random() < self._ratio if parent is None else parent.is_sampled  # noqa: S311 - no secret
        if not wanted or self._left < 1:
            return False
        self._left -= 1
        return True


class CallSpans:
    """The spans of one bridge."""

    def __init__(self, endpoint: str, options: Options) -> None:
        """Load OpenTelemetry's SDK, and start the thread that sends the spans."""
        from stdio_bridge.io.otlp import Tracer  # noqa: PLC0415 - only where there is a collector

        self._sampler = Sampler(options.tracing_sample_ratio)
        self._tracer: Tracer = Tracer(endpoint, options.tracing_service_name)

    def begin(self, request: Request, body: Body, records: Sequence[CallRecord]) -> Body:
        """Begin the spans of a body's requests. Returns the body with these spans in `_meta`, for the server."""
        header = find_trace_context(request.headers.get(TRACEPARENT), request.headers.get(TRACESTATE))
        # The new message in place of each request.
        traced = {
            id(message): self._begin_one(request, message, header, record)
            for message, record in zip(body.requests, records, strict=True)
        }
        return replace(
            body,
            messages=[traced.get(id(message), message) for message in body.messages],
            requests=list(traced.values()),
        )

    def _begin_one(
        self, request: Request, message: Message, header: TraceContext | None, record: CallRecord
    ) -> Message:
        in_meta = find_in_meta(message)
        parent = header or in_meta
        # A subscription may last for days, and spans are sent when they end.
        if message["method"] != LISTEN and self._sampler.samples(parent):
            link = in_meta if header is not None else None
            attributes = _attributes(request, message, record)
            name = _span_name(attributes)
            span = self._tracer.begin(name, parent=parent, link=link, attributes=attributes)
            record.observe(lambda ended: _end(span, ended))
            context = span.context
            record.traceparent = context.traceparent
            return within(message, context)
        return message if parent is None else within(message, replace(parent, is_sampled=False))

    def close(self) -> None:
        """Send the last spans, for a bounded time."""
        self._tracer.close()


def find_spans(options: Options) -> CallSpans | None:
    """Return the spans, or None where there is no collector."""
    endpoint = options.tracing_endpoint
    return None if endpoint is None else CallSpans(endpoint, options)


def _attributes(request: Request, message: Message, record: CallRecord) -> dict[str, str]:
    method = record.method if _METHOD.fullmatch(record.method) else _OTHER
    found = {
        "mcp.method.name": method,
        "jsonrpc.request.id": str(message["id"])[:_MAX_TEXT],
        "network.transport": "tcp",
        "network.protocol.name": "http",
    }
    if method in USED_PARAMETERS and record.name is not None:
        attribute = _NAME_ATTRIBUTES.get(method, _URI)
        name = without_query(record.name) if attribute == _URI else record.name
        found[attribute] = name[:_MAX_TEXT]
    if method == "tools/call":
        found["gen_ai.operation.name"] = "execute_tool"
    version = jsonrpc.meta_of(message).get(PROTOCOL_VERSION, request.headers.get("mcp-protocol-version"))
    if version in ALL_VERSIONS:
        found["mcp.protocol.version"] = version
    if (session_id := request.headers.get("mcp-session-id")) is not None:
        found["mcp.session.id"] = session_id[:_MAX_TEXT]
    return found


def _span_name(attributes: dict[str, str]) -> str:
    method = attributes["mcp.method.name"]
    name = attributes.get(_NAME_ATTRIBUTES[method], "") if method in _NAME_ATTRIBUTES else ""
    return f"{method} {name}" if _NAME.fullmatch(name) else method


def _end(span: OpenSpan, record: CallRecord) -> None:
    outcome = record.outcome or CallOutcome.ERROR
    attributes = {"mcp_gateway.outcome": outcome.value}
    if record.error_code is not None:
        attributes["rpc.response.status_code"] = str(record.error_code)
    if outcome is not CallOutcome.OK:
        attributes["error.type"] = attributes.get("rpc.response.status_code", outcome.value)
    span.end(attributes, is_error=outcome is not CallOutcome.OK)
