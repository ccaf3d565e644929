"""Refresh tokens: rotation, the grace for shared ones, reuse."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import redis
import time_machine
from werkzeug.test import TestResponse

from auth_service.ops.audit import Event
from auth_service.storage.refresh_tokens import LOST_ANSWER_SECONDS, ROTATION_GRACE
from tests.conftest import RedisServer

from .conftest import AuditLog, OAuthTestClient


@pytest.fixture
def connection(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A look behind the service's back."""
    with redis_server.client() as client:
        yield client


def _login(oauth: OAuthTestClient) -> tuple[str, dict[str, Any]]:
    client_id = oauth.register()["client_id"]
    return client_id, oauth.redeem(client_id, oauth.obtain_code(client_id)).get_json()


def _refresh(oauth: OAuthTestClient, client_id: str, refresh_token: str, **changes: str) -> TestResponse:
    return oauth.token(grant_type="refresh_token", client_id=client_id, refresh_token=refresh_token, **changes)


def test_a_refresh_rotates_and_a_repeat_gets_the_same_successor(oauth: OAuthTestClient) -> None:
    client_id, issued = _login(oauth)
    first = _refresh(oauth, client_id, issued["refresh_token"]).get_json()
    again = _refresh(oauth, client_id, issued["refresh_token"]).get_json()
    assert first["refresh_token"] == again["refresh_token"] != issued["refresh_token"]
    assert _refresh(oauth, client_id, first["refresh_token"]).status_code == 200


@pytest.mark.parametrize("scope", ["mcp ", " mcp", "mcp  mcp"])
def test_spaces_too_many_name_no_scope(oauth: OAuthTestClient, scope: str) -> None:
    client_id, issued = _login(oauth)
    assert _refresh(oauth, client_id, issued["refresh_token"], scope=scope).get_json()["scope"] == "mcp"


HABITS = ["openid", "openid profile email offline_access", "offline_access", "phone address"]


@pytest.mark.parametrize("scope", [*HABITS, "openid mcp offline_access", "mcp other"])
def test_scopes_that_mean_nothing_here_are_ignored_at_refresh(oauth: OAuthTestClient, scope: str) -> None:
    client_id, issued = _login(oauth)
    refreshed = _refresh(oauth, client_id, issued["refresh_token"], scope=scope)
    assert (refreshed.status_code, refreshed.get_json()["scope"]) == (200, "mcp")


@pytest.mark.parametrize("scope", ["other", "openid other", "mcp\t", "\tmcp"])
def test_a_refused_refresh_does_not_use_up_the_token(oauth: OAuthTestClient, scope: str) -> None:
    with time_machine.travel(1_800_000_000, tick=False) as clock:
        client_id, issued = _login(oauth)
        refused = _refresh(oauth, client_id, issued["refresh_token"], scope=scope)
        assert refused.get_json()["error"] == "invalid_scope"
        clock.shift(61)
        assert _refresh(oauth, client_id, issued["refresh_token"]).status_code == 200


