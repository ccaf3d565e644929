"""Metrics for Prometheus: `GET /metrics` answers for all workers, whichever is asked.

Workers share their values in files (prometheus_client's multiprocess mode). A file is named by the worker's slot and
not by its process. A worker that replaces another one continues its counts, so that counters survive reloads and there
are not more and more files. If there is no space for the files, a worker goes on without them. Counts per request are
plain integers in the worker, which `flush` copies here once a second.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import time
from collections import Counter as Counted
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, cast

from flask import Flask, Response, g, request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from auth_service.protocol.errors import ServiceUnavailable
from auth_service.settings import Settings

from . import audit

FLUSH_SECONDS: Final = 1.0
GRANT_COUNT_SECONDS: Final = 60
"""For how many seconds a count of the live grants is used, as it is a scan of all keys."""
FILE_BYTES: Final = 1 << 16
"""The first size of a file of values, which doubles when it is full."""
CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"

_DIRECTORY_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
_ENTRY_BYTES: Final = 32
"""The most bytes that a value needs besides its name."""

log = logging.getLogger(__name__)


def metrics_directory(settings: Settings) -> Path:
    """Return the directory in which workers share their values, which is in memory if systemd gives one.

    A full disk does not matter there. The values are not needed after a restart.
    """
    return Path(os.environ.get("RUNTIME_DIRECTORY") or settings.state_directory) / "metrics"


class WorkerSlots:
    """The numbers of live workers, each with its own, in the process that starts them."""

    def __init__(self, directory: Path) -> None:
        """Empty the directory of the workers' values."""
        self._directory = directory
        self._taken: dict[int, int] = {}
        shutil.rmtree(directory, ignore_errors=True)

    def take(self, age: int) -> int:
        """Return the lowest free number; `age` is Gunicorn's identifier of the worker."""
        slot = next(slot for slot in itertools.count() if slot not in self._taken.values())
        self._taken[age] = slot
        return slot

    def release(self, age: int) -> int | None:
        """Free the number of an ended worker, remove its values that only a live one has, and return the number."""
        if (slot := self._taken.pop(age, None)) is not None:
            mark_process_dead(slot, str(self._directory))  # type: ignore[no-untyped-call]
        return slot


class Metrics:
    """The values of one worker, and the rendering of those of all."""

    def __init__(self, directory: Path, slot: int, *, count_grants: Callable[[], int]) -> None:
        """`slot` is a number that no other live worker has. `count_grants` may raise ServiceUnavailable."""
        with contextlib.suppress(OSError):  # a warning follows for each file that cannot be made
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ[_DIRECTORY_VARIABLE] = str(directory)
        values.MmapedDict = _AllocatedValues  # type: ignore[attr-defined]
        # prometheus_client chooses at import, before the settings are known.
        values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]
        own = CollectorRegistry()
        self._verified = Counter(
            "mcp_gateway_verify",
            "Requests to MCP servers, by outcome: passed, or the reason for the refusal.",
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
        self._writable = Gauge(
            "mcp_gateway_redis_writable",
            "Whether Redis takes writes, as far as the worker knows.",
            registry=own,
            multiprocess_mode="liveall",
        )
        self._notices = Counter(
            "mcp_gateway_revocation_notices", "Revocation notices to bridges, by outcome.", ["outcome"], registry=own
        )
        # A first event or message would not count as an increase, if its counter began with it.
        for event in audit.Event:
            self._events.labels(event)
        for level in ("warning", "error", "critical"):
            self._messages.labels(level)
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

    def flush(
        self,
        verified: Mapping[str, Mapping[str, int]],
        notices: Mapping[str, int],
        *,
        redis_is_up: bool,
        redis_takes_writes: bool,
    ) -> None:
        """Copy the worker's own counts to where the others can read them.

        `verified` is by resource and outcome, `notices` (of revocations) by outcome.
        """
        for resource, outcomes in verified.items():
            for outcome, count in list(outcomes.items()):
                self._verified.labels(resource, outcome).inc(self._since_last(("verify", resource, outcome), count))
        for event, count in audit.counts().items():
            self._events.labels(event).inc(self._since_last(("event", event), count))
        for level, count in list(self._logged.counts.items()):
            self._messages.labels(level).inc(self._since_last(("level", level), count))
        for outcome, count in list(notices.items()):
            self._notices.labels(outcome).inc(self._since_last(("notice", outcome), count))
        self._redis.set(redis_is_up)
        self._writable.set(redis_takes_writes)

    def _since_last(self, key: tuple[str, ...], count: int) -> int:
        new = count - self._flushed[key]
        self._flushed[key] = count
        return new

    def render(self) -> bytes:
        """Return the values of all workers in Prometheus' text format; may wait for Redis."""
        return generate_latest(self._all)


class _AllocatedValues(MmapedDict):
    """Values in a file that is mapped only after its blocks are allocated.

    prometheus_client makes sparse files. If a value needs a new block while the disk is full, that is a SIGBUS.
    """

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        try:
            if not Path(filename).exists():
                _make(filename)
        except OSError as error:
            log.warning("metrics.incomplete: %s: %s; /metrics leaves this worker's values out", filename, error)
            self._memory = os.memfd_create("metrics", os.MFD_CLOEXEC)
            filename = f"/proc/self/fd/{self._memory}"
        super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]

    def read_value(self, key: str) -> tuple[float, float]:
        """Return a value and its time; without space for it, the value of a new one."""
        try:
            return cast("tuple[float, float]", super().read_value(key))  # type: ignore[no-untyped-call]
        except OSError as error:
            log.warning("metrics.incomplete: %s: %s; /metrics leaves %s out", self._fname, error, key)
            return 0.0, 0.0

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Store a value, if there is space for it."""
        with contextlib.suppress(OSError):
            super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]

    def _init_value(self, key: str) -> None:
        if self._used + len(key.encode()) + _ENTRY_BYTES > self._capacity:
            _allocate(self._fname, 2 * self._capacity)
        super()._init_value(key)  # type: ignore[no-untyped-call]


def _make(filename: str) -> None:
    """Make a file of values, which is complete as soon as others see it. Raises OSError."""
    unfinished = Path(filename + ".new")
    try:
        _allocate(str(unfinished), FILE_BYTES)
        unfinished.replace(filename)
    finally:
        unfinished.unlink(missing_ok=True)


def _allocate(filename: str, size: int) -> None:
    """Enlarge a file to this size, with all its blocks allocated. Raises OSError."""
    file = os.open(filename, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(file, 0, size)
    finally:
        os.close(file)


class _LevelCounter(logging.Handler):
    """Count messages of each level."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.counts: Counted[str] = Counted()

    def emit(self, record: logging.LogRecord) -> None:
        """Count one; the handler's lock is held."""
        self.counts[record.levelname.lower()] += 1


class _LiveGrants(Collector):
    """The number of live grants, which is left out while Redis does not answer."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._counted: int | None = None
        self._due = 0.0

    def describe(self) -> list[GaugeMetricFamily]:
        """Describe the metric without asking Redis."""
        return [_live_grants()]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Count the grants, unless the last count is recent."""
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
    return GaugeMetricFamily("mcp_gateway_grants", "Live grants, counted once a minute.")
