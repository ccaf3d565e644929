"""Counters and gauges in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Counter:
    """A number that only grows."""

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, amount: float = 1) -> None:
        """Grow."""
        self.value += amount


@dataclass(frozen=True)
class _Metric:
    name: str
    kind: str
    description: str
    read: Callable[[], float]


class Registry:
    """All metrics of one bridge."""

    def __init__(self) -> None:
        self._metrics: list[_Metric] = []

    def counter(self, name: str, description: str) -> Counter:
        """Add a counter; by convention its name ends in `_total`."""
        counter = Counter()
        self._metrics.append(_Metric(name, "counter", description, lambda: counter.value))
        return counter

    def gauge(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Add a value that is read when asked for."""
        self._metrics.append(_Metric(name, "gauge", description, read))

    def render(self) -> bytes:
        """Write the page."""
        return "".join(self._lines()).encode()

    def _lines(self) -> Iterable[str]:
        for metric in self._metrics:
            yield f"# HELP {metric.name} {metric.description}\n"
            yield f"# TYPE {metric.name} {metric.kind}\n"
            yield f"{metric.name} {metric.read():.15g}\n"
