"""Counters, gauges and histograms in Prometheus' text format."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


class Counter:
    """A number that only grows."""

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, amount: float = 1) -> None:
        """Add to the number."""
        self.value += amount


class Histogram:
    """A distribution of durations, in seconds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self._sum += seconds
        self._counts[bisect.bisect_left(self._bounds, seconds)] += 1

    def samples(self, labels: str = "") -> Iterator[tuple[str, float]]:
        """Yield each sample's suffix and value; `labels` are rendered ones that each sample has."""
        total = 0
        before, alone = (f"{labels},", f"{{{labels}}}") if labels else ("", "")
        for bound, count in zip([*map(str, self._bounds), "+Inf"], self._counts, strict=True):
            total += count
            yield f'_bucket{{{before}le="{bound}"}}', total
        yield f"_sum{alone}", self._sum
        yield f"_count{alone}", total


class Counters:
    """Numbers that only grow, by the values of labels. The caller bounds how many different values there are."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = labels
        self._values: dict[tuple[str, ...], float] = {}

    def add(self, *values: str, amount: float = 1) -> None:
        """Add to the number with these values of the labels. An amount of 0 makes the number appear on the page."""
        self._values[values] = self._values.get(values, 0) + amount

    def samples(self) -> Iterator[tuple[str, float]]:
        """Yield each sample's suffix and value."""
        for values, number in self._values.items():
            yield f"{{{render_labels(self._labels, values)}}}", number


class Histograms:
    """Histograms by the value of one label. The caller bounds how many different values there are."""

    def __init__(self, label: str, bounds: Sequence[float]) -> None:
        self._label = label
        self._bounds = bounds
        self._histograms: dict[str, Histogram] = {}

    def observe(self, value: str, seconds: float) -> None:
        """Count one duration."""
        histogram = self._histograms.get(value)
        if histogram is None:
            histogram = self._histograms[value] = Histogram(self._bounds)
        histogram.observe(seconds)

    def samples(self) -> Iterator[tuple[str, float]]:
        """Yield each sample's suffix and value."""
        for value, histogram in self._histograms.items():
            yield from histogram.samples(render_labels([self._label], [value]))


def render_labels(names: Sequence[str], values: Sequence[str]) -> str:
    """Return labels as they are written between braces. Their values are escaped."""
    return ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in zip(names, values, strict=True))


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

    def counters(self, name: str, description: str, labels: Sequence[str]) -> Counters:
        """Add counters by the values of labels; by convention their name ends in `_total`."""
        counters = Counters(labels)
        self._metrics.append(_Metric(name, "counter", description, counters.samples))
        return counters

    def histograms(self, name: str, description: str, label: str, bounds: Sequence[float]) -> Histograms:
        """Add distributions of durations by the value of a label; by convention their name ends in `_seconds`."""
        histograms = Histograms(label, bounds)
        self._metrics.append(_Metric(name, "histogram", description, histograms.samples))
        return histograms

    def gauge(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Add a value that is read when asked for."""
        self._metrics.append(_Metric(name, "gauge", description, lambda: [("", read())]))

    def gauges(self, name: str, description: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        """Add values that are read when asked for, by the value of a label."""

        def samples() -> Iterator[tuple[str, float]]:
            for value, number in read().items():
                yield f"{{{render_labels([label], [value])}}}", number

        self._metrics.append(_Metric(name, "gauge", description, samples))

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