def test_a_refresh_whose_answer_was_lost_works_until_its_successor_has_been_used(
    oauth: OAuthTestClient, audit_log: AuditLog
) -> None:
    with time_machine.travel(1_800_000_000, tick=False) as clock:
        client_id, issued = _login(oauth)
        lost = _refresh(oauth, client_id, issued["refresh_token"]).get_json()["refresh_token"]
        for _ in range(3):
            clock.shift(LOST_ANSWER_SECONDS // 3)
            again = _refresh(oauth, client_id, issued["refresh_token"])
            assert (again.status_code, again.get_json()["refresh_token"]) == (200, lost)
        assert _refresh(oauth, client_id, lost).status_code == 200
        assert Event.TOKEN_REUSED not in audit_log.names
        clock.shift(ROTATION_GRACE + 1)
        assert _refresh(oauth, client_id, issued["refresh_token"]).get_json()["error"] == "invalid_grant"
        assert Event.TOKEN_REUSED in audit_log.names
        assert _refresh(oauth, client_id, lost).get_json()["error"] == "invalid_grant"


def test_a_refresh_whose_answer_was_lost_is_over_after_a_day(oauth: OAuthTestClient) -> None:
    with time_machine.travel(1_800_000_000, tick=False) as clock:
        client_id, issued = _login(oauth)
        successor = _refresh(oauth, client_id, issued["refresh_token"]).get_json()["refresh_token"]
        clock.shift(LOST_ANSWER_SECONDS + 1)
        assert _refresh(oauth, client_id, issued["refresh_token"]).get_json()["error"] == "invalid_grant"
        assert _refresh(oauth, client_id, successor).get_json()["error"] == "invalid_grant"


def test_sending_a_token_again_does_not_prolong_the_time_for_it(oauth: OAuthTestClient) -> None:
    with time_machine.travel(1_800_000_000, tick=False) as clock:
        client_id, issued = _login(oauth)
        for _ in range(2):
            assert _refresh(oauth, client_id, issued["refresh_token"]).status_code == 200
            clock.shift(LOST_ANSWER_SECONDS // 2 + 1)
        assert _refresh(oauth, client_id, issued["refresh_token"]).get_json()["error"] == "invalid_grant"


def test_a_client_that_is_late_by_less_than_the_grace_gets_the_newest_token(
    oauth: OAuthTestClient, audit_log: AuditLog
) -> None:
    """One process repeats the refresh of an hour ago while another already uses what came of it."""
    with time_machine.travel(1_800_000_000, tick=False) as clock:
        client_id, issued = _login(oauth)
        successor = _refresh(oauth, client_id, issued["refresh_token"]).get_json()["refresh_token"]
        clock.shift(3600)
        newest = _refresh(oauth, client_id, successor).get_json()["refresh_token"]
        clock.shift(ROTATION_GRACE)
        late = _refresh(oauth, client_id, issued["refresh_token"])
        assert late.get_json()["refresh_token"] == newest
        assert Event.TOKEN_REUSED not in audit_log.names


def test_a_thief_who_comes_before_the_client_is_noticed_by_the_one_who_comes_too_late(oauth: OAuthTestClient) -> None:
    with time_machine.travel(1_800_000_000, tick=False) as clock:
        client_id, issued = _login(oauth)
        stolen = issued["refresh_token"]
        clients_own = _refresh(oauth, client_id, stolen).get_json()["refresh_token"]
        clock.shift(600)
        thiefs = _refresh(oauth, client_id, stolen).get_json()["refresh_token"]
        assert thiefs == clients_own, "there is one line of successors, however many hold it"
        clock.shift(3600)
        assert _refresh(oauth, client_id, clients_own).status_code == 200
        clock.shift(3600)
        theirs = _refresh(oauth, client_id, clients_own).get_json()["refresh_token"]
        assert _refresh(oauth, client_id, theirs).status_code == 200
        clock.shift(ROTATION_GRACE + 1)
        assert _refresh(oauth, client_id, thiefs).get_json()["error"] == "invalid_grant"
        assert oauth.store.grants.count() == 0


@pytest.mark.parametrize("processes", [5, 24])
def test_processes_that_refresh_at_once_all_get_the_same_successor(
    oauth: OAuthTestClient, audit_log: AuditLog, processes: int
) -> None:
    client_id, issued = _login(oauth)
    token = issued["refresh_token"]
    with ThreadPoolExecutor(processes) as pool:
        for _ in range(3):
            answers = list(pool.map(partial(_refresh, oauth, client_id), [token] * processes))
            assert {answer.status_code for answer in answers} == {200}
            (token,) = {answer.get_json()["refresh_token"] for answer in answers}
            accesses = {answer.get_json()["access_token"] for answer in answers}
            assert len(accesses) == processes
    assert Event.TOKEN_REUSED not in audit_log.names


def test_processes_that_go_on_while_others_repeat_do_not_lose_the_grant(
    oauth: OAuthTestClient, audit_log: AuditLog
) -> None:
    client_id, issued = _login(oauth)

    def go_on(_: int) -> str:
        token = issued["refresh_token"]
        for _ in range(5):
            answer = _refresh(oauth, client_id, token)
            assert answer.status_code == 200, answer.text
            token = answer.get_json()["refresh_token"]
        return str(token)

    with ThreadPoolExecutor(5) as pool:
        tokens = list(pool.map(go_on, range(5)))
    assert Event.TOKEN_REUSED not in audit_log.names
    assert all(_refresh(oauth, client_id, token).status_code == 200 for token in tokens)


def test_a_redis_that_has_lost_the_last_rotation_raises_no_alarm(
    oauth: OAuthTestClient, connection: redis.Redis, audit_log: AuditLog
) -> None:
    client_id, issued = _login(oauth)
    key = f"refresh:{issued['refresh_token'].partition('.')[0]}"
    lost = _refresh(oauth, client_id, issued["refresh_token"]).get_json()["refresh_token"]
    connection.hset(key, "current", "0")
    connection.hdel(key, "0")
    newest = _refresh(oauth, client_id, lost).get_json()["refresh_token"]
    assert _refresh(oauth, client_id, lost).get_json()["refresh_token"] == newest
    assert Event.TOKEN_REUSED not in audit_log.names
    # The token before counts as used, so it is refused now.
    assert _refresh(oauth, client_id, issued["refresh_token"]).get_json()["error"] == "invalid_grant"
    assert _refresh(oauth, client_id, newest).get_json()["error"] == "invalid_grant"


def test_a_generation_that_nobody_was_given_is_none(oauth: OAuthTestClient) -> None:
    client_id, issued = _login(oauth)
    sid, _, rest = issued["refresh_token"].partition(".")
    forged = f"{sid}.7.{rest.partition('.')[2]}"
    assert _refresh(oauth, client_id, forged).get_json()["error"] == "invalid_grant"
    assert _refresh(oauth, client_id, issued["refresh_token"]).status_code == 200


def test_another_client_can_not_refresh(oauth: OAuthTestClient) -> None:
    _, issued = _login(oauth)
    other = oauth.register()["client_id"]
    assert _refresh(oauth, other, issued["refresh_token"]).get_json()["error"] == "invalid_grant"


@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
def test_revoking_either_token_ends_the_grant_but_only_for_its_own_client(oauth: OAuthTestClient, kind: str) -> None:
    client_id, issued = _login(oauth)
    other = oauth.register()["client_id"]

    def revoke(client: str) -> int:
        return oauth.app.test_client().post("/revoke", data={"client_id": client, "token": issued[kind]}).status_code

    assert revoke(other) == 200
    assert _refresh(oauth, client_id, issued["refresh_token"]).status_code == 200
    assert revoke(client_id) == 200
    assert _refresh(oauth, client_id, issued["refresh_token"]).get_json()["error"] == "invalid_grant"
