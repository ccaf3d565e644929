from __future__ import annotations

import pytest

from stdio_bridge.servers.start_limiter import StartLimiter


def test_no_more_start_at_once_than_may_and_the_rest_in_order() -> None:
    start_limiter, started = StartLimiter(2), list[int]()
    held = [start_limiter.ask(lambda number=number: started.append(number)) for number in range(5)]  # type: ignore[misc]
    assert (started, start_limiter.waiting) == ([0, 1], 3)
    held[1].release()
    held[1].release()
    assert started == [0, 1, 2]
    held[3].release()
    held[0].release()
    assert (started, start_limiter.waiting) == ([0, 1, 2, 4], 0)


def test_a_start_that_fails_holds_no_permit_and_hinders_no_other(caplog: pytest.LogCaptureFixture) -> None:
    start_limiter, started = StartLimiter(1), list[str]()

    def fail() -> None:
        raise RuntimeError("no start")

    start_limiter.ask(fail)
    first = start_limiter.ask(lambda: started.append("first"))
    start_limiter.ask(fail)
    start_limiter.ask(lambda: started.append("second"))
    assert (started, start_limiter.waiting) == (["first"], 2)
    first.release()
    assert (started, start_limiter.waiting) == (["first", "second"], 0)
    assert [record.getMessage() for record in caplog.records] == ["a start failed"] * 2


def test_the_patient_start_after_all_others() -> None:
    start_limiter, started = StartLimiter(1), list[str]()
    first = start_limiter.ask(lambda: started.append("first"))
    low_priority = start_limiter.ask(lambda: started.append("low"), low_priority=True)
    urgent = start_limiter.ask(lambda: started.append("urgent"))
    assert start_limiter.waiting == 1
    first.release()
    urgent.release()
    assert started == ["first", "urgent", "low"]
    low_priority.release()
    assert start_limiter.ask(lambda: started.append("next")) is not None
    assert started[-1] == "next"
