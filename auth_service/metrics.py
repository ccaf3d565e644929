"""What Prometheus is told: `GET /metrics`, one answer for all workers, whichever is asked.

Workers share their values by files (prometheus_client's multiprocess mode). The files are named by the worker's slot
and not by its process: a worker that takes the place of another counts on, so that counters survive reloads and files
do not pile up. What is counted per request is a plain integer in the worker, brought here once a second (`flush`).
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import time
from collections import Counter as Counted
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from flask import Flask, Response, g, request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from auth_service import audit
from auth_service.errors import ServiceUnavailable

FLUSH_SECONDS: Final = 1.0
GRANT_COUNT_SECONDS: Final = 60
"""How long a count of the live grants is good for: Redis has to look at every key for it."""
CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"

_DIRECTORY_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"


class WorkerSlots:
    """Numbers that living workers hold, each its own, kept by the process that starts and buries them."""

    def __init__(self, directory: Path) -> None:
        """Empty the workers' directory. Raises OSError."""
        self._directory = directory
        self._taken: dict[int, int] = {}
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700, parents=True)

    def take(self, age: int) -> int:
        """Return the lowest free number; `age` is what Gunicorn knows the worker by."""
        slot = next(slot for slot in itertools.count() if slot not in self._taken.values())
        self._taken[age] = slot
        return slot

    def release(self, age: int) -> None:
        """Take a dead worker's number back, and drop what only a living one can say of itself."""
        if (slot := self._taken.pop(age, None)) is not None:
            mark_process_dead(slot, str(self._directory))  # type: ignore[no-untyped-call]


class Metrics:
    """The values of one worker, and the way to those of all."""

    def __init__(self, directory: Path, slot: int, *, count_grants: Callable[[], int]) -> None:
        """`slot` is this worker's alone among those that live. `count_grants` may raise ServiceUnavailable."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ[_DIRECTORY_VARIABLE] = str(directory)
        # prometheus_client takes its choice at import, which is too early for a choice by settings.
        values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]
        own = CollectorRegistry()
        self._verified = Counter(
            "mcp_gateway_verify",
            "Requests to MCP servers, by whether they passed or why not.",
            ["resource", "outcome"],
            registry=own,
        )
        self._events = Counter(
            "mcp_gateway_events", "Decisions, by the names of the audit log.", ["event"], registry=own
        )
        self._messages = Counter("mcp_gateway_log_messages", "Log messages, by level.", ["level"], registry=own)
        self._latency = Histogram(
            "mcp_gateway_http_request_seconds",
            "How long the pages and endpoints other than /verify took.",
            ["endpoint", "status"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=own,
        )
        self._redis = Gauge(
            "mcp_gateway_redis_up", "Whether the worker hears from Redis.", registry=own, multiprocess_mode="liveall"
        )
        self._flushed: Counted[tuple[str, ...]] = Counted()
        self._logged = _LevelCounter()
        logging.getLogger().addHandler(self._logged)
        self._all = CollectorRegistry()
        MultiProcessCollector(self._all, str(directory))  # type: ignore[no-untyped-call]
        self._all.register(_LiveGrants(count_grants))

    def observe(self, app: Flask) -> None:
        """Time every request that Flask answers."""

        @app.before_request
        def start() -> None:
            g.started = time.perf_counter()

        @app.after_request
        def finish(response: Response) -> Response:
            if (started := g.get("started")) is not None:
                endpoint = (request.endpoint or "none").rpartition(".")[2]
                self._latency.labels(endpoint, response.status_code).observe(time.perf_counter() - started)
            return response

    def flush(self, verified: Mapping[str, Mapping[str, int]], *, redis_is_up: bool) -> None:
        """Bring the worker's own counts where the others can read them. `verified` is by resource and outcome."""
        for resource, outcomes in verified.items():
            for outcome, count in list(outcomes.items()):
                self._verified.labels(resource, outcome).inc(self._since_last(("verify", resource, outcome), count))
        for event, count in audit.counts().items():
            self._events.labels(event).inc(self._since_last(("event", event), count))
        for level, count in list(self._logged.counts.items()):
            self._messages.labels(level).inc(self._since_last(("level", level), count))
        self._redis.set(redis_is_up)

    def _since_last(self, key: tuple[str, ...], count: int) -> int:
        new = count - self._flushed[key]
        self._flushed[key] = count
        return new

    def render(self) -> bytes:
        """Return the values of all workers in Prometheus' text format; may wait for Redis."""
        return generate_latest(self._all)


class _LevelCounter(logging.Handler):
    """Counts messages of each level."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.counts: Counted[str] = Counted()

    def emit(self, record: logging.LogRecord) -> None:
        """Count one; the handler's lock is held."""
        self.counts[record.levelname.lower()] += 1


class _LiveGrants(Collector):
    """The number of live grants, left out while Redis does not tell."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._counted: int | None = None
        self._due = 0.0

    def describe(self) -> list[GaugeMetricFamily]:
        """Say what there will be without asking Redis."""
        return [_live_grants()]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Count, unless that was done just now."""
        if time.monotonic() >= self._due:
            try:
                self._counted = self._count()
            except ServiceUnavailable:
                self._counted = None
            else:
                self._due = time.monotonic() + GRANT_COUNT_SECONDS
        if self._counted is not None:
            family = _live_grants()
            family.add_metric([], self._counted)
            yield family


def _live_grants() -> GaugeMetricFamily:
    return GaugeMetricFamily("mcp_gateway_grants", "What users allow clients now, counted once a minute.")
