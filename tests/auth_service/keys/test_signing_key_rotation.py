"""The rotation of signing keys, on which hosts agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import time_machine

from auth_service.keys.access_tokens import issue_access_token
from auth_service.keys.signing_key_rotation import PUBLICATION_SECONDS, KeyInUseError, KeyRotation
from auth_service.keys.signing_keys import SigningKeys
from auth_service.settings import Credentials, Lifetimes

CREDENTIALS = Credentials(client_secret="", master_key=b"k" * 32)
INTERVAL = 90 * 24 * 3600
START = 20 * INTERVAL + 1000
LIFETIMES = Lifetimes(signing_key=INTERVAL, access_token=3600)


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(START, tick=False) as traveller:
        yield traveller


@pytest.fixture
def connection(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as connection:
        yield connection


class Host:
    def __init__(self, folder: Path, connection: redis.Redis) -> None:
        self.keys = SigningKeys(folder, CREDENTIALS)
        self.rotation = KeyRotation(self.keys, connection, LIFETIMES)
        self.keys.on_sign = self.rotation.note_signature

    @property
    def activations(self) -> list[int]:
        return [key.activation for key in self.keys.all()]

    def sign(self, *, now: int, lifetime: int) -> None:
        names = dict.fromkeys(["issuer", "sub", "name", "client_id", "scope", "resource", "sid"], "x")
        issue_access_token(self.keys, **names, lifetime=lifetime, now=now)


def test_the_next_key_is_published_an_interval_ahead_and_the_last_one_goes_with_its_last_token(
    tmp_path: Path, connection: redis.Redis, clock: time_machine.Traveller
) -> None:
    host = Host(tmp_path, connection)
    host.rotation.synchronize()
    assert host.activations == [0, 21 * INTERVAL]
    clock.move_to(21 * INTERVAL)
    host.rotation.synchronize()
    assert host.activations == [0, 21 * INTERVAL, 22 * INTERVAL]
    assert host.keys.signing_key(now=21 * INTERVAL).activation == 21 * INTERVAL
    clock.move_to(21 * INTERVAL + LIFETIMES.access_token)
    host.rotation.synchronize()
    assert 0 in host.activations
    clock.shift(120)
    host.rotation.synchronize()
    assert host.activations == [21 * INTERVAL, 22 * INTERVAL]


def test_a_key_stays_for_as_long_as_the_longest_token_that_it_signed(
    tmp_path: Path, connection: redis.Redis, clock: time_machine.Traveller
) -> None:
    host = Host(tmp_path, connection)
    host.rotation.synchronize()
    host.sign(now=START, lifetime=2 * INTERVAL)
    host.sign(now=START, lifetime=10)
    clock.move_to(START + 2 * INTERVAL)
    host.rotation.synchronize()
    assert 0 in host.activations
    clock.shift(200)
    host.rotation.synchronize()
    assert 0 not in host.activations


def test_a_short_while_before_the_next_key_is_due_the_one_after_it_is_taken(
    tmp_path: Path, connection: redis.Redis, clock: time_machine.Traveller
) -> None:
    clock.move_to(21 * INTERVAL - PUBLICATION_SECONDS + 1)
    host = Host(tmp_path, connection)
    host.rotation.synchronize()
    assert host.activations == [0, 22 * INTERVAL], "one that signs must have been published before"


def test_hosts_agree_on_new_and_on_retired_keys_also_one_that_comes_later(
    tmp_path: Path, connection: redis.Redis, clock: time_machine.Traveller
) -> None:
    first, second = Host(tmp_path / "1", connection), Host(tmp_path / "2", connection)
    for host in (first, second):
        host.rotation.synchronize()
    added = first.rotation.rotate()
    assert added.activation == START + PUBLICATION_SECONDS
    second.rotation.synchronize()
    assert second.keys.jwks() == first.keys.jwks()
    clock.move_to(added.activation)
    second.rotation.retire(second.keys.all()[0].kid, force=True)
    first.rotation.synchronize()
    third = Host(tmp_path / "3", connection)
    third.rotation.synchronize()
    assert first.activations == second.activations == third.activations == [added.activation, 21 * INTERVAL]


def test_a_key_in_use_is_retired_only_by_force_and_then_another_signs_at_once(
    tmp_path: Path, connection: redis.Redis, clock: time_machine.Traveller
) -> None:
    host = Host(tmp_path, connection)
    host.rotation.synchronize()
    kid = host.keys.all()[0].kid
    with pytest.raises(KeyInUseError):
        host.rotation.retire(kid, force=False)
    host.rotation.retire(kid, force=True)
    assert host.activations == [START, 21 * INTERVAL]
    assert host.keys.signing_key(now=START).activation == START
    host.rotation.synchronize()
    assert host.activations == [START, 21 * INTERVAL]
    with pytest.raises(LookupError):
        host.rotation.retire(kid, force=True)


def test_a_key_that_has_never_signed_can_be_retired(
    tmp_path: Path, connection: redis.Redis, clock: time_machine.Traveller
) -> None:
    host = Host(tmp_path, connection)
    host.rotation.retire(host.rotation.rotate().kid, force=False)
    assert host.activations == [0]


def test_without_an_interval_keys_stay(tmp_path: Path, connection: redis.Redis, clock: time_machine.Traveller) -> None:
    host = Host(tmp_path, connection)
    host.rotation = KeyRotation(host.keys, connection, Lifetimes(signing_key=None))
    host.rotation.synchronize()
    clock.shift(10 * INTERVAL)
    host.rotation.synchronize()
    assert host.activations == [0]
