"""Limits of what one address, client or user can store, and for how long."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
import redis
import time_machine
from werkzeug.test import TestResponse

from auth_service.oauth.safe_fetch import SafeFetcher
from auth_service.settings import Settings
from auth_service.storage import attempts
from auth_service.storage.grants import new_sid
from tests.conftest import RedisServer

from .conftest import ISSUER, REDIRECT, OAuthTestClient, parameters_of

LIMITS = {"registrations_per_hour": 5, "unused_clients": 10, "grants_per_client": 3}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Small limits."""
    return Settings.model_validate({**settings.model_dump(), "limits": LIMITS})


@pytest.fixture
def fetcher() -> SafeFetcher:
    """No name resolves."""
    return SafeFetcher(resolve=lambda _host: ())


@pytest.fixture
def connection(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A look behind the service's back."""
    with redis_server.client() as client:
        yield client


def register(oauth: OAuthTestClient, address: str | None, **metadata: Any) -> TestResponse:
    body = {"redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none"} | metadata
    headers = {} if address is None else {"X-Real-Ip": address}
    return oauth.app.test_client().post("/register", json=body, headers=headers, base_url=ISSUER)


def number_of(connection: redis.Redis, pattern: str) -> int:
    return len(list(connection.scan_iter(pattern, count=1000)))


def test_an_address_registers_so_many_clients_and_another_is_not_affected(oauth: OAuthTestClient) -> None:
    assert [register(oauth, "198.51.100.1").status_code for _ in range(7)] == [201] * 5 + [429] * 2
    refused = register(oauth, "198.51.100.1")
    assert 3500 < int(refused.headers["Retry-After"]) <= 3600
    assert refused.get_json()["error"] == "slow_down"
    assert register(oauth, "198.51.100.2").status_code == 201


def test_a_wait_for_one_group_of_endpoints_does_not_apply_to_another(
    oauth: OAuthTestClient, connection: redis.Redis
) -> None:
    assert [register(oauth, "198.51.100.1").status_code for _ in range(6)][-1] == 429
    while not any(connection.persist(key) for key in connection.scan_iter("wait:*", count=1000)):
        register(oauth, "198.51.100.1")  # what it was told was forgotten before it could be kept

    def wait_at(group: str, address: str) -> int:
        headers = {"X-Real-Ip": address}
        refused = oauth.app.test_client().get(f"/refusals/{group}/429", headers=headers, base_url=ISSUER)
        return int(refused.headers["Retry-After"])

    assert wait_at("registration", "198.51.100.1") > 3000
    for group in ("authorization", "token", "metadata"):
        assert wait_at(group, "198.51.100.1") < 60
    assert wait_at("registration", "198.51.100.2") < 60


def test_a_refused_registration_does_not_count(oauth: OAuthTestClient) -> None:
    for _ in range(10):
        assert register(oauth, "198.51.100.1", redirect_uris=["javascript:1"]).status_code == 400
    assert register(oauth, "198.51.100.1").status_code == 201


def test_a_registration_is_small(oauth: OAuthTestClient) -> None:
    uris = [f"https://example.com/{'x' * 900}/{number}" for number in range(9)]
    assert register(oauth, None, redirect_uris=uris[:8]).status_code == 201
    refused = register(oauth, None, redirect_uris=uris)
    assert (refused.status_code, refused.get_json()["error"]) == (400, "invalid_client_metadata")


def test_the_quota_is_full_again_after_an_hour(oauth: OAuthTestClient, connection: redis.Redis) -> None:
    assert [register(oauth, "198.51.100.1").status_code for _ in range(6)][-1] == 429
    pass_time(connection, 3600)
    assert register(oauth, "198.51.100.1").status_code == 201


def test_a_quota_holds_to_the_very_end_of_its_window(oauth: OAuthTestClient, connection: redis.Redis) -> None:
    refused, left = register(oauth, "198.51.100.1"), 0
    while not 0 < left <= 400:  # else the window ended in the middle of this: the same again
        assert [register(oauth, "198.51.100.1").status_code for _ in range(6)][-1] == 429
        (quota,) = connection.scan_iter("quota:registrations:*", count=1000)
        connection.pexpire(quota, 400)
        refused = register(oauth, "198.51.100.1")
        left = connection.pttl(quota)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")


@pytest.mark.parametrize(
    ("first", "second", "are_one"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("198.51.100.1", "::ffff:198.51.100.1", True),
        ("198.51.100.1", "198.51.100.2", False),
        # What Traefik would never set is counted together: nobody gains by making headers up.
        ("198.51.100.1, 198.51.100.3", "198.51.100.1,198.51.100.4", True),
        ("nonsense", "other", True),
        (None, "", True),
    ],
)
def test_addresses_of_one_customer_are_counted_as_one(
    oauth: OAuthTestClient, first: str | None, second: str | None, are_one: bool
) -> None:
    for _ in range(5):
        assert register(oauth, first).status_code == 201
    assert register(oauth, second).status_code == (429 if are_one else 201)


def test_forwarding_headers_of_clients_are_not_believed(oauth: OAuthTestClient) -> None:
    body = {"redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none"}
    statuses = [
        oauth.app.test_client()
        .post(
            "/register",
            json=body,
            headers={
                "X-Real-Ip": "198.51.100.1",
                "X-Forwarded-For": f"192.0.2.{number}",
                "Forwarded": f"for=192.0.2.{number}",
                "X-Client-Ip": f"192.0.2.{number}",
            },
            base_url=ISSUER,
        )
        .status_code
        for number in range(6)
    ]
    assert statuses == [201] * 5 + [429]


def test_a_flood_evicts_the_oldest_unused_clients_and_none_that_has_been_used(
    oauth: OAuthTestClient, connection: redis.Redis
) -> None:
    used = oauth.register()["client_id"]
    issued = oauth.redeem(used, oauth.obtain_code(used)).get_json()
    unused = oauth.register()["client_id"]
    for number in range(30):
        assert register(oauth, f"198.51.{number}.1").status_code == 201
    assert number_of(connection, "client:*") == LIMITS["unused_clients"] + 1
    assert connection.zcard("unused-clients") == LIMITS["unused_clients"]
    assert oauth.authorize(unused).status_code == 400
    response = oauth.redeem(unused, "code")
    assert (response.status_code, response.get_json()["error"]) == (401, "invalid_client")
    refreshed = oauth.token(grant_type="refresh_token", client_id=used, refresh_token=issued["refresh_token"])
    assert refreshed.status_code == 200


def test_a_flood_of_logins_that_nobody_finishes_is_bounded_and_leaves_the_newest(
    oauth: OAuthTestClient, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "MAX_ATTEMPTS", 10)
    client_id = oauth.register()["client_id"]
    page = oauth.authorize(client_id)
    sent = [oauth.decide(page) for _ in range(30)]
    assert number_of(connection, "login:*") == connection.zcard("logins") == 10
    assert oauth.follow(oauth.log_in(sent[0])).status_code == 400
    assert "code" in parameters_of(oauth.follow(oauth.log_in(sent[-1])))


def test_a_user_keeps_so_many_grants_of_a_client_and_loses_the_least_recently_used(
    oauth: OAuthTestClient, connection: redis.Redis
) -> None:
    client_id = oauth.register()["client_id"]
    issued = [oauth.redeem(client_id, oauth.obtain_code(client_id)).get_json() for _ in range(3)]

    def refresh(number: int) -> bool:
        response = oauth.token(
            grant_type="refresh_token", client_id=client_id, refresh_token=issued[number]["refresh_token"]
        )
        if response.status_code == 200:
            issued[number] = response.get_json()
        return response.status_code == 200

    pass_time(connection, 10)
    assert refresh(0)
    issued.append(oauth.redeem(client_id, oauth.obtain_code(client_id)).get_json())
    live = [refresh(number) for number in range(4)]
    assert live.count(True) == 3
    assert live[0]
    assert live[3]
    other = oauth.register()["client_id"]
    oauth.redeem(other, oauth.obtain_code(other))
    assert [refresh(number) for number in range(4)] == live


def pass_time(connection: redis.Redis, seconds: int) -> None:
    """Let Redis believe that so much time has passed: whatever ends by then is gone."""
    for key in connection.scan_iter(count=1000):
        left = connection.ttl(key)
        if left >= 0:
            connection.expire(key, left - seconds)


class TestAges:
    """A gateway that is left alone after a busy day."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        generous = {"registrations_per_hour": 1000, "unused_clients": 1000, "grants_per_client": 1000}
        return Settings.model_validate({**settings.model_dump(), "limits": generous})

    def test_a_client_without_a_login_is_forgotten_after_a_week_and_one_with_a_grant_is_not(
        self, oauth: OAuthTestClient, connection: redis.Redis
    ) -> None:
        used = oauth.register()["client_id"]
        issued = oauth.redeem(used, oauth.obtain_code(used)).get_json()
        unused = [oauth.register()["client_id"] for _ in range(20)]
        pass_time(connection, 7 * 24 * 3600 - 60)
        assert number_of(connection, "client:*") == 21
        pass_time(connection, 120)
        assert number_of(connection, "client:*") == 1
        assert oauth.authorize(unused[0]).status_code == 400

        def refresh() -> dict[str, Any]:
            response = oauth.token(grant_type="refresh_token", client_id=used, refresh_token=issued["refresh_token"])
            body: dict[str, Any] = response.get_json()
            return body

        for _ in range(10):  # a grant that is used every three weeks lives on, and its client and indices with it
            issued = refresh()
            assert "access_token" in issued
            pass_time(connection, 21 * 24 * 3600)
        assert number_of(connection, "client:*") == 1
        assert connection.zcard("grants-of-user:github:583231") == 1
        assert len(oauth.store.grants.find_of_user("github:583231")) == 1
        pass_time(connection, 31 * 24 * 3600)
        assert refresh()["error"] in {"invalid_grant", "invalid_client"}

    def test_codes_that_are_not_redeemed_leave_nothing_in_the_indices(
        self, oauth: OAuthTestClient, connection: redis.Redis
    ) -> None:
        with time_machine.travel(time.time()) as clock:
            client_id = oauth.register()["client_id"]
            indices = [f"grants-of-client:{client_id}", "grants-of-user:github:583231"]
            for _ in range(5):
                oauth.obtain_code(client_id)
            issued = oauth.redeem(client_id, oauth.obtain_code(client_id)).get_json()
            assert [connection.zcard(index) for index in indices] == [6, 6]
            clock.shift(601)
            once = oauth.register(grant_types=["authorization_code"])["client_id"]  # good for an hour
            unrefreshed = oauth.redeem(once, oauth.obtain_code(once)).get_json()
            oauth.obtain_code(client_id)
            assert [connection.zcard(index) for index in indices] == [2, 3]
            assert len(oauth.revocation.revoke_access("github:583231", by="test")) == 3
            for token in (issued["access_token"], unrefreshed["access_token"]):
                sid = jwt.decode(token, options={"verify_signature": False})["sid"]
                assert oauth.store.grants.find(sid) is None

    def test_a_long_lived_token_of_the_operator_is_listed_until_it_expires(
        self, oauth: OAuthTestClient, connection: redis.Redis
    ) -> None:
        client_id = oauth.register()["client_id"]
        issued = oauth.redeem(client_id, oauth.obtain_code(client_id)).get_json()
        (usual,) = oauth.store.grants.find_of_user("github:583231")
        headless = dataclasses.replace(usual.grant, sid=new_sid(), client_id="mcp-gatewayctl")
        oauth.store.grants.add(headless, lifetime=90 * 24 * 3600)
        oauth.redeem(client_id, oauth.obtain_code(client_id))  # whose grants are for thirty days
        oauth.token(grant_type="refresh_token", client_id=client_id, refresh_token=issued["refresh_token"])
        pass_time(connection, 80 * 24 * 3600)
        assert oauth.store.grants.find(headless.sid) is not None
        assert oauth.revocation.revoke_access("github:583231", by="test") == [headless]
        assert oauth.store.grants.find(headless.sid) is None

    def test_everything_that_requests_leave_behind_is_gone_in_the_end(
        self, oauth: OAuthTestClient, connection: redis.Redis
    ) -> None:
        busy: list[Callable[[], Any]] = [
            oauth.register,
            lambda: oauth.authorize(oauth.register()["client_id"]),
            lambda: oauth.decide(oauth.authorize(oauth.register()["client_id"])),
            lambda: oauth.decide(oauth.authorize(oauth.register()["client_id"]), "deny"),
            lambda: oauth.obtain_code(oauth.register()["client_id"]),
            lambda: oauth.token(grant_type="refresh_token", client_id="x", refresh_token="y.1.z"),
            lambda: oauth.browser.get("/authorize?client_id=https://client.example.com/x", base_url=ISSUER),
        ]
        for action in busy:
            for _ in range(3):
                oauth.browser = oauth.new_browser()
                action()
        for _ in range(5):
            oauth.browser = oauth.new_browser()
            client_id = oauth.register()["client_id"]
            issued = oauth.redeem(client_id, oauth.obtain_code(client_id)).get_json()
            oauth.token(grant_type="refresh_token", client_id=client_id, refresh_token=issued["refresh_token"])
        assert number_of(connection, "*") > 50
        for_good = [key for key in connection.scan_iter(count=1000) if connection.ttl(key) == -1]
        assert sorted(for_good) == ["pins:github", "signed-until"]
        assert connection.hlen("pins:github") == 1  # one for each name on a list, and no more
        longest = max(connection.ttl(key) for key in connection.scan_iter(count=1000))
        assert longest <= 120 * 24 * 3600
        pass_time(connection, longest + 1)
        assert number_of(connection, "*") == len(for_good)
