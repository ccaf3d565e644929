"""Counters, gauges and histograms in Prometheus' text format."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Counter:
    """A number that only grows."""

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, amount: float = 1) -> None:
        """Grow."""
        self.value += amount


class Histogram:
    """How often a duration was at most so long. Seconds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self._sum += seconds
        self._counts[bisect.bisect_left(self._bounds, seconds)] += 1

    def samples(self) -> Iterator[tuple[str, float]]:
        """Yield each sample's suffix and value."""
        total = 0
        for bound, count in zip([*map(str, self._bounds), "+Inf"], self._counts, strict=True):
            total += count
            yield f'_bucket{{le="{bound}"}}', total
        yield "_sum", self._sum
        yield "_count", total


@dataclass(frozen=True)
class _Metric:
    name: str
    kind: str
    description: str
    samples: Callable[[], Iterable[tuple[str, float]]]


class Registry:
    """All metrics of one bridge."""

    def __init__(self) -> None:
        self._metrics: list[_Metric] = []

    def counter(self, name: str, description: str) -> Counter:
        """Add a counter; by convention its name ends in `_total`."""
        counter = Counter()
        self._metrics.append(_Metric(name, "counter", description, lambda: [("", counter.value)]))
        return counter

    def gauge(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Add a value that is read when asked for."""
        self._metrics.append(_Metric(name, "gauge", description, lambda: [("", read())]))

    def histogram(self, name: str, description: str, bounds: Sequence[float]) -> Histogram:
        """Add a distribution of durations; by convention its name ends in `_seconds`."""
        histogram = Histogram(bounds)
        self._metrics.append(_Metric(name, "histogram", description, histogram.samples))
        return histogram

    def render(self) -> bytes:
        """Write the page."""
        return "".join(self._lines()).encode()

    def _lines(self) -> Iterable[str]:
        for metric in self._metrics:
            yield f"# HELP {metric.name} {metric.description}\n"
            yield f"# TYPE {metric.name} {metric.kind}\n"
            for suffix, value in metric.samples():
                yield f"{metric.name}{suffix} {value:.15g}\n"
