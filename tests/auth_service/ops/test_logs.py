"""The service's own log: what fails again and again does not fill it."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from auth_service.ops import audit, logs, outages
from auth_service.ops.audit import Event
from auth_service.ops.outages import Outage


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(logs, "time", clock)
    monkeypatch.setattr(outages, "time", clock)
    return clock


@pytest.fixture
def log(clock: Clock) -> Iterator[tuple[logging.Logger, io.StringIO]]:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logs.LineFormatter())
    handler.addFilter(logs.RepetitionBound())
    logger = logging.getLogger("gateway")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield logger, written
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
    handler.close()


def test_repeated_errors_are_left_out_and_counted(clock: Clock, log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = log
    for number in range(100):
        try:
            raise OSError(f"no space {number}")
        except OSError:
            logger.exception("write %d failed", number)
    lines = written.getvalue().splitlines()
    assert sum(line.startswith("ERROR") for line in lines) == logs.MESSAGES_AT_ONCE
    assert sum("Traceback" in line for line in lines) == logs.MESSAGES_AT_ONCE
    logger.error("something else")
    assert written.getvalue().endswith("ERROR gateway: something else\n")
    clock.now += logs.SECONDS_PER_MESSAGE
    logger.error("write %d failed", 100)
    logger.error("write %d failed", 101)
    assert written.getvalue().endswith("ERROR gateway: write 100 failed (90 more like this were left out)\n")


def test_a_message_below_warning_is_always_written(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = log
    for _ in range(100):
        logger.info("a request")
        logger.warning(audit.Entry(Event.TOKEN_REUSED, {}, 0))
    assert written.getvalue().count("a request") == 100
    assert written.getvalue().count("token.reused") == 100


def test_an_outage_is_logged_at_its_beginning_and_its_end(
    clock: Clock, log: tuple[logging.Logger, io.StringIO]
) -> None:
    logger, written = log
    outage = Outage(logger, "redis.lost", over="redis.back")
    outage.worked()
    for reason in ("refused", "reset", "refused"):
        outage.failed(reason)
        clock.now += 1
        outage.worked()  # for a moment only
    for _ in range(3):
        clock.now += outages.SETTLED_SECONDS
        outage.worked()
    outage.failed("again")
    assert written.getvalue().splitlines() == [
        "WARNING gateway: redis.lost: refused",
        "WARNING gateway: redis.back: after 3 s",
        "WARNING gateway: redis.lost: again",
    ]
