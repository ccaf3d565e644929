"""`/verify` with a span for each request that is traced."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from auth_service.app.responses import Header, Message, Receive, Send
from auth_service.ops.tracing import Sampler
from auth_service.protocol.trace_context import TraceContext, find_trace_context
from auth_service.settings import Tracing

if TYPE_CHECKING:
    from auth_service.ops.otlp import Tracer

Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class TracedVerifier:
    """The ASGI callable around `Verifier`. Its spans say nothing of the token and its user."""

    def __init__(self, verify: Application, tracing: Tracing) -> None:
        """Load OpenTelemetry's SDK, and start the thread that sends the spans."""
        from auth_service.ops.otlp import Tracer  # noqa: PLC0415 - only where there is a collector

        self._verify = verify
        self._sampler = Sampler(tracing.sample_ratio)
        self._tracer: Tracer = Tracer(tracing.endpoint)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one ForwardAuth request."""
        parent = _find_parent(scope["headers"])
        if not self._sampler.samples(parent):
            await self._verify(scope, receive, send)
            return
        path = scope["path"]
        attributes = {"http.request.method": scope["method"], "url.path": path, "url.scheme": "http"}
        span = self._tracer.begin(f"{scope['method']} {path}", parent, attributes)
        status = 500  # what Gunicorn answers if nothing else does

        async def note(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._verify(scope, receive, note)
        finally:
            self._tracer.end(span, status)

    def close(self) -> None:
        """Send the last spans, for a bounded time."""
        self._tracer.close()


def _find_parent(headers: list[Header]) -> TraceContext | None:
    """Return the caller's span. More than one is as good as none."""
    found = [value for name, value in headers if name == b"traceparent"]
    return find_trace_context(found[0]) if len(found) == 1 else None
