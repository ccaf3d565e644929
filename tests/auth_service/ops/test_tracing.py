"""Which requests are traced, and what it costs not to trace any."""

from __future__ import annotations

import subprocess
import sys

import pytest

from auth_service.ops.tracing import BURST, Sampler
from auth_service.protocol.trace_context import TraceContext

SAMPLED = TraceContext(trace_id=1, span_id=1, is_sampled=True)
NOT_SAMPLED = TraceContext(trace_id=1, span_id=1, is_sampled=False)


@pytest.mark.parametrize("parent", [SAMPLED, NOT_SAMPLED, None])
def test_nothing_is_traced_at_a_ratio_of_0(parent: TraceContext | None) -> None:
    sampler = Sampler(0.0)
    assert not any(sampler.samples(parent) for _ in range(1000))


@pytest.mark.parametrize("parent", [SAMPLED, None])
def test_everything_is_traced_at_a_ratio_of_1(parent: TraceContext | None) -> None:
    sampler = Sampler(1.0)
    assert all(sampler.samples(parent) for _ in range(10 * BURST))


@pytest.mark.parametrize("ratio", [0.01, 1.0])
def test_what_the_caller_does_not_trace_is_not_traced(ratio: float) -> None:
    sampler = Sampler(ratio)
    assert not any(sampler.samples(NOT_SAMPLED) for _ in range(1000))


def test_callers_cannot_have_more_traced_than_the_ratio_of_all_requests() -> None:
    sampler = Sampler(0.1)
    traced = sum(sampler.samples(SAMPLED) for _ in range(100_000))
    assert 10_000 <= traced <= 10_000 + BURST


def test_callers_that_trace_their_part_have_all_of_it_traced() -> None:
    sampler = Sampler(0.1)
    parents = [SAMPLED, *[NOT_SAMPLED] * 9] * 10_000
    assert sum(sampler.samples(parent) for parent in parents) == 10_000


def test_without_a_collector_the_sdk_is_not_imported() -> None:
    script = "import sys, auth_service.__main__, auth_service.cli; sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_tracer_has_one_thread_which_ends_with_it() -> None:
    script = (
        "import threading\n"
        "from auth_service.ops.otlp import Tracer\n"
        "tracer = Tracer('http://127.0.0.1:1/v1/traces')\n"
        "(started,) = set(threading.enumerate()) - {threading.main_thread()}\n"
        "tracer.close()\n"
        "started.join(60)\n"
        "assert not started.is_alive()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
