"""Sends spans to a collector (OTLP over HTTP). Only imported where there is one, as this loads OpenTelemetry's SDK.

A thread of the SDK sends them in batches. No request waits for it: while the collector takes nothing, spans are dropped
beyond a bound (2048; the SDK's variables `OTEL_BSP_…` apply).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider, sampling
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue

from auth_service.protocol.trace_context import TraceContext

from .outages import Outage

SERVICE_NAME: Final = "mcp-auth-service"
EXPORT_SECONDS: Final = 5.0
"""How long the collector may take for a batch, attempts that it refuses for the moment included."""
FLUSH_SECONDS: Final = 2.0
"""How long the end of the process waits for the last spans to be sent."""

log = logging.getLogger(__name__)


class Tracer:
    """Makes spans and has them sent. A process makes it after it has forked, as it starts a thread."""

    def __init__(self, endpoint: str) -> None:
        """`endpoint` is the collector's URL for traces."""
        self._processor = BatchSpanProcessor(_Exporter(endpoint))
        provider = TracerProvider(
            sampler=sampling.ALWAYS_ON,  # the code that makes a span has decided
            resource=_describe(),
            shutdown_on_exit=False,
        )
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer(__name__)

    def begin(self, name: str, parent: TraceContext | None, attributes: dict[str, AttributeValue]) -> Span:
        """Begin the span of a request that this process answers, within the caller's span if there is one."""
        context = None
        if parent is not None:
            remote = SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=TraceFlags.get_default())
            context = set_span_in_context(NonRecordingSpan(remote))
        return self._tracer.start_span(name, context=context, kind=SpanKind.SERVER, attributes=attributes)

    @staticmethod
    def end(span: Span, status: int) -> None:
        """End a span with the HTTP status of the response."""
        span.set_attribute("http.response.status_code", status)
        if status >= 500:  # a refusal is the server's success
            span.set_attribute("error.type", str(status))
            span.set_status(StatusCode.ERROR)
        span.end()

    def close(self) -> None:
        """Send what is left, and end the thread; wait no longer than FLUSH_SECONDS."""
        closing = threading.Thread(target=self._processor.shutdown, daemon=True)
        closing.start()
        closing.join(FLUSH_SECONDS)


def _describe() -> Resource:
    """Say what sends the spans. `Resource.create` would start threads for that."""
    about = {"service.name": SERVICE_NAME, "telemetry.sdk.language": "python", "telemetry.sdk.name": "opentelemetry"}
    return OTELResourceDetector().detect().merge(Resource(about))


class _Exporter(SpanExporter):
    """Sends batches, and logs once when the collector no longer takes them."""

    def __init__(self, endpoint: str) -> None:
        self._exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_SECONDS)
        self._outage = Outage(log, f"tracing.down: {endpoint}", over=f"tracing.up: {endpoint}")
        # The SDK logs each attempt, and each span that is dropped.
        self._complaints = _LastMessage()
        sdk_log = logging.getLogger("opentelemetry")
        sdk_log.handlers = [self._complaints]
        sdk_log.propagate = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch, in the SDK's thread."""
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self._outage.worked()
        else:
            self._outage.failed(self._complaints.text)
        return result

    def shutdown(self) -> None:
        """Give up what is being sent."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # the SDK has none here


class _LastMessage(logging.Handler):
    """Keeps the last message, which says why a batch could not be sent."""

    text = "not sent"

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()
