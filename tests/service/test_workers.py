"""Several workers: what one of them has ended, none of them admits."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import redis
import requests

from tests.e2e.flow import Tokens, obtain_code, refresh

from .conftest import WORKERS, Place, Service, eventually, sid_of
from .proxy import Stage


def revoke(service: Service, tokens: Tokens, _behind_its_back: redis.Redis) -> None:
    assert service.post("/revoke", {"token": tokens.refresh_token, "client_id": tokens.client_id}).status_code == 200


def reuse_an_old_refresh_token(service: Service, tokens: Tokens, behind_its_back: redis.Redis) -> None:
    assert refresh(service.issuer, tokens).status_code == 200
    behind_its_back.hset(f"refresh:{sid_of(tokens.access_token)}", "0", "1")  # rotated long ago
    assert refresh(service.issuer, tokens).json()["error"] == "invalid_grant"


@pytest.mark.parametrize("end", [revoke, reuse_an_old_refresh_token], ids=lambda end: end.__name__)
def test_what_one_worker_revokes_is_refused_by_the_next_request_on_every_worker(
    service: Service,
    behind_its_back: redis.Redis,
    end: Callable[[Service, Tokens, redis.Redis], None],
) -> None:
    tokens = service.log_in()
    connections = service.connect_to_all()
    assert len(connections) == WORKERS
    for connection in connections:
        assert [connection.verify(tokens.access_token) for _ in range(3)] == [200] * 3
    end(service, tokens, behind_its_back)
    assert [connection.verify(tokens.access_token) for connection in connections] == [401] * WORKERS
    for connection in connections:
        connection.close()


def test_connections_that_their_clients_close_leave_nothing_behind(service: Service) -> None:
    def memory() -> int:
        return sum(psutil.Process(worker).memory_info().rss for worker in service.workers())

    def ask(times: int) -> None:
        for _ in range(times):
            with socket.create_connection(("127.0.0.1", service.port)) as connection:
                connection.sendall(b"GET /verify/time HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert connection.recv(1024).startswith(b"HTTP/1.1 401 ")

    ask(500)
    before = memory()
    ask(4000)
    assert memory() - before < 15 * 2**20


def test_a_replayed_code_ends_its_token_on_every_worker(service: Service) -> None:
    code = obtain_code(service.issuer, service.resource)
    token = code.redeem().json()["access_token"]
    connections = service.connect_to_all()
    assert [connection.verify(token) for connection in connections] == [200] * WORKERS
    assert code.redeem().json()["error"] == "invalid_grant"
    assert [connection.verify(token) for connection in connections] == [401] * WORKERS
    for connection in connections:
        connection.close()


def test_a_client_that_deletes_itself_ends_all_its_grants_on_every_worker(service: Service) -> None:
    registration = requests.post(
        f"{service.issuer}/register",
        json={"redirect_uris": ["http://127.0.0.1:1/callback"], "token_endpoint_auth_method": "none"},
        timeout=60,
    ).json()
    tokens = [
        obtain_code(service.issuer, service.resource, client_id=registration["client_id"])
        .redeem()
        .json()["access_token"]
        for _ in range(2)
    ]
    connections = service.connect_to_all()
    assert {connection.verify(token) for connection in connections for token in tokens} == {200}
    answer = requests.delete(
        registration["registration_client_uri"],
        headers={"Authorization": f"Bearer {registration['registration_access_token']}"},
        timeout=60,
    )
    assert answer.status_code == 204
    assert {connection.verify(token) for connection in connections for token in tokens} == {401}
    for connection in connections:
        connection.close()


def test_a_hundred_who_redeem_a_code_on_all_workers_at_once_get_one_token(service: Service) -> None:
    code = obtain_code(service.issuer, service.resource)
    with ThreadPoolExecutor(100) as pool:
        statuses = [answer.status_code for answer in pool.map(lambda _: code.redeem(), range(100))]
    assert sorted(statuses) == [200] + [400] * 99


def test_a_hundred_who_refresh_at_once_get_the_same_successor(service: Service) -> None:
    tokens = service.log_in()
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda _: refresh(service.issuer, tokens), range(100)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["refresh_token"] for answer in answers}) == 1
    successor = Tokens(tokens.client_id, "", answers[0].json()["refresh_token"])
    assert refresh(service.issuer, successor).status_code == 200


def test_a_worker_that_stalls_admits_nothing_that_was_revoked_meanwhile(service: Service) -> None:
    tokens = service.log_in()
    stalled, other = service.workers()[:2]
    connection = service.connect(stalled)
    assert connection.verify(tokens.access_token) == 200
    other_connection = service.connect(other)
    os.kill(stalled, signal.SIGSTOP)
    try:
        # The kernel may give the revoking request to the one that sleeps: it goes over a connection of another.
        body = f"token={tokens.refresh_token}&client_id={tokens.client_id}"
        assert other_connection.post("/revoke", body) == 200
    finally:
        os.kill(stalled, signal.SIGCONT)
    assert connection.verify(tokens.access_token) == 401
    connection.close()
    other_connection.close()


@pytest.mark.parametrize("stage", [Stage.BEFORE, Stage.AFTER], ids=lambda stage: stage.name.lower())
def test_a_worker_killed_in_the_middle_of_a_code_exchange_grants_nothing_twice(place: Place, stage: Stage) -> None:
    service = place.start(through_proxy=True)
    service.log_in()  # from now on Redis knows the script that redeems
    code = obtain_code(service.issuer, service.resource)
    stop = place.proxy.hold(b"redeemed:", stage)
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(code.redeem)
        assert stop.reached.wait(60)
        before = service.workers()
        for worker in before:  # one of them is at it; the others are replaced as well
            os.kill(worker, signal.SIGKILL)
        assert isinstance(lost.exception(60), requests.ConnectionError)
    eventually(lambda: len(service.workers()) == WORKERS and not set(before) & set(service.workers()))
    eventually(service.is_ready)
    again = code.redeem()
    if stage is Stage.BEFORE:
        assert again.status_code == 200, "the client may try again"
    else:
        assert again.json()["error"] == "invalid_grant"
    assert code.redeem().json()["error"] == "invalid_grant"
    client_id = code.form["client_id"]
    assert obtain_code(service.issuer, service.resource, client_id=client_id).redeem().status_code == 200
