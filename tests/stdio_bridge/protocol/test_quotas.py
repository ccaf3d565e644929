"""The calls of the last minute: how many are counted, for how long, and how much memory that takes."""

from __future__ import annotations

import collections
import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_bridge.protocol.quotas import CallRates, Excess, Quota

THREE = Quota(name="this server", calls_per_minute=3)
ONE = Quota(name="tool drop", calls_per_minute=1)


def take(rates: CallRates, now: float, *quotas: Quota, user: str = "u") -> Excess | None:
    wanted = collections.Counter(quotas)
    assert rates.seconds_until_room(user, now) == 0
    excess = rates.find_excess(user, wanted, now)
    if excess is None:
        rates.count(user, wanted, now)
    return excess


def test_a_call_over_the_quota_waits_until_the_oldest_one_is_a_minute_ago() -> None:
    rates = CallRates()
    for now in (100.0, 110.0, 120.0):
        assert take(rates, now, THREE) is None
    assert take(rates, 130.0, THREE) == Excess(THREE, 30.0)
    assert take(rates, 159.5, THREE) == Excess(THREE, 0.5)
    assert take(rates, 160.0, THREE) is None
    assert take(rates, 160.0, THREE) == Excess(THREE, 10.0)


def test_a_refused_call_does_not_count() -> None:
    rates = CallRates()
    assert take(rates, 0.0, ONE) is None
    assert [take(rates, float(now), ONE) for now in range(1, 60)] == [Excess(ONE, 60.0 - now) for now in range(1, 60)]
    assert take(rates, 60.0, ONE) is None


def test_each_user_and_each_quota_is_counted_by_itself() -> None:
    rates = CallRates()
    assert take(rates, 0.0, ONE, user="a") is None
    assert take(rates, 0.0, ONE, user="b") is None
    assert take(rates, 0.0, THREE, user="a") is None
    assert take(rates, 1.0, ONE, user="a") == Excess(ONE, 59.0)


def test_a_call_that_one_quota_refuses_counts_for_no_other() -> None:
    rates = CallRates()
    assert take(rates, 0.0, ONE, THREE) is None
    for _ in range(5):
        assert take(rates, 1.0, ONE, THREE) == Excess(ONE, 59.0)
    assert take(rates, 2.0, THREE, THREE) is None


def test_of_two_quotas_the_one_that_takes_longer_is_named() -> None:
    rates = CallRates()
    assert take(rates, 0.0, THREE, THREE) is None
    assert take(rates, 20.0, ONE, THREE) is None
    for quotas in ((ONE, THREE), (THREE, ONE)):
        assert take(rates, 30.0, *quotas) == Excess(ONE, 50.0)


def test_several_calls_at_once_wait_until_there_is_room_for_all_of_them() -> None:
    rates = CallRates()
    for now in (0.0, 10.0, 20.0):
        assert take(rates, now, THREE) is None
    assert take(rates, 30.0, THREE, THREE) == Excess(THREE, 40.0)
    assert take(rates, 30.0, THREE, THREE, THREE) == Excess(THREE, 50.0)
    assert take(rates, 30.0, THREE, THREE, THREE, THREE) == Excess(THREE, None)


@given(
    st.integers(1, 8),
    st.lists(st.tuples(st.floats(0, 90, allow_nan=False), st.integers(1, 3)), max_size=60),
)
def test_no_minute_has_more_calls_than_the_quota_and_the_wait_told_is_enough(
    limit: int, steps: list[tuple[float, int]]
) -> None:
    rates, quota = CallRates(), Quota(name="x", calls_per_minute=limit)
    now, made = 1000.0, []
    for pause, calls in steps:
        now += pause
        excess = take(rates, now, *[quota] * calls)
        if excess is None:
            made += [now] * calls
            assert sum(now - 60 < each for each in made) <= limit
        elif excess.seconds is None:
            assert calls > limit
        else:
            assert 0 < excess.seconds <= 60
            # A second is the unit of the answer.
            later = copy.deepcopy(rates)
            assert later.find_excess("u", {quota: calls}, now + excess.seconds + 1e-6) is None


def test_calls_are_kept_no_longer_than_necessary_by_more_than_five_seconds() -> None:
    rates, quota = CallRates(), Quota(name="x", calls_per_minute=100)
    for number in range(100):
        assert take(rates, number / 10, quota) is None
    assert take(rates, 65.0, quota) is None


def test_a_user_takes_the_same_memory_however_many_calls_it_makes() -> None:
    rates, quota = CallRates(), Quota(name="x", calls_per_minute=10**9)
    for number in range(100_000):
        assert take(rates, number / 100, quota) is None
    assert len(rates._users["u"].windows[quota]._bursts) <= 13


def test_users_who_have_made_no_call_for_a_minute_take_no_memory() -> None:
    rates = CallRates()
    for number in range(50):
        assert take(rates, float(number), ONE, user=str(number)) is None
    assert len(rates) == 50
    assert take(rates, 80.5, ONE, user="late") is None
    assert len(rates) == 30


def test_at_the_limit_of_users_a_new_one_waits_and_none_is_forgotten_who_has_called() -> None:
    rates = CallRates(max_users=2)
    assert take(rates, 0.0, ONE, user="a") is None
    assert take(rates, 10.0, ONE, user="b") is None
    assert rates.seconds_until_room("c", 20.0) == 40.0
    assert take(rates, 20.0, ONE, user="a") == Excess(ONE, 40.0)
    assert take(rates, 20.0, THREE, user="a") is None
    assert rates.seconds_until_room("c", 20.0) == 50.0
    assert take(rates, 70.0, ONE, user="c") is None
    assert len(rates) == 2


@pytest.mark.parametrize("user", ["", "github:1", "oidc:https://idp.example#x"])
def test_any_name_of_a_user_is_counted(user: str) -> None:
    rates = CallRates()
    assert take(rates, 0.0, ONE, user=user) is None
    assert take(rates, 0.0, ONE, user=user) == Excess(ONE, 60.0)
