"""What is done in the background: in order, within a bound, whatever fails."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import pytest

from auth_service.ops.background_queue import BackgroundQueue

WAIT_SECONDS = 60
log = logging.getLogger(__name__)


def make_queue(*, most: int = 100, drops_oldest: bool = False) -> BackgroundQueue:
    return BackgroundQueue(log, "queue-under-test", failure="it failed", most=most, drops_oldest=drops_oldest)


def is_done(queue: BackgroundQueue) -> bool:
    return queue.wait_until(time.monotonic() + WAIT_SECONDS)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a task waits for until the test lets it go on."""
    event = threading.Event()
    yield event
    event.set()


def fill(queue: BackgroundQueue, gate: threading.Event, *, most: int) -> list[int]:
    """Have a task wait for the gate, then add one more task than may wait behind it; return what the tasks append."""
    done: list[int] = []
    is_running = threading.Event()

    def first() -> None:
        is_running.set()
        gate.wait(WAIT_SECONDS)

    assert queue.add(first)
    assert is_running.wait(WAIT_SECONDS)
    assert [queue.add(lambda number=number: done.append(number)) for number in range(most + 1)] == [  # type: ignore[misc]
        *[True] * most,
        False,
    ]
    return done


def test_tasks_are_done_in_order() -> None:
    queue = make_queue()
    done: list[int] = []
    for number in range(100):
        assert queue.add(lambda number=number: done.append(number))  # type: ignore[misc]
    assert is_done(queue)
    assert done == list(range(100))


@pytest.mark.parametrize(("drops_oldest", "expected"), [(True, [1, 2, 3]), (False, [0, 1, 2])])
def test_one_task_too_many_displaces_the_oldest_or_is_not_taken(
    gate: threading.Event, drops_oldest: bool, expected: list[int]
) -> None:
    queue = make_queue(most=3, drops_oldest=drops_oldest)
    done = fill(queue, gate, most=3)
    gate.set()
    assert is_done(queue)
    assert done == expected


def test_tasks_that_are_given_up_are_counted_and_not_done(gate: threading.Event) -> None:
    queue = make_queue(most=3)
    done = fill(queue, gate, most=3)
    assert not queue.wait_until(time.monotonic())
    assert queue.drop_waiting() == 3
    gate.set()
    assert is_done(queue)
    assert done == []


def test_a_task_that_fails_is_logged_and_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    queue = make_queue()
    done: list[int] = []
    queue.add(lambda: done.remove(0))
    queue.add(lambda: done.append(1))
    assert is_done(queue)
    assert done == [1]
    assert [each.message for each in caplog.records] == ["it failed"]


def test_a_task_waits_for_the_next_one_where_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    queue = make_queue()
    done: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert queue.add(lambda: done.append(1))
    assert [each.message for each in caplog.records] == ["it failed"]
    assert queue.add(lambda: done.append(2))
    assert is_done(queue)
    assert done == [1, 2]
