"""Redis gone, back, slow, hung or emptied: nothing is granted meanwhile, and nobody has to restart anything."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import redis
import requests

from tests.e2e.flow import obtain_code, refresh

from .conftest import Place, Service, eventually
from .proxy import Stage


@pytest.fixture
def service(place: Place) -> Service:
    """One worker, whose way to Redis the test disturbs."""
    return place.start(workers=1, through_proxy=True)


def test_while_redis_is_gone_nobody_passes_and_once_it_is_back_everybody_does(place: Place, service: Service) -> None:
    tokens = service.log_in()
    (connection,) = service.connect_to_all()
    assert connection.verify(tokens.access_token) == 200
    place.redis.stop(keep=True)
    eventually(lambda: connection.verify(tokens.access_token) == 503)
    assert connection.get("/readyz") == 503
    assert connection.get("/healthz") == 200
    assert refresh(service.issuer, tokens).status_code == 503
    place.redis.start()
    eventually(lambda: connection.verify(tokens.access_token) == 200)
    assert refresh(service.issuer, tokens).status_code == 200
    connection.close()


def test_a_redis_that_comes_back_empty_sends_everybody_to_a_new_login(place: Place, service: Service) -> None:
    tokens = service.log_in()
    (connection,) = service.connect_to_all()
    assert connection.verify(tokens.access_token) == 200
    with place.redis.client() as client:
        client.flushall()
    eventually(lambda: connection.verify(tokens.access_token) == 401)  # the worker hears of it a moment later
    answer = refresh(service.issuer, tokens)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert connection.verify(service.log_in().access_token) == 200
    connection.close()


def test_a_redis_that_hangs_costs_a_bounded_wait_and_admits_nobody(place: Place, service: Service) -> None:
    tokens = service.log_in()
    (connection,) = service.connect_to_all()
    place.redis.signal(signal.SIGSTOP)
    try:
        eventually(lambda: connection.get("/readyz") == 503)
        assert connection.verify(tokens.access_token) == 503
        assert refresh(service.issuer, tokens).status_code == 503
    finally:
        place.redis.signal(signal.SIGCONT)
    eventually(lambda: connection.get("/readyz") == 200)
    assert connection.verify(tokens.access_token) == 200
    assert refresh(service.issuer, tokens).status_code == 200
    connection.close()


def is_watching(service: Service) -> bool:
    """Whether heartbeats are answered in time on any worker."""
    return (
        re.search("^mcp_gateway_redis_up.* 1.0$", requests.get(f"{service.issuer}/metrics").text, re.MULTILINE)
        is not None
    )


def test_a_slow_redis_is_asked_each_time_and_its_answer_counts(place: Place, service: Service) -> None:
    tokens = service.log_in()
    (connection,) = service.connect_to_all()
    assert connection.verify(tokens.access_token) == 200
    place.proxy.delay = 0.2  # no heartbeat is answered in time
    eventually(lambda: not is_watching(service))
    assert connection.get("/readyz") == 200, "a router goes on asking this worker"
    assert connection.verify(tokens.access_token) == 200
    assert service.post("/revoke", {"token": tokens.refresh_token, "client_id": tokens.client_id}).status_code == 200
    assert connection.verify(tokens.access_token) == 401
    place.proxy.delay = 0
    eventually(lambda: is_watching(service))
    assert connection.verify(tokens.access_token) == 401
    connection.close()


def test_heartbeats_that_are_late_on_a_busy_machine_refuse_nobody(place: Place) -> None:
    service = place.start(workers=2, through_proxy=True)
    good, revoked = service.log_in(), service.log_in()
    connections = service.connect_to_all()
    place.proxy.delay = 0.12  # later than a heartbeat has to be answered, even on an idle machine
    with busy_cores():
        eventually(lambda: not is_watching(service))
        for connection in connections:
            assert [connection.verify(good.access_token) for _ in range(20)] == [200] * 20
            assert connection.get("/readyz") == 200
        form = {"token": revoked.refresh_token, "client_id": revoked.client_id}
        assert service.post("/revoke", form).status_code == 200
        assert [connection.verify(revoked.access_token) for connection in connections] == [401, 401]
        place.redis.signal(signal.SIGSTOP)
        try:
            assert [connection.verify(good.access_token) for connection in connections] == [503, 503]
        finally:
            place.redis.signal(signal.SIGCONT)
    place.proxy.delay = 0
    for connection in connections:
        eventually(lambda connection=connection: connection.verify(good.access_token) == 200)  # type: ignore[misc]
        connection.close()


@contextlib.contextmanager
def busy_cores() -> Iterator[None]:
    """Two processes for each core that never rest."""
    burners = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * len(os.sched_getaffinity(0)))
    ]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


@pytest.mark.parametrize("stage", [Stage.BEFORE, Stage.AFTER, Stage.HALFWAY], ids=lambda stage: stage.name.lower())
def test_a_reply_that_never_ends_is_asked_for_on_a_new_connection_and_spoils_no_later_one(
    place: Place, service: Service, stage: Stage
) -> None:
    tokens = service.log_in()
    (connection,) = service.connect_to_all()
    stop = place.proxy.hold(b"EXISTS", stage)
    assert connection.verify(tokens.access_token) == 200
    assert stop.reached.is_set()
    # The rest of that reply must not become the answer to another question.
    stop.released.set()
    assert service.post("/revoke", {"token": tokens.refresh_token, "client_id": tokens.client_id}).status_code == 200
    assert connection.verify(tokens.access_token) == 401
    assert connection.verify(service.log_in().access_token) == 200
    connection.close()


def test_a_code_whose_exchange_redis_left_hanging_is_not_granted_twice(place: Place, service: Service) -> None:
    service.log_in()
    code = obtain_code(service.issuer, service.resource)
    stop = place.proxy.hold(b"redeemed:", Stage.AFTER)
    assert code.redeem().status_code == 503
    stop.released.set()
    again = code.redeem()
    assert again.status_code == 400
    assert again.json()["error"] == "invalid_grant"


def test_a_connection_that_breaks_in_the_middle_of_an_exchange_costs_the_client_nothing(
    place: Place, service: Service
) -> None:
    service.log_in()
    code = obtain_code(service.issuer, service.resource)
    stop = place.proxy.hold(b"redeemed:", Stage.CUT)
    assert code.redeem().status_code == 200
    assert stop.reached.is_set()
    assert code.redeem().json()["error"] == "invalid_grant"


def test_a_redis_that_refuses_writes_grants_nothing(place: Place, service: Service) -> None:
    tokens = service.log_in()
    code = obtain_code(service.issuer, service.resource)
    with place.redis.client() as client:
        client.config_set("maxmemory", "1")  # as when its memory is full
        assert code.redeem().status_code == 503
        assert refresh(service.issuer, tokens).status_code == 503
        client.config_set("maxmemory", "0")
    assert code.redeem().status_code == 200
    assert refresh(service.issuer, tokens).status_code == 200


def test_a_redis_that_wants_a_password_is_an_outage_and_not_a_way_in(place: Place, service: Service) -> None:
    tokens = service.log_in()
    (connection,) = service.connect_to_all()
    with place.redis.client() as client:
        client.config_set("requirepass", "secret")
        client.execute_command("CLIENT", "KILL", "TYPE", "normal")
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    eventually(lambda: connection.verify(tokens.access_token) == 503)
    with redis.Redis.from_url(place.redis.url, password="secret") as client:
        client.config_set("requirepass", "")
    eventually(lambda: connection.verify(tokens.access_token) == 200)
    connection.close()


def test_each_outage_is_told_at_its_beginning_and_its_end(place: Place, service: Service) -> None:
    for count in (1, 2):
        place.redis.signal(signal.SIGSTOP)
        eventually(lambda count=count: service.log.read_text().count("redis.lost") >= count)  # type: ignore[misc]
        place.redis.signal(signal.SIGCONT)
        eventually(lambda count=count: service.log.read_text().count("redis.back") >= count)  # type: ignore[misc]


def test_requests_during_an_outage_do_not_fill_the_log(place: Place, service: Service) -> None:
    tokens = service.log_in()
    place.redis.stop()
    eventually(lambda: service.get("/readyz") == 503)
    for _ in range(50):
        assert refresh(service.issuer, tokens).status_code == 503
    assert service.log.read_text().count("ERROR auth_service.app.views.error_handlers: Redis is unavailable") < 25
    assert "Traceback" not in service.log.read_text()
