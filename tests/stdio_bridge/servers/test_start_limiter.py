from __future__ import annotations

import pytest

from stdio_bridge.servers.start_limiter import StartLimiter, StartPermit


def test_no_more_start_at_once_than_may_and_the_rest_in_order() -> None:
    start_limiter, started = StartLimiter(2), list[int]()
    held = [start_limiter.ask(lambda number=number: started.append(number), user="u") for number in range(5)]  # type: ignore[misc]
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

    start_limiter.ask(fail, user="u")
    first = start_limiter.ask(lambda: started.append("first"), user="u")
    start_limiter.ask(fail, user="u")
    start_limiter.ask(lambda: started.append("second"), user="u")
    assert (started, start_limiter.waiting) == (["first"], 2)
    first.release()
    assert (started, start_limiter.waiting) == (["first", "second"], 0)
    assert [record.getMessage() for record in caplog.records] == ["a start failed"] * 2


def test_what_is_for_no_user_starts_after_all_others() -> None:
    start_limiter, started = StartLimiter(1), list[str]()
    first = start_limiter.ask(lambda: started.append("first"), user="u")
    spare = start_limiter.ask(lambda: started.append("spare"), user=None)
    urgent = start_limiter.ask(lambda: started.append("urgent"), user="u")
    assert start_limiter.waiting == 1
    first.release()
    urgent.release()
    assert started == ["first", "urgent", "spare"]
    spare.release()
    assert start_limiter.ask(lambda: started.append("next"), user="u") is not None
    assert started[-1] == "next"


def test_users_start_in_turn_however_many_starts_of_one_of_them_wait() -> None:
    start_limiter, started = StartLimiter(1), list[str]()

    def ask(name: str) -> StartPermit:
        return start_limiter.ask(lambda: started.append(name), user=name[:3])

    permits = {name: ask(name) for name in ("ann1", "ann2", "ann3", "bob1", "bob2", "eve1", "ian1")}
    for name in ("bob2", "bob2", "ian1", "ian1"):
        permits[name].release()
    assert start_limiter.waiting == 4
    for name in ("ann1", "ann2", "bob1", "eve1", "ann3"):
        assert started[-1] == name
        permits[name].release()
    assert (len(started), start_limiter.waiting) == (5, 0)
