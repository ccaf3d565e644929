"""The page of metrics, as Prometheus' own parser reads it."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from stdio_bridge.io.metrics import Registry


def read(registry: Registry) -> dict[tuple[str, ...], float]:
    """Return every value by its name and its labels' values, in the order of the labels' names."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(registry.render().decode())
        for sample in family.samples
    }


def test_counters_count_by_the_values_of_their_labels() -> None:
    registry = Registry()
    counters = registry.counters("calls_total", "Calls", ["method", "tool"])
    counters.add("tools/call", "a")
    counters.add("tools/call", "a", amount=2)
    counters.add("tools/call", "b")
    counters.add("ping", "", amount=0)
    assert read(registry) == {
        ("calls_total", "tools/call", "a"): 3,
        ("calls_total", "tools/call", "b"): 1,
        ("calls_total", "ping", ""): 0,
    }


def test_histograms_have_the_buckets_of_each_value() -> None:
    registry = Registry()
    histograms = registry.histograms("tool_seconds", "Time", "tool", (0.1, 1))
    for seconds in (0.05, 0.5, 5):
        histograms.observe("a", seconds)
    histograms.observe("b", 0.5)
    assert read(registry) == {
        ("tool_seconds_bucket", "0.1", "a"): 1,
        ("tool_seconds_bucket", "1", "a"): 2,
        ("tool_seconds_bucket", "+Inf", "a"): 3,
        ("tool_seconds_sum", "a"): 5.55,
        ("tool_seconds_count", "a"): 3,
        ("tool_seconds_bucket", "0.1", "b"): 0,
        ("tool_seconds_bucket", "1", "b"): 1,
        ("tool_seconds_bucket", "+Inf", "b"): 1,
        ("tool_seconds_sum", "b"): 0.5,
        ("tool_seconds_count", "b"): 1,
    }


def test_a_value_of_a_label_ends_neither_itself_nor_its_line() -> None:
    registry = Registry()
    counters = registry.counters("calls_total", "Calls", ["tool"])
    hostile = ['a"} 5\nup{x="', "back\\slash", "back\\", "\\n", "naïve ☃", "a,b={}"]
    for name in hostile:
        counters.add(name)
    assert read(registry) == {("calls_total", name): 1 for name in hostile}
