"""Traces of the running service: what a collector gets, and that no request waits for a collector."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from local.ports import free_port
from tests.otlp import SOON, Collector

from .conftest import Connection, Place, Service, eventually, forward_auth_headers

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
DOWN = "WARNING auth_service.ops.otlp: tracing.down: "


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def start(place: Place, endpoint: str, *, ratio: float = 1.0, workers: int = 1) -> Service:
    return place.start(workers=workers, environment=SOON, tracing={"endpoint": endpoint, "sample_ratio": ratio})


def verify(service: Service, token: str, traceparent: str | None = None) -> int | None:
    connection = Connection(service.port)
    headers = forward_auth_headers(token)
    try:
        return connection.get(
            "/verify/time", headers if traceparent is None else {**headers, "Traceparent": traceparent}
        )
    finally:
        connection.close()


def libraries_of(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def test_a_verification_is_a_span_within_that_of_the_caller(place: Place, collector: Collector) -> None:
    service = start(place, collector.url)
    token = service.log_in().access_token
    assert verify(service, token, f"00-{TRACE}-{SPAN}-01") == 200
    span = collector.wait_for_span("GET /verify/time")
    assert (span.service, span.trace_id, span.parent_id) == ("mcp-auth-service", TRACE, SPAN)
    assert (span.kind, span.is_error) == (2, False), "SPAN_KIND_SERVER"
    assert span.attributes == {
        "http.request.method": "GET",
        "url.path": "/verify/time",
        "url.scheme": "http",
        "http.response.status_code": 200,
    }
    assert verify(service, "bad", f"00-{TRACE}-{SPAN}-01") == 401
    refused = collector.wait_for_span("GET /verify/time", http__response__status_code=401)
    assert not refused.is_error, "a refusal is what the service is for"
    for each in collector.spans:
        assert token.encode() not in each.raw
        assert b"octocat" not in each.raw


def test_every_worker_sends_its_spans(place: Place, collector: Collector) -> None:
    service = start(place, collector.url, workers=3)
    for connection in service.connect_to_all():
        assert connection.get("/verify/time") == 401
        connection.close()
    spans = collector.wait_for(lambda spans: len(spans) >= 3)
    assert len({span.span_id for span in spans}) == 3
    assert len({span.trace_id for span in spans}) == 3, "each is a trace of its own"


def test_what_the_caller_does_not_trace_and_a_malformed_caller_are_told_apart(
    place: Place, collector: Collector
) -> None:
    service = start(place, collector.url)
    assert verify(service, "bad", f"00-{TRACE}-{SPAN}-00") == 401
    assert verify(service, "bad", "junk") == 401
    span = collector.wait_for_span("GET /verify/time")
    assert (span.parent_id, span.trace_id != TRACE) == ("", True)
    assert len(collector.spans) == 1


def test_an_unavailable_dependency_is_an_error(place: Place, collector: Collector) -> None:
    service = start(place, collector.url)
    token = service.log_in().access_token
    place.redis.stop()
    eventually(lambda: verify(service, token) == 503)
    span = collector.wait_for_span("GET /verify/time", http__response__status_code=503)
    assert span.is_error
    assert span.attributes["error.type"] == "503"


def test_nothing_is_sent_at_a_ratio_of_0(place: Place, collector: Collector) -> None:
    service = start(place, collector.url, ratio=0.0)
    for _ in range(20):
        assert verify(service, "bad", f"00-{TRACE}-{SPAN}-01") == 401
    service.stop()
    assert collector.requests == 0


def test_the_last_spans_are_sent_when_the_service_ends(place: Place, collector: Collector) -> None:
    service = place.start(
        workers=1, environment={"OTEL_BSP_SCHEDULE_DELAY": "600000"}, tracing={"endpoint": collector.url}
    )
    assert verify(service, "bad") == 401
    assert collector.requests == 0
    service.stop()
    assert [span.name for span in collector.spans] == ["GET /verify/time"]


def test_a_collector_that_is_down_is_one_line_and_delays_nothing(place: Place) -> None:
    port = free_port()
    service = start(place, f"http://127.0.0.1:{port}/v1/traces")
    token = service.log_in().access_token
    assert verify(service, token) == 200
    eventually(lambda: DOWN in service.log.read_text())
    for _ in range(200):
        assert verify(service, token) == 200
    with Collector(port=port) as collector:
        assert verify(service, token) == 200
        collector.wait_for_span("GET /verify/time")
    service.stop()
    assert service.log.read_text().count(DOWN) == 1


@pytest.mark.parametrize("answer", [0, 500, 404], ids=["hangs", "fails", "knows nothing of traces"])
def test_a_collector_that_takes_nothing_delays_neither_requests_nor_the_end(
    place: Place, collector: Collector, answer: int
) -> None:
    collector.answer = answer
    service = start(place, collector.url)
    token = service.log_in().access_token
    assert verify(service, token) == 200
    collector.wait_for_requests(1)
    worker = psutil.Process(service.workers()[0])
    for _ in range(200):
        assert verify(service, token) == 200
    eventually(lambda: DOWN in service.log.read_text())
    assert verify(service, token) == 200
    service.stop()
    assert service.process.returncode == 0
    assert not worker.is_running()
    lines = service.log.read_text()
    assert lines.count(DOWN) == 1
    assert "Traceback" not in lines


def test_without_a_collector_a_worker_loads_no_sdk(place: Place, collector: Collector) -> None:
    plain = place.start(workers=1)
    traced = start(place, collector.url)
    assert verify(plain, "bad") == verify(traced, "bad") == 401
    assert "google/_upb" not in libraries_of(plain.workers()[0])
    assert "google/_upb" in libraries_of(traced.workers()[0]), "the check would notice it"
