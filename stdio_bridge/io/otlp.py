"""Sends spans to a collector (OTLP over HTTP). Imported only if there is a collector, as it loads OpenTelemetry's SDK.

A thread of the SDK sends them in batches. The event loop never waits for it: while the collector accepts nothing, spans
beyond a bound are dropped (2048; the SDK's variables `OTEL_BSP_…` apply).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider, sampling
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)

from stdio_bridge.protocol.trace_context import TraceContext

log = logging.getLogger(__name__)

# How long the collector may take for a batch, attempts that it refuses for the moment included.
_EXPORT_SECONDS = 5.0
# How long the end of the process waits for the last spans to be sent.
_FLUSH_SECONDS = 2.0


class Tracer:
    """Makes spans and has them sent."""

    def __init__(self, endpoint: str, service_name: str) -> None:
        """Start the thread that sends them. `endpoint` is the collector's URL for traces."""
        self._processor = BatchSpanProcessor(_Exporter(endpoint))
        provider = TracerProvider(
            sampler=sampling.ALWAYS_ON,  # the caller has decided before it begins a span
            resource=_describe(service_name),
            shutdown_on_exit=False,
        )
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer(__name__)

    def begin(
        self,
        name: str,
        *,
        parent: TraceContext | None,
        link: TraceContext | None,
        attributes: Mapping[str, str],
    ) -> OpenSpan:
        """Begin the span of a client's request."""
        context = None if parent is None else set_span_in_context(NonRecordingSpan(_remote(parent)))
        links = () if link is None else (Link(_remote(link)),)
        return OpenSpan(
            self._tracer.start_span(name, context=context, kind=SpanKind.SERVER, attributes=attributes, links=links)
        )

    def close(self) -> None:
        """Send the remaining spans and end the thread, within a bounded time."""
        closing = threading.Thread(target=self._processor.shutdown, daemon=True)
        closing.start()
        closing.join(_FLUSH_SECONDS)


def _describe(service_name: str) -> Resource:
    """Return what spans say about this service. `Resource.create` would start more threads than the unit allows."""
    about = {"service.name": service_name, "telemetry.sdk.language": "python", "telemetry.sdk.name": "opentelemetry"}
    return OTELResourceDetector().detect().merge(Resource(about))


class OpenSpan:
    """A span that has not ended."""

    def __init__(self, span: Span) -> None:
        self._span = span

    @property
    def context(self) -> TraceContext:
        """The reference to it, for other programs."""
        own = self._span.get_span_context()
        return TraceContext(
            trace_id=format_trace_id(own.trace_id),
            span_id=format_span_id(own.span_id),
            is_sampled=True,
            state=own.trace_state.to_header(),
        )

    def end(self, attributes: Mapping[str, str], *, is_error: bool) -> None:
        """End it. An error has no text, as the text of a server's error could contain anything."""
        self._span.set_attributes(attributes)
        if is_error:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


def _remote(span: TraceContext) -> SpanContext:
    return SpanContext(
        int(span.trace_id, 16),
        int(span.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if span.is_sampled else TraceFlags.DEFAULT),
        trace_state=TraceState.from_header([span.state] if span.state else []),
    )


class _Exporter(SpanExporter):
    """Sends batches. Logs when the collector begins to fail, and when it works again."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_SECONDS)
        self._is_down = False
        # The SDK logs each attempt, and each span that is dropped.
        self._last_message = _LastMessage()
        sdk_log = logging.getLogger("opentelemetry")
        sdk_log.handlers = [self._last_message]
        sdk_log.propagate = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch, in the SDK's thread."""
        result = self._exporter.export(spans)
        is_down = result is not SpanExportResult.SUCCESS
        if is_down and not self._is_down:
            log.warning("the collector %s takes no traces: %s", self._endpoint, self._last_message.text)
        elif self._is_down and not is_down:
            log.warning("the collector %s takes traces again", self._endpoint)
        self._is_down = is_down
        return result

    def shutdown(self) -> None:
        """Give up what is being sent."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # the SDK has no types here


class _LastMessage(logging.Handler):
    """Keeps the last message, which says why a batch could not be sent."""

    text = "not sent"

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()
