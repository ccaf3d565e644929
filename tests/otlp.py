"""A collector of traces for tests: decodes what is sent to it with OTLP over HTTP."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

WAIT_SECONDS = 60
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
"""Environment in which spans are sent soon."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """One span as the collector got it. Ids are hexadecimal, as in `traceparent`; the parent's is empty at a root."""

    service: str
    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: int
    is_error: bool
    status_text: str
    attributes: dict[str, Any]
    links: tuple[tuple[str, str], ...] = ()
    raw: bytes = field(repr=False, default=b"")


class Collector:
    """Takes spans; `answer` is the status of its answers, and while it is 0 a request is kept without an answer."""

    def __init__(self, *, port: int = 0) -> None:
        self.spans: list[Span] = []
        self.answer = 200
        self.requests = 0
        self._changed = threading.Condition()
        self._released = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self._read_body()
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                status = collector._take(self.path, body)
                if not status:
                    collector._released.wait(WAIT_SECONDS)
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def _read_body(self) -> bytes:
                if (length := self.headers["Content-Length"]) is not None:
                    return self.rfile.read(int(length))
                body = b""  # Go sends what it compresses in chunks
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def log_message(self, *args: object) -> None:
                """Tests say what they need to."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1/traces"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def _take(self, path: str, body: bytes) -> int:
        with self._changed:
            self.requests += 1
            if self.answer == 200:
                assert path == "/v1/traces"
                self.spans += _decode(body)
            self._changed.notify_all()
            return self.answer

    def wait_for(self, found: Callable[[list[Span]], bool]) -> list[Span]:
        """Return all spans, as soon as they are what is waited for."""
        with self._changed:
            assert self._changed.wait_for(lambda: found(self.spans), WAIT_SECONDS), self.spans
            return list(self.spans)

    def wait_for_span(self, name: str, **attributes: Any) -> Span:
        """Return the first span with this name and these attributes, whose dots are written as two underscores."""
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}.items()

        def matching(spans: list[Span]) -> list[Span]:
            return [span for span in spans if span.name == name and wanted <= span.attributes.items()]

        return matching(self.wait_for(lambda spans: bool(matching(spans))))[0]

    def wait_for_requests(self, count: int) -> None:
        """Wait until it has been asked so many times, whatever it answered."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.requests >= count, WAIT_SECONDS)

    def release(self) -> None:
        """Close the connections of requests that are kept without an answer."""
        self._released.set()

    def stop(self) -> None:
        """Stop listening, and leave requests that are kept without an answer."""
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _decode(body: bytes) -> list[Span]:
    request = ExportTraceServiceRequest.FromString(body)
    found = []
    for resource in request.resource_spans:
        about = {each.key: _value(each.value) for each in resource.resource.attributes}
        for scope in resource.scope_spans:
            found += [
                Span(
                    service=str(about["service.name"]),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    name=span.name,
                    kind=int(span.kind),
                    is_error=span.status.code == span.status.STATUS_CODE_ERROR,
                    status_text=span.status.message,
                    attributes={each.key: _value(each.value) for each in span.attributes},
                    links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                    raw=span.SerializeToString(),
                )
                for span in scope.spans
            ]
    return found


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return None if kind is None else getattr(value, kind)
